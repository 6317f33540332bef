"""Pixel URLs and `<img>` tags for emails and pages: the inverse of `mapping`.

    >>> pixel_url("https://example.com", "track", write_key="k", anonymous_id="a", event="e", properties={"n": [1, 2]})
    'https://example.com/pixel/v1/track.gif?writeKey=k&anonymousId=a&event=e&properties.n.0=1&properties.n.1=2'

What a URL carries is text: numbers arrive as their shortest decimal form, `true` and `false` so, a
`datetime` as `2026-01-02T03:04:05.678Z`, a `date` as `2026-01-02`, and `None` not at all.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from html import escape
from typing import Any, Required, TypedDict, Unpack
from urllib.parse import quote, urlsplit
from uuid import UUID

from pixel_middleware.errors import BadPixel, UnsendableEvent
from pixel_middleware.events import Kind, timestamp
from pixel_middleware.wire.mapping import OBJECTS, map_query
from pixel_middleware.wire.query import Limits
from pixel_middleware.wire.signatures import SIGNATURE, sign

SENT_AT = "email_sent_at"
"""The property that carries `sent_at`. Not the event's own `sentAt`: by that, RudderStack corrects a client's clock."""

LONG_URL_BYTES = 2000  # mail clients and proxies cut or drop longer ones

_NO_LIMITS = Limits(max_query_bytes=1 << 30)
_STYLE = "display:block;border:0;width:1px;height:1px"


class PixelFields(TypedDict, total=False):
    """What `pixel_url` and `pixel_tag` take by name."""

    write_key: Required[str]
    anonymous_id: str | None
    """Needed, unless the endpoint takes a `user_id` for it (`require_anonymous_id=False`)."""
    user_id: str | None
    event: str | None
    """Of a track call, which needs it."""
    name: str | None
    """Of a page call."""
    properties: Mapping[str, Any] | None
    """Nested as you like; see the module for how values are written."""
    context: Mapping[str, Any] | None
    """Likewise."""
    message_id: str | None
    """Makes repeated loads of one URL recognisable as one event."""
    sent_at: datetime | None
    """When the mail goes out, with its time zone: becomes `properties.email_sent_at`, for `judge_open`, which believes
    it only in a signed URL."""
    image: bool
    """Answer with an image whatever the client says of itself: right for emails, and the default."""
    prefix: str
    """The endpoint's; `/pixel/v1` if not given."""
    signing_key: str | None
    """The secret that `processors.verify_signature` knows too."""


def pixel_url(base: str, kind: Kind, **fields: Unpack[PixelFields]) -> str:
    """The URL that records an event when it is loaded; its `fields` are those of `PixelFields`.

    `base` is where the app is mounted, `https://example.com`, or the endpoint itself, with its prefix; `kind` is
    `"page"` or `"track"`. Raises `UnsendableEvent` for what no URL can carry, and for what the endpoint
    would refuse but for its length. Warns if the URL is longer than `LONG_URL_BYTES`.

    New in 0.1.
    """
    if unknown := fields.keys() - PixelFields.__annotations__.keys():
        known = ", ".join(PixelFields.__annotations__)
        raise TypeError(f"a pixel has no field {sorted(unknown)[0]!r}; its fields are {known}")
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise UnsendableEvent("base must be a URL like https://example.com, without ? and #")
    if kind not in ("page", "track"):
        raise UnsendableEvent('kind must be "page" or "track"')

    properties = fields.get("properties") or {}
    sent_at = fields.get("sent_at")
    if sent_at is not None:
        if not isinstance(sent_at, datetime) or sent_at.tzinfo is None:
            raise UnsendableEvent("sent_at must be a datetime with a time zone, like datetime.now(UTC)")
        if SENT_AT in properties:
            raise UnsendableEvent(f"sent_at and properties.{SENT_AT} say the same; leave one out")
        properties = {**properties, SENT_AT: sent_at}
    anonymous_id = fields.get("anonymous_id")
    if anonymous_id is not None and len(anonymous_id) >= 2 and anonymous_id[0] == anonymous_id[-1] == '"':
        anonymous_id = f'"{anonymous_id}"'  # the mapping strips one pair of quotes, which AMP puts around
    pairs = [
        *_pairs("writeKey", fields.get("write_key")),
        *_pairs("anonymousId", anonymous_id),
        *_pairs("userId", fields.get("user_id")),
        *_pairs("event", fields.get("event")),
        *_pairs("name", fields.get("name")),
        *_pairs("messageId", fields.get("message_id")),
        *_pairs("context", fields.get("context") or None),
        *_pairs("properties", properties or None),
    ]
    signing_key = fields.get("signing_key")
    if signing_key == "":
        raise UnsendableEvent("signing_key is empty, so that anybody could sign")
    if signing_key is not None:
        pairs.append((SIGNATURE, sign(kind, pairs, signing_key)))
    query = "&".join(f"{_quote(name)}={_quote(value)}" for name, value in pairs)
    try:
        # What the endpoint would refuse is refused here, where its author sees it.
        map_query(kind, query, _NO_LIMITS, require_anonymous_id=anonymous_id is not None)
    except BadPixel as error:
        raise UnsendableEvent(_MISSING.get(error.reason, error.message)) from error

    prefix = fields.get("prefix", "/pixel/v1")
    base = base.rstrip("/").removesuffix(prefix)
    url = f"{base}{quote(prefix)}/{kind}{'.gif' if fields.get('image', True) else ''}?{query}"
    if len(url) > LONG_URL_BYTES:
        warnings.warn(
            f"this pixel URL has {len(url)} bytes, and mail clients cut URLs above {LONG_URL_BYTES}", stacklevel=2
        )
    return url


_MISSING = {
    "missing_write_key": "write_key is missing or blank",
    "missing_anonymous_id": "anonymous_id is missing or blank, and so is user_id, which could stand in for it",
    "missing_event": "event is missing or blank, and a track pixel needs it",
}
"""Errors of the endpoint in the words of who calls `pixel_url`."""


class Html(str):
    """HTML that templates put in as it is: Jinja2, Mako, Chameleon and Django ask for `__html__`."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def pixel_tag(base: str, kind: Kind, **fields: Unpack[PixelFields]) -> Html:
    """An invisible `<img>` for `pixel_url(base, kind, **fields)`, as HTML.

    New in 0.1.
    """
    url = escape(pixel_url(base, kind, **fields))
    return Html(
        f'<img src="{url}" width="1" height="1" alt=""'
        # Pixels on an http page would come without the page's address otherwise.
        f' referrerpolicy="no-referrer-when-downgrade" style="{_STYLE}">'
    )


def _pairs(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """The names and texts that say this value; none for `None`."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) and key and "." not in key for key in value):
            raise UnsendableEvent(f"the keys of {name} must be strings, not empty and without a dot")
        if not value:
            raise UnsendableEvent(f"{name} is empty, which a URL cannot say; leave it out")
        if name not in OBJECTS and set(value) == {str(index) for index in range(len(value))}:
            raise UnsendableEvent(
                f"{name} has the keys 0, 1, ... and would arrive as a list; use a list, or other keys"
            )
        for key, child in value.items():
            yield from _pairs(f"{name}.{key}", child)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        if name in OBJECTS:
            raise UnsendableEvent(f"{name} must be a mapping")
        if not value:
            raise UnsendableEvent(f"{name} is empty, which a URL cannot say; leave it out")
        if None in value:
            raise UnsendableEvent(f"{name} holds None, which a URL cannot say; leave it out")
        for index, child in enumerate(value):
            yield from _pairs(f"{name}.{index}", child)
    elif value is not None:
        yield name, as_url_text(name, value)


def as_url_text(name: str, value: Any) -> str:
    """The text of a value; see the module. Raises `UnsendableEvent`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        if not (value.is_finite() if isinstance(value, Decimal) else isinstance(value, int) or math.isfinite(value)):
            raise UnsendableEvent(f"{name} is not a finite number")
        try:
            return str(value)
        except ValueError as error:  # Python's own bound for whole numbers
            raise UnsendableEvent(f"{name} has too many digits") from error
    if isinstance(value, str | UUID):
        return str(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise UnsendableEvent(f"{name} is a datetime without a time zone; add tzinfo=UTC, or what it is in")
        return timestamp(value.astimezone(UTC))
    if isinstance(value, date):
        return value.isoformat()
    raise UnsendableEvent(f"{name} is of type {type(value).__name__}, which has no form in a URL; make it a string")


def _quote(text: str) -> str:
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        raise UnsendableEvent("a name or value holds half of a surrogate pair, which is no text") from error
