"""A slow, plain reference of the mapping, and queries without end to hold the real one to it.

    python tests/fuzzing.py 10000000          # so many inputs, of a new seed; some 10,000 a second and core
    python tests/fuzzing.py 1000 --seed 7     # the same ones again

`test_fuzz.py` runs a few thousand with every test run, and as many drawn by Hypothesis.
"""

import argparse
import logging
import random
import sys
import time
import unicodedata
from urllib.parse import unquote_to_bytes

from pixel_middleware import PixelMiddleware
from pixel_middleware.errors import BadPixel
from pixel_middleware.events import to_json
from pixel_middleware.wire.answers import GIF
from pixel_middleware.wire.mapping import map_query
from pixel_middleware.wire.query import Limits

LIMITS = Limits(max_query_bytes=600, max_params=12, max_depth=5, max_event_bytes=4096)
"""Small, so that short queries reach them."""


def reference(kind, query, require_anonymous_id=True, limits=LIMITS):
    """What `map_query` returns for a query, or why it refuses it, by the rules of docs/reference/events.md."""
    if len(query) > limits.max_query_bytes:
        return "query_too_long"
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    if len(pairs) > limits.max_params:
        return "too_many_parameters"
    decoded = [(decode(name), decode(value)) for name, _, value in pairs]
    if any("\0" in name + value for name, value in decoded):
        return "invalid_character"

    tree = {}
    repeated = {}  # the lists that a repeated name made, by its path
    objects = 0
    for name, value in decoded:
        path = name.split(".")
        if "" in path:
            return "invalid_name"
        if name in ("context", "properties"):
            return "conflicting_names"
        texts = "writeKey anonymousId userId event name messageId channel originalTimestamp sentAt".split()  # noqa: SIM905
        if len(path) > 1 and path[0] in texts:
            return "conflicting_names"
        if path[0] in ("type", "receivedAt", "request_ip", "integrations"):
            continue
        if len(path) > limits.max_depth:
            return "too_deep"
        node = tree
        for part in path[:-1]:
            if part not in node:
                node[part] = {}
                objects += 1
            node = node[part]
            if not isinstance(node, dict):
                return "conflicting_names"
        if objects > 4 * limits.max_params:
            return "too_many_parameters"
        last = path[-1]
        if last not in node:
            node[last] = value
        elif isinstance(node[last], dict):
            return "conflicting_names"
        elif name.startswith("properties."):
            node[last] = repeated.setdefault(name, [node[last]])
            node[last].append(value)

    for name in tree:
        if name in ("context", "properties"):
            tree[name] = {key: listed(child) for key, child in tree[name].items()}
        else:
            tree[name] = listed(tree[name])
    return checked(kind, tree, require_anonymous_id)


def decode(text):
    return unquote_to_bytes(text.replace("+", " ").encode("latin-1")).decode("utf-8", "replace")


def listed(node):
    if not isinstance(node, dict):
        return node
    children = {key: listed(child) for key, child in node.items()}
    numbers = [str(number) for number in range(len(children))]
    return [children[key] for key in numbers] if sorted(children) == sorted(numbers) else children


def checked(kind, tree, require_anonymous_id):
    given = tree.get("anonymousId", "")
    if len(given) > 1 and given.startswith('"') and given.endswith('"'):
        tree["anonymousId"] = given[1:-1]
    if blank(tree, "writeKey"):
        return "missing_write_key"
    if blank(tree, "anonymousId") and (require_anonymous_id or blank(tree, "userId")):
        return "missing_anonymous_id"
    if kind == "track" and blank(tree, "event"):
        return "missing_event"
    if kind == "page" and tree.get("name") == "":
        tree["name"] = "Unknown Page"
    for name in ("messageId", "channel", "originalTimestamp", "sentAt"):
        if blank(tree, name):
            tree.pop(name, None)
    return tree


def blank(tree, name):
    fillers = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
    return all(unicodedata.category(letter)[0] in "CZ" or letter in fillers for letter in tree.get(name, ""))


def outcome_of(kind, query, require_anonymous_id):
    """What `map_query` does, in the terms of `reference`."""
    try:
        return map_query(kind, query, LIMITS, require_anonymous_id=require_anonymous_id)
    except BadPixel as error:
        return error.reason


def check(kind, query, require_anonymous_id=True):
    """The mapping is the reference's, also where the shape of the names is remembered. Returns it."""
    expected = reference(kind, query, require_anonymous_id)
    for _ in range(2):
        assert outcome_of(kind, query, require_anonymous_id) == expected, (kind, query, require_anonymous_id)
    return expected


EVENTS = []
APP = PixelMiddleware(
    lambda environ, start_response: [],
    EVENTS.append,
    max_query_bytes=LIMITS.max_query_bytes,
    max_params=LIMITS.max_params,
    max_depth=LIMITS.max_depth,
    max_event_bytes=LIMITS.max_event_bytes,
)


def check_request(method, path, query, headers):
    """What a client is answered, and what reaches the sink, follows from the reference. Returns the status."""
    kind = path.removesuffix(".gif")
    environ = {"REQUEST_METHOD": method, "PATH_INFO": f"/pixel/v1/{path}", "QUERY_STRING": query, **headers}
    answers = []
    EVENTS.clear()
    body = b"".join(APP(environ, lambda status, headers, exc_info=None: answers.append((status, dict(headers)))))
    ((status, told),) = answers
    what = (method, path, query, headers, status, told)
    expected = reference(kind, query)
    reason = told.get("X-Pixel-Error")
    if method == "OPTIONS":
        assert (status, reason, body, EVENTS) == ("204 No Content", None, b"", []), what
    elif method not in ("GET", "HEAD"):
        assert (status[:3], reason, EVENTS) == ("405", "method_not_allowed", []), what
    elif isinstance(expected, str):
        assert (status[:3], reason, EVENTS) == ("400", expected, []), what
    elif reason is not None:
        assert (status[:3], reason, EVENTS) == ("400", "event_too_long", []), what
    else:
        assert (status, len(EVENTS)) == ("200 OK", method == "GET"), what
        if EVENTS:
            assert len(to_json(EVENTS[0]).encode()) <= LIMITS.max_event_bytes, what
            assert {name: EVENTS[0][name] for name in expected if name not in ("context", "properties")} == {
                name: expected[name] for name in expected if name not in ("context", "properties")
            }, what
    if method == "HEAD" or method == "OPTIONS":
        assert body == b"", what
    elif told["Content-Type"] == "image/gif":
        assert body == GIF, what
    else:
        assert body.decode().isprintable(), what
    assert all(value.isprintable() and value.isascii() for value in told.values()), what
    return status[:3]


NAMES = """writeKey anonymousId userId event name messageId channel originalTimestamp sentAt type receivedAt request_ip
integrations context properties context.page.url context.page properties.url properties.path context.ip utm __proto__
properties.p.0 properties.p.1 properties.p.0.sku properties.p.1.sku properties.0 context.0 context.a.0 a.0 a.0.0 a.1 a.b
a properties.tag properties.tag.x amp;event data signature 0 00 -1 %61 %2e a%2Eb a..b .a a. writeKey.x""".split()  # noqa: SIM905

VALUES = """k a e 1 %22a%22 %22%22 %22 %C3%A9 %c3 %ff %E2%80%8B %EF%BB%BF %E3%85%A4 %01 %0a + %20 %2B %26 %3D %25 %
%4 %zz %%41 = == ; x=y \xe9 \xff \x01 %F0%9F%98%80 https%3A%2F%2Fshop.example%2F""".split()  # noqa: SIM905

REQUIRED = ["writeKey=k", "anonymousId=a", "event=e"]
METHODS = ["GET", "GET", "GET", "GET", "HEAD", "OPTIONS", "POST", "get", ""]
HEADERS = {
    "HTTP_USER_AGENT": ["", "Mozilla/5.0", "\xff" * 1500, "\x01\r\n", "é".encode().decode("latin-1") * 600],
    "HTTP_REFERER": ["", "https://shop.example/", "x" * 5000, "\x01" * 400, "\xc3"],
    "HTTP_ACCEPT_LANGUAGE": ["", "*", "en-GB;q=0.9, de", "," * 5000, "\xe4" * 70],
    "HTTP_ACCEPT": ["", "*/*", "image/webp,*/*", "text/html,image/webp"],
    "HTTP_SEC_FETCH_DEST": ["image", "empty", "document", "\x00"],
    "HTTP_X_FORWARDED_FOR": ["1.2.3.4", "," * 3000],
    "REMOTE_ADDR": ["192.0.2.1", "2001:db8::1", "", "nonsense"],
}


def random_query(chance):
    """Mostly pairs of names and values that matter, some of them broken."""
    pairs = [*REQUIRED] if chance.random() < 0.7 else []
    for _ in range(chance.choice((0, 1, 2, 3, 5, 9, 13))):
        name = ".".join(chance.choices(NAMES, k=chance.choice((1, 1, 1, 1, 2, 6))))
        pairs.append(f"{name}={''.join(chance.choices(VALUES, k=chance.choice((0, 1, 1, 2, 40))))}")
    chance.shuffle(pairs)
    query = "&".join(pairs)
    for _ in range(chance.choice((0, 0, 0, 1, 3))):
        at = chance.randint(0, len(query))
        junk = chance.choice(["&", "=", "%", "%0", "%00", "\0", ".", "+", "\n", "%0D%0A", chr(chance.randint(1, 255))])
        query = query[:at] + junk + query[at + chance.choice((0, 0, 1)) :]
    return query


def random_request(chance):
    headers = {name: chance.choice(values) for name, values in HEADERS.items() if chance.random() < 0.5}
    path = chance.choice(("page", "track", "page.gif", "track.gif"))
    return chance.choice(METHODS), path, random_query(chance), headers


def run(count, seed):
    """Checks so many random queries and requests; returns how often each outcome was seen."""
    chance = random.Random(seed)
    seen = {}
    for number in range(count):
        if number % 4:
            kind, strict = chance.choice(("page", "track")), chance.random() < 0.8
            expected = check(kind, random_query(chance), strict)
            outcome = expected if isinstance(expected, str) else "mapped"
        else:
            outcome = check_request(*random_request(chance))
        seen[outcome] = seen.get(outcome, 0) + 1
    return seen


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    logging.disable()  # a line a second for each reason
    print("seed", options.seed, flush=True)
    started = time.monotonic()
    for outcome, times in sorted(run(options.count, options.seed).items()):
        print(f"{times:10} {outcome}")
    print(f"{options.count} inputs, no difference, {time.monotonic() - started:.0f} s", file=sys.stderr)
