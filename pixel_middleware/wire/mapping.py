"""Query string -> nested dict, by the rules of RudderStack's Pixel API.

    >>> map_query("track", "writeKey=k&anonymousId=a&event=Signup&properties.plan=pro")
    {'writeKey': 'k', 'anonymousId': 'a', 'event': 'Signup', 'properties': {'plan': 'pro'}}

Pure functions of their arguments, safe from any thread.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

from pixel_middleware.errors import BadPixel
from pixel_middleware.events import Kind
from pixel_middleware.wire.printable import shorten
from pixel_middleware.wire.query import DEFAULT_LIMITS, Limits, split
from pixel_middleware.wire.shapes import Shape, Tree

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


def map_query(
    kind: Kind,
    query: str,
    limits: Limits = DEFAULT_LIMITS,
    *,
    require_anonymous_id: bool = True,
    require_id: bool = True,
) -> Tree:
    """What the client sent, nested and checked.

    `query` is a WSGI `QUERY_STRING`: raw, still percent-encoded, one character for each byte. Without
    `require_anonymous_id` a `userId` may stand in; without `require_id` both may be missing. Raises `BadPixel`.
    """
    names, values = split(query, limits)
    shape = _shape(tuple(names), limits.max_depth) if len(names) <= _MOST_NAMES else None
    sent = nest(zip(names, values, strict=True), limits.max_depth) if shape is None else shape.fill(values)
    _unquote_anonymous_id(sent)
    _require_names(kind, sent, require_anonymous_id, require_id)
    if kind == "page" and sent.get("name") == "":
        sent["name"] = "Unknown Page"
    for name in BLANK_IS_ABSENT:
        if _is_blank(sent, name):
            sent.pop(name, None)
    return sent


def nest(pairs: Iterable[tuple[str, str]], max_depth: int = DEFAULT_LIMITS.max_depth) -> Tree:
    """Dotted names made into nested dicts and lists. Raises `BadPixel`.

    The first of a repeated name wins, except below `properties.`, where all values are kept, as a list.
    """
    tree: Tree = {}
    nodes = {"": tree}  # by their dotted names, so that siblings need not walk the same way again
    for name, value in pairs:
        parent, last = _split_name(name)
        if parent is None:
            continue
        node = nodes.get(parent)
        if node is None:
            node = nodes[parent] = _walk(tree, parent, name, max_depth)
        if last not in node:
            node[last] = value
        else:
            _repeat(node, last, value, name)
    if any("0" in node or ".0" in parent for parent, node in nodes.items()):
        tree = {key: _with_lists(child, key not in OBJECTS) for key, child in tree.items()}
    return tree


def _split_name(name: str) -> tuple[str | None, str]:
    """The dotted name of the parent, `""` for none, and the last part. An ignored name has `None` for parent."""
    path = name.split(".")
    if "" in path:
        raise BadPixel(
            "invalid_name", f"the name {shorten(name)} is empty or has an empty part; write it like context.page.url"
        )
    if path[0] in OBJECTS and len(path) == 1:
        raise BadPixel("conflicting_names", f"{name} takes no value of its own; write it like {name}.title=...")
    if path[0] in STRINGS and len(path) > 1:
        raise BadPixel("conflicting_names", f"{path[0]} takes a value and no parts; write it like {path[0]}=...")
    return None if path[0] in IGNORED else ".".join(path[:-1]), path[-1]


_MOST_NAMES = 32


@lru_cache(maxsize=256)
def _shape(names: tuple[str, ...], max_depth: int) -> Shape | None:
    """The shape of names that are plain: none ignored, repeated or numbered. Raises as `nest` does."""
    nest(zip(names, names, strict=True), max_depth)
    shape = Shape()
    for name in names:
        parent, last = _split_name(name)
        if parent is None or names.count(name) > 1 or "0" in name.split("."):
            return None
        shape.add(parent, last)
    return shape


def _walk(tree: Tree, parent: str, name: str, max_depth: int) -> Tree:
    """The dict at `parent`, made where it is missing."""
    path = parent.split(".")
    if len(path) >= max_depth:
        raise BadPixel("too_deep", f"the name {shorten(name)} has more than {max_depth} parts")
    node: Any = tree
    for part in path:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise _conflict(name)
    return cast(Tree, node)


def _repeat(node: Tree, last: str, value: str, name: str) -> None:
    if isinstance(node[last], dict):
        raise _conflict(name)
    if isinstance(node[last], list):
        node[last].append(value)
    elif name.startswith("properties."):  # AMP sends arrays so
        node[last] = [node[last], value]


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


def _require_names(kind: Kind, sent: Tree, require_anonymous_id: bool, require_id: bool) -> None:
    if _is_blank(sent, "writeKey"):
        raise BadPixel("missing_write_key", "writeKey is missing; add writeKey=... with the key of your source")
    if require_id and _is_blank(sent, "anonymousId") and (require_anonymous_id or _is_blank(sent, "userId")):
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
