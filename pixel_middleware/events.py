"""The vocabulary: what an event is, and how the server's own facts complete what a client sent.

An event is a plain, JSON-serialisable `dict` in the shape that RudderStack gives it.
"""

import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict, TypeVar, cast

with warnings.catch_warnings():
    # WebOb imports the deprecated `cgi` on Python 3.11 and 3.12, and users' tests may make warnings errors.
    warnings.simplefilter("ignore", DeprecationWarning)
    from webob import Request

Kind = Literal["page", "track"]

MIRRORED_PAGE_FIELDS = ("path", "url", "referrer", "title")
"""What a page event carries in both `context.page` and `properties`."""


class _CommonFields(TypedDict):
    channel: str
    writeKey: str
    messageId: str
    anonymousId: NotRequired[str]
    """Absent only with `require_anonymous_id=False`, where `userId` may stand in."""
    userId: NotRequired[str]
    context: dict[str, Any]
    properties: dict[str, Any]
    integrations: dict[str, Any]
    originalTimestamp: str
    sentAt: str
    receivedAt: str
    request_ip: str


class PageEvent(_CommonFields):
    """A page view. Other top-level names that the client sent are kept beside these.

    New in 0.1.
    """

    type: Literal["page"]
    name: NotRequired[str]


class TrackEvent(_CommonFields):
    """Something that happened. Other top-level names that the client sent are kept beside these.

    New in 0.1.
    """

    type: Literal["track"]
    event: str


Event = PageEvent | TrackEvent
"""What a sink gets: a plain, JSON-serialisable `dict`. `event["type"]` tells which of the two it is.

New in 0.1.
"""

Sink = Callable[[Event], object]
"""Takes one event. It returned: accepted, the client reads 200. It raised: not accepted, 503.

Called from the thread that serves the request, so from several at once on a threaded server.

New in 0.1.
"""

Processor = Callable[[Event, Request], Event | None]
"""Changes or replaces an event before the sink sees it; `None` drops it. `BadPixel` refuses it with 400.

New in 0.1.
"""

_Called = TypeVar("_Called")


def never_waits(called: _Called) -> _Called:
    """Marks a processor, or what else a request calls, as one that waits for nothing: an event loop may call it."""
    setattr(called, "never_waits", True)  # noqa: B010 - no type has this attribute
    return called


def may_wait(called: object) -> bool:
    """Whether it is not marked so."""
    return not getattr(called, "never_waits", False)


class Visit(NamedTuple):
    """What the server knows of a request beside its query; an unknown fact is `""`."""

    address: str = ""
    user_agent: str = ""
    locale: str = ""
    referer: str = ""


class Refusal(NamedTuple):
    """A request whose event no sink has, as `PixelMiddleware(..., refused=)` hands it over.

    Of a dropped one there is the moment, the kind and the cause alone: a processor dropped it to forget it.

    New in 0.1.
    """

    at: float
    """When, as Unix time."""
    kind: Literal["rejected", "failed", "dropped"]
    reason: str = ""
    """As in `X-Pixel-Error`."""
    message: str = ""
    """What the client read."""
    path: str = ""
    query: str = ""
    """The raw query string, whole."""
    user_agent: str = ""
    network: str = ""
    """Of the client's address: /24 or /48."""
    cause: str = ""
    """The processor that dropped it or failed, or the sink's exception."""


def timestamp(moment: datetime) -> str:
    """`moment`, which is in UTC, as `2026-01-02T03:04:05.678Z`."""
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def make_event(kind: Kind, sent: Mapping[str, Any], visit: Visit, received_at: str | None = None) -> Event:
    """The event for what a client `sent` (as `mapping.map_query` returns it), completed from `visit`.

    Facts are filled in only where the client sent nothing. `sent` is not changed, but its `context`
    and `properties` become the event's. `received_at`, as `timestamp` makes it, is now if not given.
    """
    if received_at is None:
        milliseconds = time.time_ns() // 1_000_000
        # Adding 1,000 and cutting the 1 takes a third of the time of a format with leading zeros.
        received_at = f"{_second(milliseconds // 1000)}.{str(milliseconds % 1000 + 1000)[1:]}Z"
    event: dict[str, Any] = {
        "type": kind,
        "channel": "web",
        "messageId": sent.get("messageId") or new_message_id(),
        "originalTimestamp": received_at,
        "sentAt": received_at,
        **sent,
        "integrations": {"All": True},
        "receivedAt": received_at,
        "request_ip": visit.address,
    }
    context: dict[str, Any] = event.setdefault("context", {})
    properties: dict[str, Any] = event.setdefault("properties", {})
    for name, fact in (("ip", visit.address), ("userAgent", visit.user_agent), ("locale", visit.locale)):
        if fact and name not in context:
            context[name] = fact

    page = context.get("page", {})
    if page.__class__ is not dict:
        return cast(Event, event)  # the client's own idea of a page: not ours to mend
    if visit.referer and "url" not in page and (kind == "track" or "url" not in properties):
        page["url"] = visit.referer
    if kind == "page":
        for field in MIRRORED_PAGE_FIELDS:
            if field in page:
                if field not in properties:
                    properties[field] = page[field]
            elif field in properties:
                page[field] = properties[field]
    if page:
        context["page"] = page
    return cast(Event, event)


_DRAWS = 128  # so many ids' random bytes at once: asking the kernel is most of what an id costs

_drawn: tuple[int, list[bytes]] = (0, [])


def new_message_id() -> str:
    """A random UUID, as `uuid.uuid4()` makes it, in a quarter of its time. Thread-safe, and safe after a fork."""
    global _drawn
    pid, draws = _drawn
    try:
        # By the pid, since a server that forks in C runs no hook of Python's.
        raw = draws.pop() if pid == os.getpid() else b""
    except IndexError:
        raw = b""
    if not raw:
        fresh = os.urandom(16 * _DRAWS)
        draws = [fresh[start : start + 16] for start in range(0, len(fresh), 16)]
        raw = draws.pop()
        _drawn = (os.getpid(), draws)
    return as_uuid(raw, "4")


def as_uuid(raw: bytes, version: str) -> str:
    """16 bytes as a UUID of RFC 9562's variant and this version."""
    digits = raw.hex()
    variant = "89ab"[raw[8] >> 4 & 3]
    return f"{digits[:8]}-{digits[8:12]}-{version}{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    # Formatting is most of what a timestamp costs, and thousands of events share a second.
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def columns_of(event: Event) -> tuple[Any, Any, Any, Any, Any, Any]:
    """What a log keeps beside the JSON: `receivedAt`, type, write key, messageId, visitor, and the name."""
    fields: Mapping[str, Any] = event
    visitor = fields.get("anonymousId") or fields.get("userId") or ""
    # A page call may come with an `event`, and a track call with a `name`: fields like any others.
    name = fields.get("event" if fields["type"] == "track" else "name") or ""
    return fields["receivedAt"], fields["type"], fields["writeKey"], fields["messageId"], visitor, name


def to_json(event: Event) -> str:
    """The event as one line of JSON. Raises `TypeError` or `ValueError` if a processor put in what JSON cannot hold."""
    return _ENCODER.encode(event)


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
