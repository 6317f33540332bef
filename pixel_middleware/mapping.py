"""Query string -> nested dict, by the rules of RudderStack's Pixel API.

    >>> map_query("track", "writeKey=k&anonymousId=a&event=Signup&properties.plan=pro")
    {'writeKey': 'k', 'anonymousId': 'a', 'event': 'Signup', 'properties': {'plan': 'pro'}}

Pure functions of their arguments, safe from any thread.
"""

from binascii import a2b_qp
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from pixel_middleware.errors import BadPixel
from pixel_middleware.events import Kind

Tree = dict[str, Any]

OBJECTS = frozenset({"context", "properties"})
"""Top-level names that hold other names and no value of their own."""

STRINGS = frozenset(
    {"writeKey", "anonymousId", "userId", "event", "name", "messageId", "channel", "originalTimestamp", "sentAt"}
)
"""Top-level names that hold a value and no other names."""

IGNORED = frozenset({"type", "receivedAt", "request_ip", "integrations"})
"""What a client may not choose: ours to say, or, for `integrations`, the data plane's."""

BLANK_IS_ABSENT = ("messageId", "channel", "originalTimestamp", "sentAt")
"""What the server fills in, so that a blank one (AMP sends `messageId=`) is as good as none."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one pixel may carry. A request over a limit is answered 400."""

    max_query_bytes: int = 32768  # 16 times the 2,000 bytes that mail clients keep of a URL
    max_params: int = 1000  # as rudder-server's own tools cap a pixel
    max_depth: int = 32  # likewise


DEFAULT_LIMITS = Limits()


def map_query(kind: Kind, query: str, limits: Limits = DEFAULT_LIMITS, *, require_anonymous_id: bool = True) -> Tree:
    """What the client sent, nested and checked.

    `query` is a WSGI `QUERY_STRING`: raw, still percent-encoded, one character for each byte. Raises `BadPixel`.
    """
    sent = nest(split_pairs(query, limits), limits.max_depth)
    _unquote_anonymous_id(sent)
    _require_names(kind, sent, require_anonymous_id)
    if kind == "page" and sent.get("name") == "":
        sent["name"] = "Unknown Page"
    for name in BLANK_IS_ABSENT:
        if _is_blank(sent, name):
            sent.pop(name, None)
    return sent


def split_pairs(query: str, limits: Limits = DEFAULT_LIMITS) -> list[tuple[str, str]]:
    """The decoded (name, value) pairs of a query string, in order of arrival. Raises `BadPixel`."""
    if len(query) > limits.max_query_bytes:
        raise BadPixel("query_too_long", f"the query string is longer than {limits.max_query_bytes} bytes")
    raw = [pair for pair in query.split("&") if pair]
    if len(raw) > limits.max_params:
        raise BadPixel("too_many_parameters", f"there are more than {limits.max_params} parameters")
    if "\0" in query or "%00" in query:
        raise BadPixel("invalid_character", "the query string holds a NUL (%00), which no event can carry")
    # One decode of all is several times as fast as one for each; the NUL between them decodes to itself.
    parts = [pair.replace("=", "\0", 1) if "=" in pair else f"{pair}\0" for pair in raw]
    decoded = iter(_decode("\0".join(parts)).split("\0")) if parts else iter(())
    return list(zip(decoded, decoded, strict=True))


def nest(pairs: Iterable[tuple[str, str]], max_depth: int = DEFAULT_LIMITS.max_depth) -> Tree:
    """Dotted names made into nested dicts and lists. Raises `BadPixel`.

    The first of a repeated name wins, except below `properties.`, where all values are kept, as a list.
    """
    tree: Tree = {}
    numbered = False
    for name, value in pairs:
        path = _split_name(name) if len(name) > _LONG_NAME else _remembered_split(name)
        if len(path) > max_depth:
            raise BadPixel("too_deep", f"the name {shorten(name)} has more than {max_depth} parts")
        if path[0] not in IGNORED:
            _put(tree, path, value, name)
            numbered = numbered or "0" in path
    if numbered:
        tree = {key: _with_lists(child, key not in OBJECTS) for key, child in tree.items()}
    return tree


def _decode(text: str) -> str:
    """`text` as `urllib.parse.unquote_plus` decodes it, in about a tenth of the time.

    Quoted-printable is percent-encoding with `=` for `%`, and has a decoder in C. Each escape that it takes
    shortens the text by two; if the length says that one was none (`%zz`), or a line break is about, which means
    something else there, urllib's decoder is asked. So the results are equal for every input.
    """
    # "replace" for a server that breaks PEP 3333 and hands over more than one byte a character.
    raw = text.replace("+", " ").encode("latin-1", "replace")
    escaped = raw.replace(b"=", b"=3D").replace(b"%", b"=")
    decoded = a2b_qp(escaped)
    if len(escaped) - len(decoded) != 2 * escaped.count(b"=") or b"\n" in raw or b"\r" in raw:
        decoded = unquote_to_bytes(raw)
    return decoded.decode("utf-8", "replace")


def _split_name(name: str) -> tuple[str, ...]:
    path = tuple(name.split("."))
    if "" in path:
        raise BadPixel(
            "invalid_name", f"the name {shorten(name)} is empty or has an empty part; write it like context.page.url"
        )
    if path[0] in OBJECTS and len(path) == 1:
        raise BadPixel("conflicting_names", f"{name} takes no value of its own; write it like {name}.title=...")
    if path[0] in STRINGS and len(path) > 1:
        raise BadPixel("conflicting_names", f"{path[0]} takes a value and no parts; write it like {path[0]}=...")
    return path


_LONG_NAME = 64  # what is remembered of names that clients make up is bounded, in number and in size
_remembered_split = lru_cache(maxsize=1024)(_split_name)


def _put(tree: Tree, path: tuple[str, ...], value: str, name: str) -> None:
    parent: Any = tree
    for part in path[:-1]:
        parent = parent.setdefault(part, {})
        if not isinstance(parent, dict):
            raise _conflict(name)
    last = path[-1]
    if last not in parent:
        parent[last] = value
    elif isinstance(parent[last], dict):
        raise _conflict(name)
    elif isinstance(parent[last], list):
        parent[last].append(value)
    elif path[0] == "properties":  # AMP sends arrays so
        parent[last] = [parent[last], value]


def _with_lists(node: Any, may_be_list: bool = True) -> Any:
    if not isinstance(node, dict):
        return node
    children = {key: _with_lists(child) for key, child in node.items()}
    order = [str(index) for index in range(len(children))]
    if may_be_list and children.keys() == set(order):
        return [children[key] for key in order]
    return children


def _unquote_anonymous_id(sent: Tree) -> None:
    # AMP's CLIENT_ID arrives in quotes from some pages; rudder-server strips one pair too.
    value = sent.get("anonymousId", "")
    if len(value) >= 2 and value[0] == value[-1] == '"':
        sent["anonymousId"] = value[1:-1]


def _require_names(kind: Kind, sent: Tree, require_anonymous_id: bool) -> None:
    if _is_blank(sent, "writeKey"):
        raise BadPixel("missing_write_key", "writeKey is missing; add writeKey=... with the key of your source")
    if _is_blank(sent, "anonymousId") and (require_anonymous_id or _is_blank(sent, "userId")):
        instead = "" if require_anonymous_id else " or userId=..."
        raise BadPixel(
            "missing_anonymous_id",
            f"anonymousId is missing; add anonymousId=...{instead} with an identifier of the visitor",
        )
    if kind == "track" and _is_blank(sent, "event"):
        raise BadPixel("missing_event", "event is missing; add event=... with the name of what happened")


def _is_blank(sent: Tree, name: str) -> bool:
    return not sent.get(name, "").strip()


def _conflict(name: str) -> BadPixel:
    return BadPixel(
        "conflicting_names", f"the name {shorten(name)} is used both for a value and for the names below it"
    )


def shorten(name: str) -> str:
    """A parameter's name fit for an error string: printable, on one line, at most 40 characters."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in name[:41])
    return f"'{printable}'" if len(name) <= 40 else f"'{printable[:39]}…'"
