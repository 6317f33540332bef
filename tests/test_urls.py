"""`pixel_url` is the inverse of the mapping, and what it cannot say it refuses."""

import re
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from html import unescape
from typing import Unpack, get_type_hints
from urllib.parse import urlsplit

import pytest
import webtest
from bottle import SimpleTemplate
from chameleon import PageTemplate
from django.conf import settings
from django.template import Context, Engine
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment
from mako.template import Template
from strategies import objects, text

from pixel_middleware import PixelMiddleware, UnsendableEvent, pixel_tag, pixel_url
from pixel_middleware.wire.mapping import map_query
from pixel_middleware.wire.printable import is_blank
from pixel_middleware.wire.signatures import sign
from pixel_middleware.wire.urls import PixelFields

BASE = "https://example.com"

filled = text.filter(lambda value: not is_blank(value))


def sent(url):
    return map_query(urlsplit(url).path.split("/")[-1].removesuffix(".gif"), urlsplit(url).query)


def track(**more):
    return pixel_url(BASE, "track", **({"write_key": "k", "anonymous_id": "a", "event": "e"} | more))


@given(filled, filled, filled, text, filled, objects.filter(bool), objects.filter(bool))
@pytest.mark.filterwarnings("ignore:this pixel URL has")
def test_what_it_says_is_what_arrives(write_key, anonymous_id, event, user_id, message_id, properties, context):
    url = pixel_url(
        BASE,
        "track",
        write_key=write_key,
        anonymous_id=anonymous_id,
        event=event,
        user_id=user_id,
        message_id=message_id,
        properties=properties,
        context=context,
    )
    assert (url.isascii(), sent(url)) == (
        True,
        {
            "writeKey": write_key,
            "anonymousId": anonymous_id,
            "event": event,
            "userId": user_id,
            "messageId": message_id,
            "properties": properties,
            "context": context,
        },
    )


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text() | st.datetimes() | st.decimals(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), anything))
@pytest.mark.filterwarnings("ignore:this pixel URL has")
def test_anything_else_is_refused_before_the_endpoint_sees_it(properties):
    try:
        url = track(properties=properties)
    except UnsendableEvent:
        return
    assert sent(url)["event"] == "e"


def test_the_time_of_sending_becomes_a_property_with_its_milliseconds():
    sent_at = datetime(2026, 1, 2, 5, 4, 5, 678901, timezone(timedelta(hours=2)))
    arrived = sent(track(properties={"mail": "welcome"}, sent_at=sent_at))
    assert arrived["properties"] == {"mail": "welcome", "email_sent_at": "2026-01-02T03:04:05.678Z"}
    assert "sentAt" not in arrived


@pytest.mark.parametrize("sent_at", [datetime(2026, 1, 2), date(2026, 1, 2), "2026-01-02T03:04:05Z", 1767322800])
def test_a_time_of_sending_without_a_time_zone_is_refused(sent_at):
    with pytest.raises(UnsendableEvent, match=r"sent_at must be a datetime with a time zone, like datetime.now\(UTC\)"):
        track(sent_at=sent_at)


def test_a_time_of_sending_that_is_said_twice_is_refused():
    with pytest.raises(UnsendableEvent, match=r"sent_at and properties.email_sent_at say the same; leave one out"):
        track(sent_at=datetime(2026, 1, 2, tzinfo=UTC), properties={"email_sent_at": "yesterday"})


def test_a_page_call_has_a_name():
    url = pixel_url(BASE, "page", write_key="k", anonymous_id="a", name="Home", image=False)
    assert url == "https://example.com/pixel/v1/page?writeKey=k&anonymousId=a&name=Home"


@pytest.mark.parametrize(
    ("base", "prefix", "start"),
    [
        ("https://example.com", "/pixel/v1", "https://example.com/pixel/v1/track.gif?"),
        ("https://example.com/", "/pixel/v1", "https://example.com/pixel/v1/track.gif?"),
        ("http://localhost:8080/X", "/pixel/v1", "http://localhost:8080/X/pixel/v1/track.gif?"),
        ("https://example.com/pixel/v1", "/pixel/v1", "https://example.com/pixel/v1/track.gif?"),
        ("https://example.com", "/zähler", "https://example.com/z%C3%A4hler/track.gif?"),
    ],
)
def test_it_starts_where_the_endpoint_is(base, prefix, start):
    url = pixel_url(base, "track", write_key="k", anonymous_id="a", event="e", prefix=prefix)
    assert url.startswith(start)


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (12.5, "12.5"),
        (10**20, "100000000000000000000"),
        (1e-7, "1e-07"),
        (Decimal("1.10"), "1.10"),
        (Decimal("1E+400"), "1E+400"),
        (True, "true"),
        (False, "false"),
        (datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), "2026-01-02T03:04:05.678Z"),
        (datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T01:00:00.000Z"),
        (date(2026, 1, 2), "2026-01-02"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (("a", 1), ["a", "1"]),
        ({"1": "a"}, {"1": "a"}),
        ({"kept": "a", "gone": None}, {"kept": "a"}),
    ],
)
def test_each_type_has_one_form(value, arrives):
    assert sent(track(properties={"it": value}))["properties"] == {"it": arrives}


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"properties": {"a.b": "x"}}, "the keys of properties must be strings, not empty and without a dot"),
        ({"properties": {"": "x"}}, "the keys of properties must be strings, not empty and without a dot"),
        ({"properties": {"a": {1: "x"}}}, "the keys of properties.a must be strings, not empty and without a dot"),
        ({"properties": {"a": {}}}, "properties.a is empty, which a URL cannot say; leave it out"),
        ({"properties": {"a": []}}, "properties.a is empty, which a URL cannot say; leave it out"),
        ({"properties": {"a": ["x", None]}}, "properties.a holds None, which a URL cannot say; leave it out"),
        ({"properties": ["x"]}, "properties must be a mapping"),
        (
            {"properties": {"a": {"0": "x"}}},
            "properties.a has the keys 0, 1, ... and would arrive as a list; use a list, or other keys",
        ),
        ({"properties": {"a": float("nan")}}, "properties.a is not a finite number"),
        ({"properties": {"a": Decimal("Infinity")}}, "properties.a is not a finite number"),
        ({"properties": {"a": Decimal("sNaN")}}, "properties.a is not a finite number"),
        ({"properties": {"a": 10**5000}}, "properties.a has too many digits"),
        (
            {"properties": {"a": datetime(2026, 1, 2)}},
            "properties.a is a datetime without a time zone; add tzinfo=UTC, or what it is in",
        ),
        (
            {"properties": {"a": b"x"}},
            "properties.a is of type bytes, which has no form in a URL; make it a string",
        ),
        ({"properties": {"a": "\ud800"}}, "a name or value holds half of a surrogate pair, which is no text"),
        ({"properties": {"a": "\0"}}, "the query string holds a NUL (%00), which no event can carry"),
        ({"properties": "text"}, "properties takes no value of its own; write it like properties.title=..."),
        ({"event": None}, "event is missing or blank, and a track pixel needs it"),
        ({"write_key": " "}, "write_key is missing or blank"),
        (
            {"anonymous_id": None},
            "anonymous_id is missing or blank, and so is user_id, which could stand in for it",
        ),
    ],
)
def test_what_a_url_cannot_say_is_refused(more, error):
    with pytest.raises(UnsendableEvent, match=f"^{re.escape(error)}$"):
        track(**more)


@pytest.mark.parametrize("base", ["example.com", "ftp://example.com", "https://", "https://example.com/?a=b", ""])
def test_a_base_that_is_no_address_is_refused(base):
    with pytest.raises(UnsendableEvent, match=r"base must be a URL like https://example\.com"):
        pixel_url(base, "track", write_key="k", anonymous_id="a", event="e")


def test_a_kind_that_is_no_pixel_is_refused():
    with pytest.raises(UnsendableEvent, match='kind must be "page" or "track"'):
        pixel_url(BASE, "identify", write_key="k", anonymous_id="a")


def test_a_user_id_may_stand_in():
    assert sent_by_user(track(anonymous_id=None, user_id="u")) == {"writeKey": "k", "userId": "u", "event": "e"}


def sent_by_user(url):
    return map_query("track", urlsplit(url).query, require_anonymous_id=False)


def test_a_long_url_warns():
    with pytest.warns(UserWarning, match="has 2088 bytes, and mail clients cut URLs above 2000") as caught:
        track(properties={"text": "x" * 2000})
    assert caught[0].filename == __file__  # whose URL it is
    assert len(track(properties={"text": "x" * 1912})) == 2000  # without a warning, which would be an error


def test_an_empty_key_signs_nothing():
    with pytest.raises(UnsendableEvent, match="signing_key is empty"):
        track(signing_key="")


TAG = pixel_tag(BASE, "track", write_key="k", anonymous_id='"><script>', event="e")


def test_a_tag_is_escaped_once_and_carries_its_url(events):
    assert re.fullmatch(
        r'<img src="[^"<>]+" width="1" height="1" alt="" referrerpolicy="no-referrer-when-downgrade"'
        r' style="display:block;border:0;width:1px;height:1px">',
        TAG,
    )
    client = webtest.TestApp(PixelMiddleware(lambda environ, start_response: [], events.append), lint=True)
    answer = client.get(unescape(re.search('src="([^"]+)"', TAG)[1]))
    assert (answer.content_type, events[0]["anonymousId"]) == ("image/gif", '"><script>')


def in_jinja(tag):
    return Environment(autoescape=True).from_string("{{ tag }}").render(tag=tag)


def in_mako(tag):
    return Template("${tag}", default_filters=["h"]).render(tag=tag)


def in_chameleon(tag):
    return PageTemplate("${tag}").render(tag=tag)


def in_django(tag):
    if not settings.configured:
        settings.configure()
    return Engine().from_string("{{ tag }}").render(Context({"tag": tag}))


def in_bottle(tag):
    return SimpleTemplate("{{!tag}}").render(tag=tag)


@pytest.mark.parametrize("render", [in_jinja, in_mako, in_chameleon, in_django, in_bottle])
def test_templates_do_not_escape_it_twice(render):
    assert render(TAG) == TAG


@pytest.mark.parametrize("make", [pixel_url, pixel_tag])
def test_a_misspelt_field_is_named(make):
    with pytest.raises(
        TypeError, match="a pixel has no field 'anonymous_ids'; its fields are write_key, anonymous_id, "
    ):
        make(BASE, "page", write_key="k", anonymous_ids="a")


@pytest.mark.parametrize("make", [pixel_url, pixel_tag])
def test_type_checkers_know_the_fields(make):
    assert get_type_hints(make)["fields"] == Unpack[PixelFields]
    assert PixelFields.__required_keys__ == {"write_key"}


def test_quotes_around_an_id_arrive_although_one_pair_is_stripped():
    assert sent(track(anonymous_id='"a"'))["anonymousId"] == '"a"'
    assert sent(track(anonymous_id='""'))["anonymousId"] == '""'


def test_a_signature_is_the_same_in_each_version():
    """Mails with signed pixels are read for years."""
    assert (
        sign("track", [("b", "1"), ("a", "z y"), ("a", "é&")], "s3cret")
        == "sIoT_94jWegEyzWFw9Okabj-emOpZT9yPO8V7l1In9k"
    )
