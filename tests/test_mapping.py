"""Query string to nested dict, as rudder-server maps it."""

import json
from pathlib import Path
from urllib.parse import quote, unquote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import flatten, objects

from pixel_middleware.errors import BadPixel
from pixel_middleware.wire.mapping import map_query, nest
from pixel_middleware.wire.printable import shorten
from pixel_middleware.wire.query import Limits, split_pairs

REQUIRED = "writeKey=k&anonymousId=a"
CASES = json.loads((Path(__file__).parent / "data" / "rudder-server.json").read_text("utf-8"))


def mapped(query, kind="page", **options):
    sent = map_query(kind, f"{REQUIRED}&{query}", **options)
    return {name: value for name, value in sent.items() if name not in ("writeKey", "anonymousId")}


def refusal(query, kind="page", **options):
    with pytest.raises(BadPixel) as caught:
        map_query(kind, query, **options)
    return caught.value


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_maps_as_rudder_server_does(case):
    sent = map_query(case["endpoint"], case["query"])
    ours = {"channel": "web", "integrations": {"All": True}, "type": case["endpoint"]} | sent
    assert ours.pop("writeKey") == case["writeKey"]
    assert ours == case["payload"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param("properties.a=1;b=2", {"properties": {"a": "1;b=2"}}, id="a semicolon does not split"),
        pytest.param("properties.a=b=c", {"properties": {"a": "b=c"}}, id="only the first = splits"),
        pytest.param("properties.a=x+y%20z%2B", {"properties": {"a": "x y z+"}}, id="plus and %20 are spaces"),
        pytest.param("properties.a=%ff%C3%A9", {"properties": {"a": "\ufffdé"}}, id="bad UTF-8 is replaced"),
        pytest.param("properties.a=100%&properties.b=%zz", {"properties": {"a": "100%", "b": "%zz"}}, id="stray %"),
        pytest.param("properties.a=\xc3\xa9", {"properties": {"a": "é"}}, id="raw UTF-8 bytes"),
        pytest.param(
            "properties.a=\u20ac", {"properties": {"a": "?"}}, id="more than a byte a character, against PEP 3333"
        ),
        pytest.param("&&properties.a=1&", {"properties": {"a": "1"}}, id="empty pairs are skipped"),
        pytest.param("properties%2Ea=1", {"properties": {"a": "1"}}, id="names split after decoding"),
        pytest.param("properties.a=&properties.b", {"properties": {"a": "", "b": ""}}, id="empty values stay"),
        pytest.param("x=12.50&y=null&z=true", {"x": "12.50", "y": "null", "z": "true"}, id="values are strings"),
        pytest.param(
            "properties.p.0.sku=a&properties.p.1.sku=b",
            {"properties": {"p": [{"sku": "a"}, {"sku": "b"}]}},
            id="0..n-1 is a list",
        ),
        pytest.param("properties.p.1=b&properties.p.0=a", {"properties": {"p": ["a", "b"]}}, id="a list in any order"),
        pytest.param(
            "properties.p.0=a&properties.p.2=b", {"properties": {"p": {"0": "a", "2": "b"}}}, id="a gap: keys"
        ),
        pytest.param("properties.p.1=a", {"properties": {"p": {"1": "a"}}}, id="a list starts at 0"),
        pytest.param("properties.p.00=a", {"properties": {"p": {"00": "a"}}}, id="00 is no index"),
        pytest.param(
            "properties.0=a&context.0=b", {"properties": {"0": "a"}, "context": {"0": "b"}}, id="objects stay"
        ),
        pytest.param("x.0=a", {"x": ["a"]}, id="lists outside properties too"),
        pytest.param("context.a=1&context.a=2", {"context": {"a": "1"}}, id="the first of a repeated name wins"),
        pytest.param("writeKey=other", {}, id="the first write key wins"),
        pytest.param(
            "properties.a=x&properties.a=x&properties.a=",
            {"properties": {"a": ["x", "x", ""]}},
            id="repeats below properties are kept",
        ),
        pytest.param("properties.a.0=x&properties.a.0=y", {"properties": {"a": [["x", "y"]]}}, id="repeats in a list"),
        pytest.param(
            "type=x&receivedAt=x&request_ip=1.2.3.4&integrations.All=false&integrations=x&type.x=1&name=n",
            {"name": "n"},
            id="ignored from the client",
        ),
        pytest.param(
            "messageId=m&channel=c&originalTimestamp=o&sentAt=s",
            {"messageId": "m", "channel": "c", "originalTimestamp": "o", "sentAt": "s"},
            id="taken from the client",
        ),
        pytest.param("messageId=&channel=+&originalTimestamp=&sentAt=%09", {}, id="unless blank"),
        pytest.param("name=", {"name": "Unknown Page"}, id="an empty page name"),
        pytest.param(
            "utm_source=x&__proto__.a=1", {"utm_source": "x", "__proto__": {"a": "1"}}, id="other names are kept"
        ),
    ],
)
def test_maps_page(query, expected):
    assert mapped(query) == expected


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://a.example/b%20c/d;e?f=/g#/h", "/b%20c/d;e"),
        ("HTTP://u@a.example:8443//b", "//b"),
        ("https://a.example?b=/c", "/"),
        ("https://a.example", "/"),
    ],
)
def test_a_path_is_the_urls_where_the_path_says_so(url, path):
    page = {"url": url, "path": path}
    query = f"context.page.path=context.page.url&context.page.url={quote(url, safe='')}"
    assert mapped(query) == {"context": {"page": page}}
    assert mapped(query + "&event=e", "track")["context"] == {"page": page}


@pytest.mark.parametrize("url", ["", "&context.page.url=", "&context.page.url=/a", "&context.page.url.a=https://b/c"])
def test_no_path_is_made_of_what_is_no_url(url):
    assert "path" not in mapped(f"context.page.path=context.page.url{url}")["context"]["page"]


def test_a_client_that_sent_no_path_has_none():
    assert mapped("context.page.url=https://a.example/b") == {"context": {"page": {"url": "https://a.example/b"}}}


def test_track_keeps_an_empty_name():
    assert mapped("event=e&name=", "track") == {"event": "e", "name": ""}


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        pytest.param("", "missing_write_key", id="nothing"),
        pytest.param("writeKey=+&anonymousId=a", "missing_write_key", id="blank write key"),
        pytest.param("writeKey=k", "missing_anonymous_id", id="no anonymous id"),
        pytest.param("writeKey=k&userId=u", "missing_anonymous_id", id="a user id does not stand in"),
        pytest.param("writeKey=k&anonymousId=%22%22", "missing_anonymous_id", id="nothing in quotes"),
        pytest.param("writeKey=%E2%80%8B&anonymousId=a", "missing_write_key", id="invisible write key"),
        pytest.param("writeKey=k&anonymousId=%22%EF%BB%BF%22", "missing_anonymous_id", id="nothing visible in quotes"),
        pytest.param(f"{REQUIRED}&=x", "invalid_name", id="empty name"),
        pytest.param(f"{REQUIRED}&a..b=x", "invalid_name", id="empty part"),
        pytest.param(f"{REQUIRED}&.a=x", "invalid_name", id="leading dot"),
        pytest.param(f"{REQUIRED}&a.=x", "invalid_name", id="trailing dot"),
        pytest.param(f"{REQUIRED}&a=x&a.b=y", "conflicting_names", id="value then parent"),
        pytest.param(f"{REQUIRED}&a.b=y&a=x", "conflicting_names", id="parent then value"),
        pytest.param(f"{REQUIRED}&properties.a=1&properties.a=2&properties.a.b=3", "conflicting_names", id="list"),
        pytest.param(f"{REQUIRED}&context=x", "conflicting_names", id="context is an object"),
        pytest.param("writeKey.x=k&anonymousId=a", "conflicting_names", id="writeKey is a string"),
        pytest.param(f"{REQUIRED}&a=%00", "invalid_character", id="NUL"),
        pytest.param(f"{REQUIRED}&a\0=1", "invalid_character", id="raw NUL"),
        pytest.param(f"{REQUIRED}&a={'x' * 32768}", "query_too_long", id="too long"),
        pytest.param("&".join(["a=1"] * 1001), "too_many_parameters", id="too many"),
        pytest.param(f"{REQUIRED}&{'a.' * 32}a=1", "too_deep", id="too deep"),
        pytest.param(
            "&".join([REQUIRED, *(f"{number}.{'a.' * 9}a=" for number in range(401))]),
            "too_many_parameters",
            id="too many objects",
        ),
    ],
)
def test_refuses(query, reason):
    assert refusal(query).reason == reason


@pytest.mark.parametrize(
    "name",
    ["writeKey", "anonymousId", "userId", "event", "name", "messageId", "channel", "originalTimestamp", "sentAt"],
)
def test_a_name_that_takes_a_value_takes_no_parts(name):
    others = "&".join(pair for pair in REQUIRED.split("&") if not pair.startswith(name))
    assert refusal(f"{others}&{name}.part=x", "track").reason == "conflicting_names"


def test_a_name_of_40_characters_is_said_whole_and_a_longer_one_is_cut():
    assert shorten("x" * 40) == f"'{'x' * 40}'"
    assert shorten("x" * 41) == f"'{'x' * 39}…'"


def test_a_user_id_that_may_stand_in_must_be_there():
    with pytest.raises(BadPixel, match=r"anonymousId=\.\.\. or userId=\.\.\."):
        map_query("page", "writeKey=k", require_anonymous_id=False)
    right = "add anonymousId=... with an identifier of the visitor"  # and no userId, which would not do
    assert refusal("writeKey=k").message == f"anonymousId is missing; {right}"


@pytest.mark.parametrize(
    ("pairs", "nested"),
    [
        ([("a.0", "x")], {"a": ["x"]}),
        ([("a.0.b", "x")], {"a": [{"b": "x"}]}),
        ([("a.1", "x"), ("a.b", "y"), ("c.0", "z")], {"a": {"1": "x", "b": "y"}, "c": ["z"]}),
    ],
)
def test_numbers_from_0_on_make_a_list_and_others_are_names(pairs, nested):
    assert nest(pairs) == nested


def test_names_nest_into_four_objects_a_parameter_at_most():
    limits = Limits(max_params=2)
    assert nest([("a.b.c.d.e.f.g.h", "1"), ("a.x.y", "2")], limits)["a"]["x"] == {"y": "2"}  # 7 objects, and x
    with pytest.raises(BadPixel, match="nest into more than 8 objects"):
        nest([("a.b.c.d.e.f.g.h", "1"), ("a.x.y", "2"), ("z.z", "3")], limits)


@pytest.mark.parametrize("event", ["", " ", "%E2%80%8B%C2%AD", "\x01"])
def test_track_needs_an_event(event):
    assert refusal(f"{REQUIRED}&event={event}", "track").reason == "missing_event"


# White space, a control, formats, private use, unassigned, and what is printable by Unicode but shows nothing.
INVISIBLE = "\t \x85\xa0\u3000 \x01\x7f \u200b\ufeff\u00ad\u2060\u200e \ue000 \u0378 \u3164\u2800\u115f\u034f"


@pytest.mark.parametrize("letter", sorted(set(INVISIBLE)), ids=lambda letter: f"U+{ord(letter):04X}")
def test_what_nobody_sees_is_blank(letter):
    assert refusal(f"writeKey=k&anonymousId={quote(letter * 2)}").reason == "missing_anonymous_id"
    assert "messageId" not in map_query("page", f"{REQUIRED}&messageId={quote(letter)}")
    assert map_query("page", f"writeKey=k&anonymousId={quote(letter)}a")["anonymousId"] == f"{letter}a"


@pytest.mark.parametrize("text", ["a", "é", "\u0301", "日", "\U0001f600", "\ufffd", "~", "!"])
def test_what_somebody_sees_is_not_blank(text):
    assert map_query("page", f"writeKey=k&anonymousId={quote(text)}")["anonymousId"] == text


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("writeKey=k&amp;anonymousId=a&amp;event=e", "a name begins with amp;"),
        ("writeKey=k&anonymousId=a&amp;event=e", "a name begins with amp;"),
        ("writeKey=k&amp;context.x=a", "a name begins with amp;"),
        ("data=eyJ3cml0ZUtleSI6ImsifQ", "the event is in data=..., which is not read; give each field a parameter"),
    ],
)
def test_a_usual_mistake_is_named(query, message):
    assert message in refusal(query, "track").message


def test_data_may_be_a_name_like_any_other():
    assert mapped("data=x&amp;x=y") == {"data": "x", "amp;x": "y"}


def test_limits_are_inclusive():
    query = "a.b=1"
    exact = Limits(max_query_bytes=len(f"{REQUIRED}&{query}"), max_params=3, max_depth=2)
    assert mapped(query, limits=exact) == {"a": {"b": "1"}}


def test_user_id_may_stand_in_for_the_anonymous_id():
    assert map_query("page", "writeKey=k&userId=u", require_anonymous_id=False) == {"writeKey": "k", "userId": "u"}
    error = refusal("writeKey=k&userId=", require_anonymous_id=False)
    assert (error.reason, "userId" in error.message) == ("missing_anonymous_id", True)


@pytest.mark.parametrize(("sent", "kept"), [('"a"', "a"), ('""a""', '"a"'), ('"a', '"a'), ('"', '"')])
def test_one_pair_of_quotes_around_the_anonymous_id_is_stripped(sent, kept):
    assert map_query("page", f"writeKey=k&anonymousId={quote(sent)}")["anonymousId"] == kept


def test_an_error_quotes_a_name_shortened_and_printable():
    error = refusal(f"{REQUIRED}&{quote('é' * 39)}%0d%0aSet-Cookie..=secret")
    assert f"'{'é' * 39}…'" in error.message
    assert "secret" not in error.message
    assert shorten("a\r\n\x1b[31mb") == "'a???[31mb'"


@given(objects, objects)
def test_flattening_what_was_nested_gives_the_same_pairs(properties, context):
    pairs = flatten({"properties": properties, "context": context})
    assert flatten(nest(pairs)) == pairs


@given(objects)
def test_an_event_survives_the_query_string(properties):
    query = urlencode(flatten({"properties": properties}))
    assert nest(split_pairs(query)) == ({"properties": properties} if properties else {})


@given(objects, objects)
def test_names_that_were_seen_before_nest_just_so(context, properties):
    pairs = flatten({"context": context, "properties": properties})
    query = urlencode([("writeKey", "k"), ("anonymousId", "a"), *pairs, *pairs[:1]])
    expected = nest(split_pairs(query))
    assert [map_query("page", query), map_query("page", query)] == [expected, expected]


# Mostly what matters to a decoder: escapes, whole and broken, the signs of other encodings, and line breaks.
ENCODED = st.text(
    st.sampled_from("%%%=+_\\\r\n 0129aAfFcC3é;") | st.characters(max_codepoint=255, exclude_characters="&\0")
)


@given(st.lists(ENCODED.filter(lambda value: "%00" not in value), min_size=1, max_size=5))
def test_decodes_as_the_standard_library_does(values):
    percent_encoded = ["".join(char if char.isascii() else f"%{ord(char):02X}" for char in value) for value in values]
    assert list(split_pairs("&".join(f"v={value}" for value in values))) == [
        ("v", unquote_plus(value)) for value in percent_encoded
    ]
