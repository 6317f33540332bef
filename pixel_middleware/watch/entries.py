"""What the live view shows of one request: JSON of a bounded size, and what a feed may be asked for."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from pixel_middleware.events import Refusal

MOST_ENTRY = 40 << 10  # bytes of one; of a longer one the fields are cut, each
MOST_FIELD = 512
_SHARES = {"event": 24 << 10, "query": 8 << 10, "message": 2 << 10}


class Entry(NamedTuple):
    """A request, as it is shown."""

    at: float
    """When, as Unix time."""
    line: bytes
    """JSON without its opening brace."""
    event: str
    """The name of the event or the page, and so on: what `Wanted` compares."""
    reason: str
    anonymous_id: str


class Wanted(NamedTuple):
    """Which entries are asked for: those that meet all conditions; each that is `None` is none."""

    event: str | None = None
    reason: str | None = None
    anonymous_id: str | None = None

    def matches(self, entry: Entry) -> bool:
        """Whether `entry` is one of them; long values are compared as far as they are kept."""
        pairs = zip(self, (entry.event, entry.reason, entry.anonymous_id), strict=True)
        return all(asked is None or asked[:MOST_FIELD] == value for asked, value in pairs)


def of_event(at: float, event: Any, shown: str | None = None) -> Entry:
    """An event that was accepted; `shown` is its JSON, if it was made already. A processor may have made it anything.

    What is no text is shown in the event alone.
    """
    event = event if isinstance(event, dict) else {}
    if shown is None:
        try:
            shown = _ENCODER.encode(event)
        except Exception as error:  # whatever a processor put into it, and however that fails
            shown = f"this event cannot be shown: {type(error).__name__}"
    anonymous_id = _text_at(event, "anonymousId")
    fields = {
        "outcome": "accepted",
        "type": _text_at(event, "type"),
        "name": _text_at(event, "event") or _text_at(event, "name"),
        "who": _text_at(event, "userId") or anonymous_id,
        "url": _text_at(event, "context", "page", "url"),
        "address": _text_at(event, "context", "ip") or _text_at(event, "request_ip"),
        "key": _text_at(event, "writeKey"),
        "event": shown,
    }
    return _entry(at, fields, anonymous_id)


def of_stored(received_at: str, text: str, name: str) -> Entry:
    """An event as a log's file has it: its moment, its JSON, and its name."""
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):  # it is longer than what was read of it
        event = {"event": name}
    at = 0.0
    with suppress(ValueError):  # another program's idea of a moment
        at = datetime.fromisoformat(received_at).replace(tzinfo=UTC).timestamp()
    return of_event(at, event, text)


def of_refusal(refusal: Refusal) -> Entry:
    """A request that was refused, failed or dropped, with what its query says of it."""
    sent: dict[str, str] = {}
    with suppress(ValueError):  # more than 1,000 parameters
        pairs = parse_qsl(refusal.query, keep_blank_values=True, max_num_fields=1000)
        sent = dict(reversed(pairs))
    anonymous_id = sent.get("anonymousId", "")
    fields = {
        "outcome": refusal.kind,
        "name": sent.get("event") or sent.get("name") or "",
        "who": sent.get("userId") or anonymous_id,
        "url": sent.get("context.page.url", ""),
        "address": refusal.network,
        "agent": refusal.user_agent,
        "key": sent.get("writeKey", ""),
        "reason": refusal.reason,
        "by": refusal.cause,
        "message": refusal.message,
        "path": refusal.path,
        "query": refusal.query,
    }
    return _entry(refusal.at, fields, anonymous_id)


def _entry(at: float, fields: dict[str, str], anonymous_id: str) -> Entry:
    fields = {name: value for name, value in fields.items() if value}
    line = encoded(fields)
    if len(line) > MOST_ENTRY:
        line = encoded({name: _cut(value, _SHARES.get(name, MOST_FIELD)) for name, value in fields.items()})
    compared = (fields.get("name", ""), fields.get("reason", ""), anonymous_id)
    return Entry(at, b'"at":%d,%s' % (int(at * 1000), line[1:]), *(value[:MOST_FIELD] for value in compared))


def _text_at(value: Any, *names: str) -> str:
    """The text at these names, one inside the other; `""` if there is none. A client may send anything anywhere."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def _cut(value: str, most: int) -> str:
    """The beginning of `value` that takes at most so many bytes in JSON; what is longer loses up to half of that."""
    kept = value[:most]
    while len(encoded(kept)) > most:
        kept = kept[: len(kept) // 2]
    return kept if kept == value else f"{kept}…"


def encoded(value: Any) -> bytes:
    """As JSON. Half of a surrogate pair, which no UTF-8 has, stays what it is: an escape."""
    return _ENCODER.encode(value).encode("utf-8", "backslashreplace")


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)
