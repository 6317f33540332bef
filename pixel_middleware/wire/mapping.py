"""Query string -> nested dict, by the rules of RudderStack's Pixel API.

    >>> map_query("track", "writeKey=k&anonymousId=a&event=Signup&properties.plan=pro")
    {'writeKey': 'k', 'anonymousId': 'a', 'event': 'Signup', 'properties': {'plan': 'pro'}}

Pure functions of their arguments, safe from any thread.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from pixel_middleware.errors import BadPixel, Reason
from pixel_middleware.events import Kind
from pixel_middleware.wire.printable import is_blank, shorten
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

PATH_OF_URL = "context.page.url"
"""As `context.page.path`: the path of the URL that this names, which need not be sent twice. No path is spelt so."""

_PATH = re.compile(r"[a-z]+://[^/?#]*([^?#]*)", re.IGNORECASE)

_MOST_NAMES = 32
_MOST_CHARACTERS = 2048  # of all names that the cache of shapes remembers together: 256 times that is its memory


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
    shape = None
    if len(names) <= _MOST_NAMES and (len(query) <= _MOST_CHARACTERS or sum(map(len, names)) <= _MOST_CHARACTERS):
        shape = _shape(tuple(names), limits.max_depth, limits.max_params)
    sent = nest(zip(names, values, strict=True), limits) if shape is None else shape.fill(values)

    anonymous_id: str = sent.get("anonymousId", "")
    if len(anonymous_id) >= 2 and anonymous_id[0] == anonymous_id[-1] == '"':
        # AMP's CLIENT_ID arrives in quotes from some pages; rudder-server strips one pair too.
        sent["anonymousId"] = anonymous_id = anonymous_id[1:-1]
    if is_blank(sent.get("writeKey", "")):
        raise _missing("missing_write_key", "writeKey is missing; add writeKey=... with the key of your source", sent)
    if require_id and is_blank(anonymous_id) and (require_anonymous_id or is_blank(sent.get("userId", ""))):
        instead = "" if require_anonymous_id else " or userId=..."
        right = f"anonymousId is missing; add anonymousId=...{instead} with an identifier of the visitor"
        raise _missing("missing_anonymous_id", right, sent)
    if kind == "track" and is_blank(sent.get("event", "")):
        raise _missing("missing_event", "event is missing; add event=... with the name of what happened", sent)
    if kind == "page" and sent.get("name") == "":
        sent["name"] = "Unknown Page"
    for name in BLANK_IS_ABSENT:
        if name in sent and is_blank(sent[name]):
            del sent[name]
    page = sent.get("context", {}).get("page")
    if page.__class__ is dict and page.get("path") == PATH_OF_URL:
        found = _PATH.match(str(page.get("url")))
        if found:
            page["path"] = found[1] or "/"
        else:
            del page["path"]
    return sent


def nest(pairs: Iterable[tuple[str, str]], limits: Limits = DEFAULT_LIMITS) -> Tree:
    """Dotted names made into nested dicts and lists. Raises `BadPixel`.

    The first of a repeated name wins, except below `properties.`, where all values are kept, as a list.
    """
    tree: Tree = {}
    is_numbered = False
    objects = 0
    for name, value in pairs:
        path = name.split(".")
        first = path[0]
        if "" in path:
            where = shorten(name)
            raise BadPixel(
                "invalid_name", f"the name {where} is empty or has an empty part; write it like context.page.url"
            )
        if len(path) == 1 and first in OBJECTS:
            raise BadPixel("conflicting_names", f"{name} takes no value of its own; write it like {name}.title=...")
        if len(path) > 1 and first in STRINGS:
            raise BadPixel("conflicting_names", f"{first} takes a value and no parts; write it like {first}=...")
        if first in IGNORED:
            continue
        if len(path) > limits.max_depth:
            raise BadPixel("too_deep", f"the name {shorten(name)} has more than {limits.max_depth} parts")

        last = path.pop()
        is_numbered = is_numbered or "0" in path or last == "0"
        node = tree
        known = 0  # so many parts of the path are there already
        for part in path:
            child = node.get(part)
            if child is None:
                break
            if child.__class__ is not dict:
                raise _conflict(name)
            node = child
            known += 1
        if known < len(path):
            branch: Any = value
            for part in (last, *path[:known:-1]):
                branch = {part: branch}
            node[path[known]] = branch
            objects += len(path) - known
            if objects > 4 * limits.max_params:
                most = 4 * limits.max_params
                raise BadPixel("too_many_parameters", f"the names nest into more than {most} objects")
        elif last not in node:
            node[last] = value
        elif node[last].__class__ is dict:
            raise _conflict(name)
        elif node[last].__class__ is list:
            node[last].append(value)
        elif first == "properties":  # AMP sends arrays so
            node[last] = [node[last], value]

    if is_numbered:
        for name, child in tree.items():
            if child.__class__ is dict:
                _make_lists(child)
                if name not in OBJECTS:
                    tree[name] = _as_list(child)
    return tree


def _make_lists(node: Tree) -> None:
    """Replaces each dict below `node` whose keys are 0 to n-1 by a list."""
    for key, child in node.items():
        if child.__class__ is dict:
            _make_lists(child)
            node[key] = _as_list(child)


def _as_list(node: Tree) -> Tree | list[Any]:
    if str(len(node) - 1) not in node:  # which says it of nearly all, in less time
        return node
    items = [node.get(str(index)) for index in range(len(node))]
    return node if None in items else items


@lru_cache(maxsize=256)
def _shape(names: tuple[str, ...], max_depth: int, max_params: int) -> Shape | None:
    """The shape of names that are plain: none ignored, repeated or numbered. Raises as `nest` does."""
    nest(zip(names, names, strict=True), Limits(max_depth=max_depth, max_params=max_params))
    parts = [name.split(".") for name in names]
    is_plain = len(set(names)) == len(names) and not any(path[0] in IGNORED or "0" in path for path in parts)
    return Shape(names) if is_plain else None


def _missing(reason: Reason, right: str, sent: Tree) -> BadPixel:
    """Says what happened rather than what is missing, where the query shows it."""
    if any(name.startswith("amp;") for name in sent):
        right = (
            "a name begins with amp; because & was escaped twice: write & between parameters, or &amp; in HTML, once"
        )
    elif "data" in sent:
        right = "the event is in data=..., which is not read; give each field a parameter: writeKey=...&anonymousId=..."
    return BadPixel(reason, right)


def _conflict(name: str) -> BadPixel:
    return BadPixel(
        "conflicting_names", f"the name {shorten(name)} is used both for a value and for the names below it"
    )
