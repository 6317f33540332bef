"""Events of the server's own code beside those of pixels: "Email Sent" and "Email Opened", in one file and one order.

>>> from pixel_middleware import Source
>>> events = []
>>> source = Source(events.append, write_key="key-of-the-shop")
>>> sent = source.track("Email Sent", user_id="7", properties={"mail": "welcome", "recipients": 2})
>>> sent["properties"], sent["channel"]
({'mail': 'welcome', 'recipients': 2}, 'server')
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypedDict, Unpack
from uuid import UUID

from pixel_middleware import checks, settings
from pixel_middleware.errors import ConfigurationError, UnsendableEvent
from pixel_middleware.events import Event, Kind, Sink, Visit, make_event, timestamp, to_json
from pixel_middleware.wire.printable import is_blank
from pixel_middleware.wire.query import DEFAULT_LIMITS
from pixel_middleware.wire.urls import as_url_text


class SourceFields(TypedDict, total=False):
    """What `Source.track` and `Source.page` take by name, beside the name of the event."""

    anonymous_id: str | None
    """This or `user_id` is needed."""
    user_id: str | None
    properties: Mapping[str, Any] | None
    """What JSON can hold, copied; also datetimes with a time zone, dates, decimals and UUIDs, which become text as in
    a pixel's URL."""
    context: Mapping[str, Any] | None
    """Likewise."""
    message_id: str | None
    """Makes an event that is recorded again recognisable as the same; random if not given."""
    at: datetime | None
    """When it happened, with its time zone; now if not given."""


class Source:
    """Records events with `sink`, from any code of a server. Thread-safe if the sink is; those of this package are.

    When `track` or `page` returns, the sink has the event: with an event log, it is on disk. They block meanwhile; in
    an event loop, call them by `asyncio.to_thread`. There is no request, so processors do not see these events.

    Args:
        sink: takes one event; see `Sink`. Share the one of the `PixelMiddleware` for one order.
        write_key: of the source that these events belong to.
        max_depth, max_event_bytes: as those of `PixelMiddleware`.

    Raises `ConfigurationError` for a wrong option.

    New in 0.1.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        write_key: str,
        max_depth: int = DEFAULT_LIMITS.max_depth,
        max_event_bytes: int = DEFAULT_LIMITS.max_event_bytes,
    ) -> None:
        self._sink: Sink = checks.as_sink("sink", sink)
        if not isinstance(write_key, str) or is_blank(write_key):
            raise ConfigurationError.must_be("write_key", "a string that is not blank", write_key)
        self._write_key = write_key
        checked = settings.check(max_depth=max_depth, max_event_bytes=max_event_bytes)
        self._max_depth: int = checked["max_depth"]
        self._max_event_bytes: int = checked["max_event_bytes"]

    def track(self, event: str, **fields: Unpack[SourceFields]) -> Event:
        """Record that something happened, and return the event.

        Raises `UnsendableEvent` for what is wrong with it, and whatever the sink raises, which then does not have it.
        """
        if is_blank(_as_string("event", event)):
            raise UnsendableEvent("event is missing or blank")
        return self._record("track", {"event": event}, fields)

    def page(self, name: str | None = None, **fields: Unpack[SourceFields]) -> Event:
        """Record that a page, `name`, was seen; otherwise like `track`."""
        return self._record("page", {} if name is None else {"name": _as_string("name", name)}, fields)

    def _record(self, kind: Kind, sent: dict[str, Any], fields: SourceFields) -> Event:
        if unknown := fields.keys() - SourceFields.__annotations__.keys():
            known = ", ".join(SourceFields.__annotations__)
            raise TypeError(f"an event has no field {sorted(unknown)[0]!r}; its fields are {known}")
        sent |= {"writeKey": self._write_key, "channel": "server"}
        for field, name in _STRINGS.items():
            value = fields.get(field)
            if value is not None and not is_blank(_as_string(field, value)):
                sent[name] = value
        if not {"anonymousId", "userId"} & sent.keys():
            raise UnsendableEvent("anonymous_id and user_id are missing or blank; one of them is needed")
        at = fields.get("at")
        if at is not None:
            if not isinstance(at, datetime) or at.tzinfo is None:
                raise UnsendableEvent("at must be a datetime with a time zone, like datetime.now(UTC)")
            sent["originalTimestamp"] = timestamp(at.astimezone(UTC))
        for field in ("context", "properties"):
            given = fields.get(field) or {}
            if not isinstance(given, Mapping):
                raise UnsendableEvent(f"{field} must be a mapping")
            sent[field] = self._copied(field, given, 1)

        event = make_event(kind, sent, Visit())
        try:
            size = len(to_json(event).encode())
        except UnicodeEncodeError as error:
            raise UnsendableEvent("a name or value holds half of a surrogate pair, which is no text") from error
        if size > self._max_event_bytes:
            raise UnsendableEvent(f"the event is {size} bytes of JSON, and at most {self._max_event_bytes} are taken")
        checks.done(self._sink(event), "the sink")
        return event

    def _copied(self, name: str, value: Any, depth: int) -> Any:
        """A copy that is JSON, so that nobody changes the event of a sink that keeps it."""
        if depth > self._max_depth:
            raise UnsendableEvent(f"{name.partition('.')[0]} is nested more than {self._max_depth} deep")
        if value is None:
            return None
        if isinstance(value, str):
            return _as_string(name, value)
        if isinstance(value, int | float):
            as_url_text(name, value)  # refuses what is no finite number, or has too many digits
            return value
        if isinstance(value, Mapping):
            if not all(isinstance(key, str) and key and "\0" not in key for key in value):
                raise UnsendableEvent(f"the keys of {name} must be strings, not empty and without a NUL")
            return {key: self._copied(f"{name}.{key}", child, depth + 1) for key, child in value.items()}
        if isinstance(value, date | Decimal | UUID):
            return as_url_text(name, value)
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            return [self._copied(f"{name}.{index}", child, depth + 1) for index, child in enumerate(value)]
        raise UnsendableEvent(f"{name} is of type {type(value).__name__}, which JSON cannot hold; make it a string")


_STRINGS = {"anonymous_id": "anonymousId", "user_id": "userId", "message_id": "messageId"}


def _as_string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise UnsendableEvent(f"{name} must be a string, not {type(value).__name__}")
    if "\0" in value:
        raise UnsendableEvent(f"{name} holds a NUL, which no event can carry")
    return value
