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
    "pageViewId64": "jHhl0X3Wl7VO4DoZX_qrCQ",
    "anonymousId": "amp-imZuM_5Jpoy9cLWFYH8usg",
    "browserLanguage": "en-us",
    "userAgent": "Mozilla/5.0 (X11; Linux x86_64)",
    "canonicalPath": "/a",
    "canonicalUrl": "https://publisher.example/a",
    "documentReferrer": "",
    "title": "Ä title",
    "screenWidth": "800",
    "screenHeight": "600",
}


def request_of(config, name, count, **variables):
    """The URL that AMP requests: it puts the encoded variables in, and an unknown one becomes empty."""
    known = VARIABLES | variables | {"requestCount": str(count)}
    url = config["requestOrigin"] + config["requests"][name]["baseUrl"]
    return re.sub(r"\$\{(\w+)\}", lambda found: quote(known.get(found[1], ""), safe=""), url)


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
        ("page", "jHhl0X3Wl7VO4DoZX_qrCQ-1"),
        ("track", "jHhl0X3Wl7VO4DoZX_qrCQ-2"),
        ("track", "jHhl0X3Wl7VO4DoZX_qrCQ-3"),
    ]
    assert (events[0]["name"], events[1]["event"]) == ("Home & Garden", "Click")
    page = {"path": "/a", "url": "https://publisher.example/a", "referrer": "", "title": "Ä title"}
    assert (events[0]["properties"], events[0]["context"]["page"]) == (page, page)
    assert events[1]["context"]["library"] == {"name": "Rudderstack AMP SDK", "version": "1.0.0"}


def test_it_sends_what_rudderstacks_amp_sdk_sends(config):
    for captured in json.loads((Path(__file__).parent / "data" / "amp-requests.json").read_text("utf-8")):
        kind = urlsplit(captured["raw_path"]).path.rpartition("/")[2]
        sent = names(captured["raw_path"])
        if "context.platform" in sent:  # and not an amp-pixel, which its page's author wrote
            ours = names(config["requests"][kind]["baseUrl"])
            assert {name for name in sent if name.startswith(("context.", "writeKey", "anonymousId"))} <= ours
            assert ours - sent == {"messageId"}


def names(url):
    return {unquote(pair.partition("=")[0]) for pair in urlsplit(url).query.split("&")}


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
    assert answer.json["requests"]["page"]["baseUrl"].startswith("/shop/z%C3%A4hler/page.gif?writeKey=")


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
        assert client.get(f"/pixel/v1/amp.json?{query}", status=400).headers["X-Pixel-Error"] == reason
    assert client.app.stats()["rejected"] == {"query_too_long": 1, "too_many_parameters": 1}
