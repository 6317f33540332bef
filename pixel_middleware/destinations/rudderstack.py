"""A sender that forwards to a RudderStack data plane (extra `[rudderstack]`).

Speaks rudder-server's `POST /v1/batch`: one write key a request, all or nothing, 4,000 KiB at most.
"""

import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from pixel_middleware.destinations.base import Destination
from pixel_middleware.errors import ConfigurationError, Rejected, RetryLater
from pixel_middleware.events import Event, timestamp, to_json
from pixel_middleware.runtime import forks
from pixel_middleware.runtime.extras import needed_by

MAX_BODY_BYTES = 500_000  # of the 4,000 KiB that rudder-server takes: a retry costs little, a batch saves enough
UNKNOWN_KEY_RETRY_S = 60.0
_PREFIX, _SUFFIX = b'{"batch":[', b"]}"


class RudderStack(Destination, forks.ForkAware):
    """Sends events to the data plane at `data_plane_url`, as its own SDKs would have sent them.

    An event arrives unchanged, but for `writeKey` (which moves to the authorisation) and `sentAt`: it is moved
    on by the time that the event waited here, so that RudderStack's clock correction comes out as if it
    had been sent at once.

    408, 429, 5xx and network errors are retried (`Retry-After` is honoured); 400 and 413 are
    rejected; anything else, above all 401 and 404 for an unknown write key, sets this key's events aside.
    """

    def __init__(self, data_plane_url: str, *, gzip: bool = True, timeout_s: float = 10) -> None:
        parts = urlsplit(data_plane_url if isinstance(data_plane_url, str) else "")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError.must_be(
                "data_plane_url", "a URL like https://hosted.rudderlabs.com", data_plane_url
            )
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or timeout_s <= 0:
            raise ConfigurationError.must_be("timeout_s", "a positive number of seconds", timeout_s)
        with needed_by("RudderStack", "urllib3", extra="rudderstack"):
            import urllib3
        self._urllib3 = urllib3
        self._url = data_plane_url.rstrip("/") + "/v1/batch"
        self._gzip = gzip
        self._timeout_s = timeout_s
        self._start_afresh()
        forks.watch(self)

    def lane(self, event: Event) -> str:
        """The write key: one that the data plane does not know must not hold back the others."""
        return event["writeKey"]

    def send(self, events: Sequence[Event]) -> None:
        """Return once the data plane has stored all events. Raises `RetryLater` or `Rejected`."""
        by_key: dict[str, list[bytes]] = {}
        for event in events:
            by_key.setdefault(event["writeKey"], []).append(_as_sent(event))
        for write_key, bodies in by_key.items():
            for body in _batches(bodies):
                self._post(write_key, body)

    def _post(self, write_key: str, body: bytes) -> None:
        headers = self._urllib3.make_headers(basic_auth=f"{write_key}:".encode().decode("latin-1"))
        headers["Content-Type"] = "application/json"
        if self._gzip:
            headers["Content-Encoding"] = "gzip"
            body = zlib.compress(body, level=6, wbits=31)
        try:
            response = self._pool.request(
                "POST", self._url, body=body, headers=headers, timeout=self._timeout_s, retries=False, redirect=False
            )
        except self._urllib3.exceptions.HTTPError as error:
            raise RetryLater(f"{self._url}: {type(error).__name__}") from error
        if response.status != 200:
            raise _refusal(response)

    def _start_afresh(self) -> None:
        self._pool: Any = self._urllib3.PoolManager(maxsize=1)

    def after_fork_in_child(self) -> None:
        """The child makes connections of its own."""
        self._start_afresh()


def _refusal(response: Any) -> RetryLater | Rejected:
    status = response.status
    message = f"HTTP {status}: {response.data[:200].decode('utf-8', 'replace').strip()}"
    if status in (400, 413):
        return Rejected(message)
    if status in (408, 429) or status >= 500:
        return RetryLater(message, after=_seconds(response.headers.get("Retry-After")))
    return RetryLater(message, after=UNKNOWN_KEY_RETRY_S, hold=True)


def _seconds(retry_after: str | None) -> float | None:
    """What a `Retry-After` asks for, which is a number of seconds or a date."""
    try:
        if retry_after is None or retry_after.isdecimal():
            return None if retry_after is None else float(retry_after)
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a time zone
        return None


def _batches(bodies: list[bytes]) -> Iterator[bytes]:
    """Request bodies of at most `MAX_BODY_BYTES`, but for an event that is larger by itself."""
    batch: list[bytes] = []
    size = 0
    for body in bodies:
        if batch and size + len(body) > MAX_BODY_BYTES:
            yield _PREFIX + b",".join(batch) + _SUFFIX
            batch, size = [], 0
        batch.append(body)
        size += len(body) + 1
    yield _PREFIX + b",".join(batch) + _SUFFIX


def _as_sent(event: Event) -> bytes:
    sent: Any = {name: value for name, value in event.items() if name != "writeKey"}
    sent["sentAt"] = _moved_on(event["sentAt"], event["receivedAt"])
    # Without one of its own, rudder-server would give it the address of the event before.
    sent.setdefault("request_ip", "")
    return to_json(sent).encode()


def _moved_on(sent_at: str, received_at: str) -> str:
    """`sent_at`, by the client's clock, plus the time that passed here since `received_at`."""
    now = datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(sent_at)
        moved = moment.replace(tzinfo=moment.tzinfo or UTC) + (now - datetime.fromisoformat(received_at))
        return timestamp(moved.astimezone(UTC))
    except (ValueError, OverflowError):  # the client's text is no moment
        return timestamp(now)
