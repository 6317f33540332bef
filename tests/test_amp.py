"""The amp-analytics configuration, and what the AMP runtime makes of it."""

import json
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest

VARIABLES = {
    "writeKey": "k",
    "pageName": "Home & Garden",
    "eventName": "Click",
    "anonymousId": "amp-imZuM_5Jpoy9cLWFYH8usg",
}

MACROS = {
    "PAGE_VIEW_ID_64": "jHhl0X3Wl7VO4DoZX_qrCQ",
    "RANDOM": "0.4301203",
    "BROWSER_LANGUAGE": "en-us",
    "USER_AGENT": "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0",
    "CANONICAL_URL": "https://publisher.example/a",
    "DOCUMENT_REFERRER": "",
    "TITLE": "Ä title",
    "SCREEN_WIDTH": "800",
    "SCREEN_HEIGHT": "600",
}


def request_of(config, name, count, **page):
    """The URL that AMP requests by a configuration."""
    return expand(config["requestOrigin"] + config["requests"][name]["baseUrl"], count, **page)


def expand(url, count, **page):
    """What AMP makes of a URL: it puts encoded values in for variables and macros; an unknown variable is empty."""
    known = VARIABLES | MACROS | page | {"requestCount": str(count)}
    names = re.compile(r"\$\{(\w+)\}|\b(" + "|".join(sorted(MACROS, key=len, reverse=True)) + r")\b")
    return names.sub(lambda found: quote(known.get(found[1] or found[2], ""), safe=""), url)


@pytest.fixture
def config(make_client):
    return make_client(amp=True).get("/pixel/v1/amp.json", headers={"Host": "shop.example"}).json


def test_a_page_view_and_two_equal_clicks_are_three_events(make_client, config, events):
    client = make_client()
    for count, name in enumerate(["page", "track", "track"], start=1):
        url = request_of(config, name, count)
        assert url.startswith("https://shop.example/pixel/v1/")
        assert client.get(url.removeprefix("https://shop.example")).content_type == "image/gif"
    assert [(event["type"], event["messageId"]) for event in events] == [
        ("page", "jHhl0X3Wl7VO4DoZX_qrCQ-1-0.4301203"),
        ("track", "jHhl0X3Wl7VO4DoZX_qrCQ-2-0.4301203"),
        ("track", "jHhl0X3Wl7VO4DoZX_qrCQ-3-0.4301203"),
    ]
    assert (events[0]["name"], events[1]["event"]) == ("Home & Garden", "Click")
    page = {"path": "/a", "url": "https://publisher.example/a", "referrer": "", "title": "Ä title"}
    assert (events[0]["properties"], events[0]["context"]["page"]) == (page, page)
    assert events[1]["context"]["library"] == {"name": "Rudderstack AMP SDK", "version": "1.0.0"}


def test_a_page_view_is_an_image_that_is_loaded_when_the_page_is_seen(config):
    assert config["triggers"] == {"pageView": {"on": "visible", "request": "page"}}
    assert config["transport"] == {"beacon": False, "xhrpost": False, "image": True}


def test_an_event_says_what_amp_knows_of_its_visitor(client, config, events):
    client.get(request_of(config, "track", 1).removeprefix("https://shop.example"))
    assert events[0]["anonymousId"] == VARIABLES["anonymousId"]
    context = {name: events[0]["context"][name] for name in ("library", "platform", "locale", "userAgent", "screen")}
    assert context == {
        "library": {"name": "Rudderstack AMP SDK", "version": "1.0.0"},
        "platform": "AMP",
        "locale": "en-us",
        "userAgent": MACROS["USER_AGENT"],
        "screen": {"width": "800", "height": "600"},
    }


def test_it_sends_what_rudderstacks_amp_sdk_sends(config):
    for captured in json.loads((Path(__file__).parent / "data" / "amp-requests.json").read_text("utf-8")):
        kind = urlsplit(captured["raw_path"]).path.rpartition("/")[2]
        sent = names(captured["raw_path"])
        if "context.platform" in sent:  # and not an amp-pixel, which its page's author wrote
            ours = names(config["requests"][kind]["baseUrl"])
            assert {name for name in sent if name.startswith(("context.", "writeKey", "anonymousId"))} <= ours
            assert ours - sent == {"messageId"}


def names(url):
    return set(names_in_order(url))


def names_in_order(url):
    return [unquote(pair.partition("=")[0]) for pair in urlsplit(url).query.split("&")]


RUNTIME = json.loads((Path(__file__).parent / "data" / "amp-runtime.json").read_text("utf-8"))
"""What the real AMP runtime (2107081711000, in Chromium 156) sent with this configuration, and for which pages."""


@pytest.mark.parametrize("sent", RUNTIME, ids=lambda sent: str(RUNTIME.index(sent)))
def test_what_the_real_runtime_sends_is_the_event_of_its_page(client, config, events, sent):
    """Titles that AMP takes for its own names, or for their arguments, arrive as they are."""
    client.get(sent["request"], headers={"Accept-Language": "de"}, status=200)
    (event,) = events
    assert names_in_order(config["requests"][event["type"]]["baseUrl"]) == names_in_order(sent["request"])
    url = sent["canonical"]
    page = {"path": urlsplit(url).path, "url": url, "referrer": "", "title": sent["title"]}
    said = (event.get("name", event.get("event")), event["context"]["page"], event["properties"])
    assert said == (sent["name"], page, page if event["type"] == "page" else {})
    assert event["context"]["locale"] == "en-us"


def test_no_two_requests_of_the_real_runtime_share_a_message_id(client, events):
    """Two tags on one page share its page view id, and each counts from one."""
    for sent in RUNTIME:
        client.get(sent["request"])
    assert len({event["messageId"] for event in events}) == len(RUNTIME) == 22


@pytest.mark.parametrize(("kind", "name"), [("page", "Home & Garden"), ("track", "Click")])
def test_it_is_an_event_wherever_the_pages_own_texts_cut_it(client, config, events, kind, name):
    """A `#` that AMP leaves as it is begins a fragment, which browsers do not send."""
    url = request_of(config, kind, 1).removeprefix("https://shop.example")
    texts = url.index("&context.page.path=")
    for value in re.finditer("=", url[texts:]):
        client.get(url[: texts + value.end()], status=200)
    assert [event.get("event", event.get("name")) for event in events] == [name] * 4


def test_an_article_with_a_long_cyrillic_title_fits_into_a_request_line_of_gunicorns(config):
    """120 letters in the title, and as many in the addresses of the page and of the page before."""
    address = "https://publisher.example/" + quote("ы" * 120)
    article = {"TITLE": "ы" * 120, "CANONICAL_URL": address}
    for kind in ("page", "track"):
        assert len(request_of(config, kind, 1, **article)) <= 3_000
        longest = request_of(config, kind, 1, **article, DOCUMENT_REFERRER=address).removeprefix("https://shop.example")
        assert len(f"GET {longest} HTTP/1.1") < 4_094


def test_a_visitor_from_an_amp_cache_keeps_the_anonymous_id(config):
    """AMP passes it on in links from the cache to the publisher, and only for a linker that is enabled by name."""
    linker = {"enabled": True, "ids": {"rs_amp_id": "${anonymousId}"}, "proxyOnly": False}
    assert config["linkers"] == {"rudderstack": linker}
    assert config["cookies"] == {"rl_anonymous_id": {"value": "LINKER_PARAM(rudderstack, rs_amp_id)"}}
    assert config["vars"]["anonymousId"] == "CLIENT_ID(rl_anonymous_id)"


def test_it_leaves_the_pages_own_variables_alone(config):
    """A remote configuration overrules the page's."""
    assert config["vars"].keys() == {"anonymousId"}


def test_amp_may_read_it_from_any_page(make_client):
    url = "/pixel/v1/amp.json?__amp_source_origin=https%3A%2F%2Fpublisher.example"
    answer = make_client(amp=True).get(url, headers={"Origin": "https://publisher-example.cdn.ampproject.org"})
    cors = {name: answer.headers[name] for name in answer.headers if "Access-Control" in name}
    assert (answer.content_type, cors) == (
        "application/json",
        {
            "Access-Control-Allow-Origin": "*",
            "AMP-Access-Control-Allow-Source-Origin": "https://publisher.example",
            "Access-Control-Expose-Headers": "AMP-Access-Control-Allow-Source-Origin",
        },
    )
    assert answer.headers["Cache-Control"] == "private, max-age=3600"


@pytest.mark.parametrize("origin", ["%00", "evil", "https://a%0d%0aSet-Cookie:x", "https://a/b", ""])
def test_what_is_no_origin_is_not_repeated(make_client, origin):
    answer = make_client(amp=True).get(f"/pixel/v1/amp.json?__amp_source_origin={origin}")
    assert "AMP-Access-Control-Allow-Source-Origin" not in answer.headers


def test_it_names_the_endpoint_where_it_is_mounted(make_client):
    client = make_client(amp=True, prefix="/zähler")
    answer = client.get("/z%C3%A4hler/amp.json", extra_environ={"SCRIPT_NAME": "/shop"}, headers={"Host": "a.example"})
    assert answer.json["requests"]["page"]["baseUrl"].startswith("/shop/z%C3%A4hler/page.gif?writeKey=${writeKey}&")


def test_it_is_there_only_if_asked_for(make_client):
    make_client().get("/pixel/v1/amp.json", status=404)


def test_it_is_no_event(make_client, events):
    client = make_client(amp=True)
    client.get("/pixel/v1/amp.json")
    assert client.head("/pixel/v1/amp.json").body == b""
    client.post("/pixel/v1/amp.json", status=405)
    client.options("/pixel/v1/amp.json", status=204)
    assert events == []


def test_its_query_has_the_pixels_limits(make_client):
    client = make_client(amp=True)
    for query, reason in (("a" * 32769, "query_too_long"), ("a&" * 1001, "too_many_parameters")):
        refused = client.get(f"/pixel/v1/amp.json?{query}", status=400)
        assert (refused.content_type, refused.headers["X-Pixel-Error"]) == ("text/plain", reason)
    assert client.app.stats()["rejected"] == {"query_too_long": 1, "too_many_parameters": 1}


def test_the_docs_own_configuration_sends_images_that_are_events(client, events):
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "amp.md").read_text("utf-8")
    blocks = re.findall(r"<script type=\"application/json\">(.*?)</script>", page, re.DOTALL)
    of_ours, of_its_own = (json.loads(block) for block in blocks)
    assert of_ours["triggers"] == of_its_own["triggers"]
    assert of_its_own["transport"] == {"beacon": False, "xhrpost": False, "image": True}
    for count in (1, 2):
        url = expand(of_its_own["requests"]["track"].replace("CLIENT_ID(visitor)", "amp-1"), count)
        client.get(url.removeprefix("https://example.com"), status=200)
    assert [(event["event"], event["anonymousId"], event["context"]["page"]["title"]) for event in events] == [
        ("Click", "amp-1", "Ä title")
    ] * 2
    assert len({event["messageId"] for event in events}) == 2
