"""Sends to a RudderStack data plane (extra `[rudderstack]`).

Speaks rudder-server's `POST /v1/batch`: one write key a request, all or nothing, 4,000 KiB at most.
"""

import base64
import re
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

from pixel_middleware.destinations.base import Record, RecordDestination, Undelivered
from pixel_middleware.destinations.http import Part, Peer, post_in_bodies, refusal
from pixel_middleware.errors import RetryLater
from pixel_middleware.events import timestamp, to_json
from pixel_middleware.wire.printable import is_blank

NEVER = (400, 413)
_IDS = ("anonymousId", "userId")


class RudderStack(RecordDestination):
    """Sends events to the data plane at `data_plane_url`, as its own SDKs would have sent them; a lane is a write key.

    An event arrives unchanged, but for three fields. `writeKey` moves to the authorisation. `sentAt` is moved on by the
    time that the event waited here, so that RudderStack's clock correction comes out as if it had been sent at once;
    one that is no ISO date, no RFC 2822 date and no Unix time (in s, ms, us or ns) is left out. `request_ip` is empty:
    rudder-server writes that of a request's last event over all others of the request; `context.ip` is the visitor's.

    408, 429, 5xx and no answer within `timeout_s` are retried (`Retry-After` is honoured); events that get 400 or 413
    are rejected, as are those whose ids rudder-server would take for blank; 401 and 404, for an unknown write key, hold
    this key's events. docs/why/delivery.md says what becomes of an event that alone gets any other answer.
    `max_per_second`: see `Destination`.

    New in 0.1.
    """

    def __init__(
        self, data_plane_url: str, *, gzip: bool = True, timeout_s: float = 10, max_per_second: float | None = None
    ) -> None:
        url = data_plane_url.rstrip("/") + "/v1/batch" if isinstance(data_plane_url, str) else data_plane_url
        self._peer = Peer(
            url,
            option="data_plane_url",
            example="https://hosted.rudderlabs.com",
            timeout_s=timeout_s,
            who="RudderStack",
            extra="rudderstack",
        )
        self.max_per_second = max_per_second
        self._gzip = gzip

    def __str__(self) -> str:
        """Where it sends to, without secrets."""
        return str(self._peer)

    def lane_of(self, record: Record) -> str:
        """The write key: one that the data plane does not know must not hold back the others."""
        return record.write_key

    def deliver(self, records: Sequence[Record]) -> None:
        """Return once the data plane has stored all. Raises `RetryLater` or `Rejected`, by name."""

        def post(write_key: str, parts: Sequence[Part]) -> None:
            credentials = base64.b64encode(f"{write_key}:".encode()).decode()
            headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
            body = b'{"batch":[' + b",".join(text for _, text in parts) + b"]}"
            if self._gzip:
                headers["Content-Encoding"] = "gzip"
                body = zlib.compress(body, level=6, wbits=31)
            status, text, retry_after = self._peer.post(body, headers)
            if status != 200:
                raise refusal(status, text, retry_after, never=NEVER, hold=True)

        undelivered = Undelivered()
        now = datetime.now(UTC)
        by_key: dict[str, list[Part]] = {}
        for record in records:
            if is_blank(record.visitor) and all(is_blank(str(record.event.get(name) or "")) for name in _IDS):
                undelivered.reject(record, "anonymousId and userId are blank to rudder-server")
            else:
                by_key.setdefault(record.write_key, []).append((record, as_sent(record, now).encode()))
        waiting = list(by_key.items())
        try:
            while waiting:
                write_key, parts = waiting.pop(0)
                post_in_bodies(parts, partial(post, write_key), undelivered)
        except RetryLater as error:  # the data plane is down: what follows would only wait for it, too
            undelivered.retry([record for _, parts in waiting for record, _ in parts], error)
        undelivered.raise_if_any()

    def close(self) -> None:
        """Close the connection."""
        self._peer.close()


def as_sent(record: Record, now: datetime) -> str:
    """The JSON that is sent for a record: see `RudderStack`."""
    sent: Any = {name: value for name, value in record.event.items() if name not in ("writeKey", "sentAt")}
    sent["request_ip"] = ""
    moved = moved_on(record.event.get("sentAt"), record.received_at, now)
    if moved is not None:
        sent["sentAt"] = moved
    return to_json(sent)


_ISO = re.compile(r"\d{4}-\d\d-\d\d")
_RFC_2822 = re.compile(
    r"(?:[A-Z][a-z]{2}, )?\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d(?::\d\d)? (?:[+-]\d{4}|GMT|UTC|UT|Z)"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PER_SECOND = {10: 1, 13: 1000, 16: 1_000_000, 19: 1_000_000_000}
"""What a Unix time counts in, by its number of digits: so rudder-server tells them apart."""


def moved_on(sent_at: Any, received_at: str, now: datetime) -> str | None:
    """`sent_at`, by the client's clock, plus the time since `received_at` by ours; `None` if it is no moment."""
    if sent_at == received_at:
        return timestamp(now)
    try:
        text = str(sent_at).strip()
        if text.isascii() and text.isdigit() and len(text) in _PER_SECOND:
            moment = _EPOCH + timedelta(microseconds=int(text) * 1_000_000 // _PER_SECOND[len(text)])
        elif _ISO.match(text):
            moment = datetime.fromisoformat(text)
        elif _RFC_2822.fullmatch(text):
            moment = parsedate_to_datetime(text)
        else:
            return None
        moved = moment.replace(tzinfo=moment.tzinfo or UTC) + (now - datetime.fromisoformat(received_at))
        return timestamp(moved.astimezone(UTC))
    except (ValueError, OverflowError):
        return None
