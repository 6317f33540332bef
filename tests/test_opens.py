"""Who loaded a pixel: 141 documented requests, the limits between verdicts, and what is believed of a client."""

import ipaddress
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webob import Request

from pixel_middleware import ConfigurationError, pixel_url
from pixel_middleware.events import Visit, make_event, timestamp
from pixel_middleware.processors import anonymize_ip, verify_signature
from pixel_middleware.processors.agents import judge_agent
from pixel_middleware.processors.opens import RULES, drop_machines, judge_open

ROOT = Path(__file__).parents[1]
REQUESTS = json.loads((ROOT / "tests" / "data" / "opens.json").read_text("utf-8"))
"""Requests that sources describe, and what may be said of each. A `*` in an agent stands for anything."""

LISTED, UNLISTED = "203.0.113.5", "198.51.100.1"
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0 Safari/537.36"
)
MAC_MAIL = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"
GMAIL = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
YANDEX = "Mozilla/5.0 (compatible; YandexImageResizer/2.0; +http://yandex.com/bots)"
RECEIVED = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)


def url(signing_key="s3cret", **more):
    return pixel_url(
        "http://localhost", "track", write_key="k", anonymous_id="a", event="Opened", signing_key=signing_key, **more
    )


def judged(agent=CHROME, seconds=None, judge=None, address=UNLISTED, method="GET", properties=None, **headers):
    """The verdict on a request that was received `seconds` after its mail was sent and signed."""
    request = Request.blank(
        "/", method=method, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )
    request.remote_addr = address
    if agent is not None:
        request.environ["HTTP_USER_AGENT"] = agent
    sent = url() if seconds is None else url(sent_at=RECEIVED - timedelta(seconds=seconds))
    request.query_string = sent.partition("?")[2]
    properties = properties or {name.partition(".")[2]: value for name, value in request.GET.items() if "." in name}
    raw = {"writeKey": "k", "anonymousId": "a", "event": "Opened", "properties": properties, "signature": "s"}
    event = make_event("track", raw, Visit(address, agent or ""), timestamp(RECEIVED))
    verify_signature("s3cret")(event, request)
    return (judge or judge_open())(event, request)["context"]["open"]


def by(*args, **more):
    verdict = judged(*args, **more)
    return verdict["by"], verdict["reason"]


ANYTHING = ["", "Scanner ", "Mozilla/5.0 (compatible; ", f"{CHROME} "]


@pytest.mark.parametrize("wanted", REQUESTS, ids=[one["id"] for one in REQUESTS])
@pytest.mark.parametrize("letters", [str, str.lower, str.upper, str.swapcase])
def test_a_documented_request_is_judged_as_documented(wanted, letters):
    judge = judge_open(networks=["203.0.113.0/24"])
    agent = wanted["agent"]
    agents = [agent] if agent is None or "*" not in agent else [agent.replace("*", filling) for filling in ANYTHING]
    verdicts = {
        judged(
            agent and letters(agent),
            seconds,
            judge,
            LISTED if wanted.get("listed") else UNLISTED,
            wanted.get("method", "GET"),
            **wanted.get("headers", {}),
        )["by"]
        for agent in agents
        for seconds in wanted["seconds"]
    }
    assert verdicts == {wanted["by"]}


@pytest.mark.parametrize(
    ("agent", "seconds", "verdict"),
    [
        (CHROME, 0, ("machine", "instant")),
        (CHROME, 1.999, ("machine", "instant")),
        (CHROME, 2, ("unknown", "too_soon")),
        (CHROME, 59.999, ("unknown", "too_soon")),
        (CHROME, 60, ("person", "client")),
        (CHROME, 86400 * 365, ("person", "client")),
        (CHROME, None, ("person", "client")),
        (CHROME, -0.001, ("person", "client")),  # sent in the future: one of the clocks is wrong
        (GMAIL, 1.999, ("machine", "instant")),
        (GMAIL, 2, ("proxy", "image_proxy")),
        (GMAIL, None, ("proxy", "image_proxy")),
        (YANDEX, 1, ("machine", "instant")),
        (YANDEX, 59.999, ("unknown", "doubtful_proxy")),
        (YANDEX, 60, ("proxy", "doubtful_proxy")),
        (YANDEX, None, ("unknown", "doubtful_proxy")),
        (MAC_MAIL, 1, ("machine", "instant")),
        (MAC_MAIL, 30, ("unknown", "too_soon")),
        (MAC_MAIL, 60, ("person", "client")),
        (MAC_MAIL, None, ("unknown", "shared_agent")),
        (None, 1, ("machine", "instant")),
        (None, 60, ("unknown", "no_agent")),
        ("something else", 60, ("unknown", "unrecognised")),
        ("Dalvik/2.1.0 (Linux; U; Android 12)", 60, ("unknown", "doubtful_client")),
    ],
)
def test_time_decides_where_the_agent_cannot(agent, seconds, verdict):
    assert by(agent, seconds) == verdict


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({}, ("person", "client")),
        ({"Sec_Purpose": "prefetch;anonymous-client-ip"}, ("machine", "speculative")),
        ({"Sec_Purpose": "PREFETCH; prerender"}, ("machine", "speculative")),
        ({"Purpose": "prefetch"}, ("machine", "speculative")),
        ({"X_Purpose": "preview"}, ("machine", "speculative")),
        ({"X_Moz": "prefetch"}, ("machine", "speculative")),
        ({"Purpose": "shopping"}, ("person", "client")),
        ({"From": "bot@example.com"}, ("machine", "robot_from")),
        ({"From": " "}, ("person", "client")),
        ({"Sec_Fetch_Dest": "document"}, ("unknown", "navigation")),
        ({"Sec_Fetch_Dest": "iframe"}, ("unknown", "navigation")),
        ({"Sec_Fetch_Dest": "image"}, ("person", "client")),
        ({"Referer": "http://mail.google.com/", "Via": "1.1 proxy.example"}, ("person", "client")),
        ({"method": "HEAD"}, ("machine", "head")),
    ],
)
def test_headers_tell_prefetches_and_robots(headers, verdict):
    assert by(**headers) == verdict


@pytest.mark.parametrize("word", ["Googlebot", "Proofpoint", "AP3A.240617.008", "ViewSonic", "spider (X)", "curl/8"])
def test_a_robots_word_in_the_name_of_a_phone_is_none(word):
    agent = f"Mozilla/5.0 (Linux; Android 15; {word} Build/1) AppleWebKit/537.36 Chrome/128.0.0.0 Mobile Safari/537.36"
    assert by(agent) == ("person", "client")


@pytest.mark.parametrize(
    "agent",
    [
        "Mozilla/5.0 (X11; Linux x86_64; rv:29.0) Gecko/20100101 Firefox/29.0 SeaMonkey/2.26a1 Lightning/3.1a1",
        "Mozilla/5.0 (Linux; Android 9; X Build/1; wv) Chrome/68.0 Mobile Safari/537.36 SogouMSE,SogouMobileBrowser/5",
        "Mozilla/5.0 (Windows NT 6.1) AppleWebKit/537.36 coccocbrowser/47.0 Chrome/41.0.2272.119 Safari/537.36",
        "Mozilla/5.0 (Linux; Android 12; X Build/1; wv) Chrome/142.0 Mobile Safari/537.36 MetaIAB Facebook",
        "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Notion/2.0.8 Chrome/76.0.3809.146 Electron/6.1.5",
        "Mozilla/5.0 (BB10; Touch) AppleWebKit/537.10+ (KHTML, like Gecko) Version/10.1.0.4633 Mobile Safari/537.10+",
        f"{CHROME} Edg/128.0.0.0",
        f"{CHROME} Viber",
        f"{CHROME} Instagram 94.0.0.22.116 (22/5.1; 320dpi; CUBOT; CUBOT; hi6210sft; de_DE)",
    ],
)
def test_a_persons_app_that_shares_its_name_with_a_robot_is_a_persons(agent):
    assert by(agent) == ("person", "client")


@pytest.mark.parametrize(
    ("agent", "provider"),
    [
        (GMAIL, "gmail"),
        ("Mozilla/5.0", "apple"),
        ("Mozilla/5.0 SeznamEmailProxy/2.0.174", "seznam"),
        ("RamblerMail/6.0 (incompatible; ImageProxy/6.0)", "rambler"),
        (f"hey.com/imageproxy {CHROME}", "hey"),
        (f"{CHROME} FastmailUA/1.0", "fastmail"),
        (f"{CHROME} (via secureurl.fwdcdn.com - mail.ukr.net proxy)", "ukr.net"),
        ("Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via WP.pl WPImageProxy)", "wp.pl"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10.10; rv:38.0) Gecko/20100101 Firefox/38.0", "discord"),
        ("Barracuda Sentinel (EE)", "barracuda"),
        ("SomeNewImageProxy/1.0", None),
        (CHROME, None),
    ],
)
def test_the_provider_is_named_where_it_is_known(agent, provider):
    assert judged(agent).get("provider") == provider


def test_a_verdict_has_four_fields_of_which_two_may_be_missing():
    assert judged(GMAIL, 41.9) == {
        "by": "proxy",
        "reason": "image_proxy",
        "provider": "gmail",
        "secondsSinceSent": 41,
    }
    assert judged(CHROME) == {"by": "person", "reason": "client"}


@pytest.mark.parametrize(("window_s", "reason"), [(0, "client"), (10, "client"), (10.5, "too_soon"), (60, "too_soon")])
def test_the_window_can_be_chosen(window_s, reason):
    assert by(seconds=10, judge=judge_open(window_s))[1] == reason


@pytest.mark.parametrize(
    ("address", "seconds", "verdict"),
    [
        ("203.0.113.5", 599, ("machine", "listed_network")),
        ("203.0.113.5", 600, ("unknown", "listed_network")),
        ("203.0.113.5", None, ("unknown", "listed_network")),
        ("::ffff:203.0.113.5", 599, ("machine", "listed_network")),
        ("2001:db8:1::7", 599, ("machine", "listed_network")),
        ("192.0.2.9", 599, ("machine", "listed_network")),
        ("203.0.114.5", 599, ("person", "client")),
        ("2001:db8:2::7", 599, ("person", "client")),
        ("192.0.2.10", 599, ("person", "client")),
        ("", 599, ("person", "client")),
    ],
)
def test_a_listed_network_is_a_gateways_for_ten_minutes_and_doubtful_later(address, seconds, verdict):
    networks = ["203.0.113.0/24", ipaddress.ip_network("2001:db8:1::/48"), "192.0.2.9"]
    assert by(CHROME, seconds, judge_open(networks=networks), address) == verdict


def test_a_display_proxy_in_a_listed_network_is_a_machine_only_at_first():
    judge = judge_open(networks=iter(["203.0.113.0/24"]))
    assert [by(GMAIL, seconds, judge, LISTED)[0] for seconds in (30, 600)] == ["machine", "proxy"]


@pytest.mark.parametrize("window_s", [-1, "60", None, True, float("nan"), float("inf")])
def test_a_window_that_is_no_time_is_refused(window_s):
    with pytest.raises(ConfigurationError, match="window_s must be a number of seconds, 0 or more, got"):
        judge_open(window_s)


@pytest.mark.parametrize("networks", ["192.0.2.0/24", 7, ["192.0.2.1/24"], ["mimecast"], [None]])
def test_networks_that_are_none_are_refused(networks):
    with pytest.raises(ConfigurationError, match="networks must be "):
        judge_open(networks=networks)


@pytest.fixture
def collect(make_client, events):
    """The verdict on a load of this URL by Chrome, and what the event says below `properties`."""

    def collect(url, *processors, agent=CHROME):
        make_client(processors=processors).get(url, headers={"User-Agent": agent})
        return events[-1]["context"]["open"], events[-1]["properties"]

    return collect


def sent_ago(**ago):
    return datetime.now(UTC) - timedelta(**ago)


def test_the_time_of_a_signed_url_is_believed(collect):
    sent_at = sent_ago(seconds=30)
    verdict, properties = collect(url(sent_at=sent_at), verify_signature("s3cret"), judge_open())
    assert (verdict["by"], verdict["reason"], properties) == (
        "unknown",
        "too_soon",
        {"email_sent_at": timestamp(sent_at)},
    )
    assert 30 <= verdict["secondsSinceSent"] <= 90


@pytest.mark.parametrize("signing_key", ["s3cret", None])
def test_a_time_that_nobody_verified_is_not_believed(collect, signing_key):
    verdict, _ = collect(url(signing_key, sent_at=sent_ago(seconds=1)), judge_open())
    assert verdict == {"by": "person", "reason": "client"}


def test_the_signature_must_be_verified_before(collect):
    verdict, _ = collect(url(sent_at=sent_ago(seconds=1)), judge_open(), verify_signature("s3cret"))
    assert verdict == {"by": "person", "reason": "client"}


def test_no_header_can_claim_a_verified_signature(make_client, events):
    headers = {"User-Agent": CHROME, "pixel_middleware.signature_verified": "True", "Pixel-Middleware": "True"}
    make_client(processors=[judge_open()]).get(url(None, sent_at=sent_ago(seconds=1)), headers=headers)
    assert events[0]["context"]["open"] == {"by": "person", "reason": "client"}


@pytest.mark.parametrize("said", ["yesterday", "", "2026-01-02", "2026-01-02T03:04:05", "1767322800", ["x", "y"], 7])
def test_a_signed_time_that_is_none_is_as_good_as_none(said):
    assert judged(CHROME, properties={"email_sent_at": said}) == {"by": "person", "reason": "client"}


def test_what_a_client_says_of_its_verdict_is_overwritten(collect):
    assert collect(url(None, context={"open": {"by": "person", "provider": "me"}}), judge_open(), agent="curl/8.4.0")[
        0
    ] == {"by": "machine", "reason": "crawler"}


def test_an_agent_in_the_query_says_nothing_of_who_loads(collect):
    verdict, _ = collect(url(None, context={"userAgent": CHROME}), judge_open(), agent="curl/8.4.0")
    assert verdict["by"] == "machine"


def test_a_verdict_by_the_network_outlives_the_address(make_client, events):
    client = make_client(processors=[judge_open(networks=["203.0.113.0/28"]), anonymize_ip])
    client.get(url(None), headers={"User-Agent": CHROME}, extra_environ={"REMOTE_ADDR": "203.0.113.5"})
    assert (events[0]["context"]["open"]["reason"], events[0]["request_ip"]) == ("listed_network", "203.0.113.0")


@pytest.mark.parametrize(
    "agent",
    [
        "x" * 32_768,
        f"{CHROME} {'(' * 32_000}",
        "(linux;" * 4_000,
        f"(linux; android {'(x)' * 10_000}",
        "mozilla/5.0 windows applewebkit/" * 1_000,
        "📧" * 2_000,
        "📧".encode().decode("latin-1") * 2_000,
        "\x01\x7f\xff",
        "   ",
    ],
    ids=["long", "parentheses", "phones", "nested", "engines", "emoji", "emoji as WSGI has it", "controls", "blank"],
)
def test_a_hostile_agent_gets_a_verdict_too(agent):
    assert judged(agent)["by"] in ("person", "unknown")


@given(st.text(), st.none() | st.floats(0, 1e6), st.dictionaries(st.sampled_from(["Purpose", "From"]), st.just("x")))
def test_any_request_gets_a_documented_verdict(agent, seconds, headers):
    assert by(agent, seconds, **headers) in {(rule.by, rule.reason) for rule in RULES}


def test_what_is_remembered_of_agents_is_bounded():
    judge_agent.cache_clear()
    for number in range(100):
        judged("x" * 1024 + str(number))
    assert (judge_agent.cache_info().currsize, judge_agent.cache_info().maxsize) == (1, 4096)


@pytest.mark.parametrize(
    ("agent", "is_kept"),
    [(CHROME, True), (GMAIL, True), ("something else", True), ("Mozilla/5.0", False), ("curl/8.4.0", False)],
)
def test_drop_machines_drops_machines_and_keeps_what_is_unknown(make_client, events, agent, is_kept):
    answer = make_client(processors=[judge_open(), drop_machines]).get(url(None), headers={"User-Agent": agent})
    assert (answer.status_int, len(events)) == (200, int(is_kept))


@pytest.mark.parametrize("context", [None, {"open": "person"}, {"open": {"provider": "me"}}])
def test_drop_machines_alone_is_a_fault_that_says_so(make_client, events, caplog, context):
    make_client(processors=[drop_machines]).get(url(None, context=context), status=503)
    assert (events, "drop_machines needs judge_open before it" in caplog.text) == ([], True)


def test_the_documented_table_is_the_one_that_decides():
    page = (ROOT / "docs" / "how-to" / "opens.md").read_text("utf-8")
    rows = re.findall(r"^\| \d+ \| ([^|]*) \| (\w+) \| `(\w+)` \|", page, re.MULTILINE)
    assert [(verdict, reason, signs.replace("`", "")) for signs, verdict, reason in rows] == [
        (rule.by, rule.reason, rule.signs or "none of these") for rule in RULES
    ]
