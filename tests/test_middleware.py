"""What a client is answered, what reaches the sink, and what an operator is told."""

import functools
import io
import json
import logging
import threading
from pathlib import Path
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
import webtest
from conftest import host_app
from hypothesis import given
from hypothesis import strategies as st

from pixel_middleware import BadPixel, ConfigurationError, PixelMiddleware, outcomes
from pixel_middleware.destinations.base import Destination
from pixel_middleware.processors import convert, honor_gpc, verify_signature
from pixel_middleware.sinks import JSONLines, tee
from pixel_middleware.wire.answers import GIF

PAGE = "/pixel/v1/page?writeKey=k&anonymousId=a"
TRACK = "/pixel/v1/track?writeKey=k&anonymousId=a&event=e"
EVERY_ANSWER = {
    "Cache-Control": "no-store, no-cache, must-revalidate, max-age=0, private",
    "Pragma": "no-cache",
    "Expires": "0",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Access-Control-Allow-Origin": "*",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}
TEXT = {"Content-Type": "text/plain; charset=utf-8"}
AMP = json.loads((Path(__file__).parent / "data" / "amp-requests.json").read_text("utf-8"))


@pytest.fixture(params=["wsgi", "asgi", "asgi, no thread"])
def face(request):
    """Every test of a client runs through both faces, and both ways of the second."""
    return request.param


def fail(event):
    raise OSError("no space left")


@pytest.fixture
def ticking(monkeypatch):
    """A clock for the log's lines that stands still; call it for a second to pass."""
    seconds = [1000.0]
    monkeypatch.setattr(outcomes.time, "monotonic", lambda: seconds[0])

    def tick():
        seconds[0] += outcomes.LOG_EVERY_S

    return tick


def headers_of(response):
    return dict(response.headerlist)


# Answers


def test_a_text_client_reads_ok(client, events):
    response = client.get(TRACK, status=200)
    assert (response.body, headers_of(response)) == (b"OK", EVERY_ANSWER | TEXT | {"Content-Length": "2"})
    assert [(event["type"], event["event"]) for event in events] == [("track", "e")]


@pytest.mark.parametrize(
    ("path", "headers", "image"),
    [
        pytest.param("page.gif", {}, True, id="the path asks"),
        pytest.param("page.gif", {"Sec-Fetch-Dest": "document"}, True, id="the path is asked first"),
        pytest.param("page", {"Sec-Fetch-Dest": "image", "Accept": "*/*"}, True, id="the browser says image"),
        pytest.param("page", {"Sec-Fetch-Dest": "empty", "Accept": "image/png"}, False, id="it says fetch()"),
        pytest.param("page", {"Accept": "image/avif,image/*,*/*;q=0.8"}, True, id="Accept names images"),
        pytest.param("page", {"Accept": "text/html,image/avif,*/*;q=0.8"}, False, id="and no text"),
        pytest.param("page", {"Accept": "*/*"}, False, id="curl"),
        pytest.param("page", {}, False, id="no header at all"),
    ],
)
def test_an_image_client_gets_an_image(client, path, headers, image):
    response = client.get(f"/pixel/v1/{path}?writeKey=k&anonymousId=a", headers=headers, status=200)
    expected = (GIF, "image/gif") if image else (b"OK", "text/plain; charset=utf-8")
    assert (response.body, response.headers["Content-Type"]) == expected


def test_the_gif_is_one_transparent_pixel():
    assert (len(GIF), GIF[:6], GIF[6:10], GIF[-1:]) == (43, b"GIF89a", b"\x01\0\x01\0", b";")


@pytest.mark.parametrize(("mode", "content_type"), [("text", "text/plain; charset=utf-8"), ("gif", "image/gif")])
def test_the_response_option_overrides_the_request(make_client, mode, content_type):
    client = make_client(response=mode)
    assert client.get(PAGE).headers["Content-Type"] == content_type
    assert client.get(PAGE.replace("?", ".gif?")).headers["Content-Type"] == content_type


def test_bad_input_is_answered_with_a_sentence_that_helps(client, events):
    response = client.get("/pixel/v1/track?writeKey=k&anonymousId=a", status=400)
    assert response.text == "event is missing; add event=... with the name of what happened"
    length = {"Content-Length": str(len(response.body))}
    assert headers_of(response) == EVERY_ANSWER | TEXT | length | {"X-Pixel-Error": "missing_event"}
    assert events == []


def test_bad_input_from_an_image_client_still_shows_an_image(client):
    response = client.get("/pixel/v1/track.gif?writeKey=k", status=400)
    assert response.body == GIF
    assert headers_of(response) == EVERY_ANSWER | {
        "Content-Type": "image/gif",
        "Content-Length": "43",
        "X-Pixel-Error": "missing_anonymous_id",
    }


def test_a_processor_that_gives_no_ids_does_not_stand_in_for_one(make_client):
    client = make_client(processors=[lambda event, request: event])
    answer = client.get(PAGE.partition("&")[0], status=400)
    assert answer.headers["X-Pixel-Error"] == "missing_anonymous_id"


@pytest.mark.parametrize(("suffix", "content_type"), [("", "text/plain; charset=utf-8"), (".gif", "image/gif")])
def test_what_the_sink_does_not_take_is_not_acknowledged(make_client, caplog, suffix, content_type):
    client = make_client(fail)
    response = client.get(PAGE.replace("?", f"{suffix}?"), status=503)
    assert headers_of(response) == EVERY_ANSWER | {
        "Content-Type": content_type,
        "Content-Length": str(len(response.body)),
        "X-Pixel-Error": "sink_failed",
        "Retry-After": "10",
    }
    assert client.app.stats()["failed"] == 1


# Paths and methods


@pytest.mark.parametrize("path", ["/", "/pixel", "/pixel/v1", "/pixel/v10/page", "/x/pixel/v1/page", "/pixel/v1x"])
def test_other_paths_are_the_host_apps(client, events, path):
    assert (client.get(f"{path}?writeKey=k&anonymousId=a").text, events) == ("host", [])


@pytest.mark.parametrize("path", ["/pixel/v1/", "/pixel/v1/identify", "/pixel/v1/page/", "/pixel/v1/page.png"])
def test_an_unknown_path_below_the_prefix_is_not_found(client, path):
    response = client.get(path, status=404)
    assert "/pixel/v1/page or /pixel/v1/track" in response.text
    assert (response.headers["X-Pixel-Error"], response.content_type) == ("not_found", "text/plain")


def test_the_prefix_may_be_any_path(make_client, events):
    client = make_client(prefix="/zähl")
    assert client.get("/z%C3%A4hl/page?writeKey=k&anonymousId=a").text == "OK"
    assert "/zähl/page" in client.get("/z%C3%A4hl/x", status=404).text
    assert (client.get(PAGE).text, len(events)) == ("host", 1)


@pytest.mark.parametrize("suffix", ["", ".gif"])
def test_head_is_answered_like_get_and_records_nothing(client, events, suffix):
    url = PAGE.replace("?", f"{suffix}?")
    head = client.head(url, status=200)
    assert (events, client.app.stats()["accepted"], head.body) == ([], 0, b"")
    assert headers_of(head) == headers_of(client.get(url))


def test_head_of_a_bad_pixel_is_refused_and_not_counted(client):
    assert client.head("/pixel/v1/page", status=400).headers["X-Pixel-Error"] == "missing_write_key"
    assert client.app.stats()["rejected"] == {}


def test_options_are_told(client, events):
    response = client.options(PAGE, status=204)
    assert headers_of(response) == EVERY_ANSWER | {
        "Allow": "GET, HEAD, OPTIONS",
        "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
        "Access-Control-Allow-Headers": "*",
        "Access-Control-Max-Age": "86400",
    }
    assert events == []


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
def test_other_methods_are_refused(client, events, method):
    response = getattr(client, method)(PAGE, status=405)
    assert (response.headers["Allow"], response.headers["X-Pixel-Error"], events) == (
        "GET, HEAD, OPTIONS",
        "method_not_allowed",
        [],
    )


def test_a_refused_body_is_not_read():
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(name)

    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/pixel/v1/page", "wsgi.input": Untouchable()}
    statuses = []
    PixelMiddleware(host_app, print)(environ, lambda status, headers: statuses.append(status))
    assert statuses == ["405 Method Not Allowed"]


# The event's way


def test_what_the_server_knows_completes_the_event(client, events):
    headers = {
        "User-Agent": "Mozilla/5.0 (Windows NT 10.0; Win64)",
        "Accept-Language": "en-GB;q=0.9, de",
        "Referer": "https://shop.example/",
    }
    client.get(TRACK, headers=headers, extra_environ={"REMOTE_ADDR": "192.0.2.7"})
    assert events[0]["request_ip"] == "192.0.2.7"
    assert events[0]["context"] == {
        "ip": "192.0.2.7",
        "userAgent": "Mozilla/5.0 (Windows NT 10.0; Win64)",
        "locale": "en-GB",
        "page": {"url": "https://shop.example/"},
    }


def test_headers_are_read_as_utf8_and_any_language_is_none(client, events):
    client.get(TRACK, extra_environ={"HTTP_USER_AGENT": "M\xc3\xbcll\xff", "HTTP_ACCEPT_LANGUAGE": "*"})
    assert events[0]["context"] == {"userAgent": "Müll\ufffd"}


def test_a_trusted_proxy_names_the_client(make_client, events):
    forwarded = {"X-Forwarded-For": "6.6.6.6, 203.0.113.9"}
    make_client(trusted_proxies=1).get(TRACK, headers=forwarded)
    assert (events[0]["request_ip"], events[0]["context"]["ip"]) == ("203.0.113.9", "203.0.113.9")


@pytest.mark.parametrize("request_", AMP, ids=[f"{n} {request['scenario']}" for n, request in enumerate(AMP)])
def test_what_the_real_amp_runtime_sends_becomes_an_event(client, events, request_):
    headers = {name: value for name, value in request_["headers"] if name != "Connection"}
    assert client.get(request_["raw_path"], headers=headers, status=200).body == GIF
    (event,) = events
    assert event["type"] in request_["raw_path"]
    assert event["anonymousId"].isascii()
    assert "Chrome/156" in event["context"]["userAgent"]
    if event["type"] == "page":
        assert event["name"] in ("My Page", "My AMP Page")
        assert event["context"]["page"]["referrer"] == ""
        assert event["properties"]["url"] == event["context"]["page"]["url"]


@pytest.mark.parametrize("write_keys", [["k", "other"], {"k"}, lambda key: key == "k"])
def test_only_known_write_keys_are_accepted(make_client, events, write_keys):
    client = make_client(write_keys=write_keys)
    client.get(PAGE, status=200)
    response = client.get("/pixel/v1/page?writeKey=stranger&anonymousId=a", status=400)
    assert (response.headers["X-Pixel-Error"], "stranger" in response.text, len(events)) == (
        "invalid_write_key",
        False,
        1,
    )


def test_a_user_id_is_enough_where_the_anonymous_id_is_optional(make_client, events):
    make_client(require_anonymous_id=False).get("/pixel/v1/page?writeKey=k&userId=u", status=200)
    assert "anonymousId" not in events[0]


def test_processors_run_in_order_before_the_sink(make_client, events):
    def tag(event, request):
        return event | {"order": "tag", "method": request.method}

    def append(event, request):
        event["order"] += ", append"
        return event

    make_client(processors=[tag, append]).get(PAGE, status=200)
    assert (events[0]["order"], events[0]["method"]) == ("tag, append", "GET")


def test_a_dropped_event_is_answered_like_an_accepted_one(make_client, events):
    reached = []
    client = make_client(processors=[lambda event, request: None, lambda event, request: reached.append(event)])
    assert client.get(PAGE, status=200).text == "OK"
    assert (events, reached, client.app.stats()["dropped"]) == ([], [], 1)


def test_a_processor_may_refuse_an_event(make_client, events):
    def refuse(event, request):
        raise BadPixel("invalid_name", "no such event in the plan")

    client = make_client(processors=[refuse])
    assert client.get(PAGE, status=400).text == "no such event in the plan"
    assert (events, client.app.stats()["rejected"]) == ([], {"invalid_name": 1})


@pytest.mark.parametrize("broken", ["sink", "processor", "write_keys"])
def test_a_failure_is_logged_once_with_its_traceback_and_without_the_payload(make_client, caplog, broken):
    def raises(*args):
        raise OSError("disk is full")

    options = {"sink": {"sink": raises}, "processor": {"processors": [raises]}, "write_keys": {"write_keys": raises}}
    make_client(**options[broken]).get("/pixel/v1/page?writeKey=k&anonymousId=a&properties.s=secret", status=503)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("pixel_middleware", logging.ERROR)
    assert "OSError: disk is full" in caplog.text
    assert "secret" not in caplog.text


def test_a_sink_cannot_call_an_accepted_request_bad(make_client, caplog):
    def confused(event):
        raise BadPixel("invalid_name", "not mine to say")

    assert "not mine" not in make_client(confused).get(PAGE, status=503).text


def generator_sink(event):
    yield event


async def store_later(*args):
    raise AssertionError("nobody runs this")


class Pending:
    """Something to be awaited that is no coroutine, like a task."""

    def __init__(self, *args):
        pass

    def __await__(self):
        raise AssertionError("nobody runs this")


@pytest.mark.parametrize("face", ["wsgi"])  # the other awaits what a sink returns: see test_asgi
@pytest.mark.parametrize("lazy", [store_later, Pending, generator_sink], ids=lambda lazy: lazy.__name__)
@pytest.mark.parametrize("where", ["sink", "tee", "processors", "write_keys"])
def test_work_that_nobody_runs_is_a_failure_and_no_acceptance(make_client, caplog, lazy, where):
    """A plain function that returns a coroutine cannot be told from a good one before it is called."""

    def returns(*args):
        return lazy(*args[:1])

    options = {"processors": {"processors": [returns]}, "write_keys": {"write_keys": returns}}
    client = make_client({"sink": returns, "tee": tee(returns)}.get(where), **options.get(where, {}))
    assert client.get(PAGE, status=503).headers["X-Pixel-Error"] == "sink_failed"
    assert "which nobody runs; use a plain function" in caplog.text


def test_tee_hands_an_event_to_each(make_client, events):
    others = []
    make_client(tee(events.append, others.append)).get(PAGE, status=200)
    assert (len(events), others) == (1, events)


def test_a_sink_in_c_that_tells_no_signature_is_taken(make_client):
    assert make_client(max).get(PAGE, status=200).text == "OK"


@pytest.mark.parametrize("sinks", [(), (store_later,), (print, 3)], ids=["none", "async", "no callable"])
def test_tee_takes_only_sinks(sinks):
    with pytest.raises(
        ConfigurationError, match=r"tee takes at least one sink|sinks must be a callable that takes one"
    ):
        tee(*sinks)


@pytest.mark.parametrize("returned", [True, "event", 1.5, [{}]])
def test_a_processor_that_returns_no_event_is_a_failure(make_client, events, caplog, returned):
    def answers_yes(event, request):
        return returned

    assert make_client(processors=[answers_yes]).get(PAGE, status=503).headers["X-Pixel-Error"] == "sink_failed"
    assert f"answers_yes returned {type(returned).__name__}; it must return the event, or None" in caplog.text
    assert events == []


def test_a_processor_may_give_a_reason_of_its_own(make_client):
    def refuse(event, request):
        raise BadPixel("not_in_the_plan", "send\r\none of\nours")

    client = make_client(processors=[refuse])
    answer = client.get(PAGE, status=400)
    assert (answer.headers["X-Pixel-Error"], answer.text) == ("not_in_the_plan", "send one of ours")
    assert client.app.stats()["rejected"] == {"not_in_the_plan": 1}


@pytest.mark.parametrize("reason", ["", "x\r\nSet-Cookie: a=b", "UPPER", "a" * 41, "a-b", "grün", None, b"x"])
def test_no_input_reaches_a_header_or_the_log_as_a_reason(make_client, caplog, reason):
    def refuse(event, request):
        raise BadPixel(reason, "message")

    answer = make_client(processors=[refuse]).get(PAGE, status=503)
    assert (answer.headers["X-Pixel-Error"], "Set-Cookie" in answer.headers) == ("sink_failed", False)
    assert "reason must be 1 to 40 of a-z and _" in caplog.text
    assert "a=b" not in caplog.text.replace("raise BadPixel", "")


def log_of(caplog, client, count=1000, status=None):
    caplog.set_level(logging.INFO, "pixel_middleware")
    for _ in range(count):
        client.get(f"{PAGE}&properties.s=secret", status=status)
    assert "secret" not in caplog.text
    return caplog.text


def test_a_thousand_failures_are_one_traceback_and_then_counts(make_client, caplog):
    text = log_of(caplog, make_client(fail), status=503)
    assert (text.count("Traceback"), text.count("OSError: no space left")) == (1, 1)
    assert len(text) < 20_000


def test_two_causes_of_failure_have_a_traceback_each(make_client, caplog):
    def sink(event):
        return fail(event) if event["type"] == "page" else {}["second"]

    client = make_client(sink)
    for url in (PAGE, TRACK, PAGE, TRACK):
        client.get(url, status=503)
    assert [caplog.text.count(each) for each in ("Traceback", "OSError: no space left", "KeyError: 'second'")] == [
        2,
        1,
        1,
    ]


def test_counts_of_failures_say_where_they_came_from(make_client, caplog, ticking):
    client = make_client(fail)
    for _ in range(3):
        client.get(PAGE, status=503)
        ticking()
    line = fail.__code__.co_firstlineno + 1
    assert [record.getMessage() for record in caplog.records] == [
        "an event was not accepted, and its pixel was answered 503",
        f"pixels failed: error=OSError at test_middleware.py:{line} count=1 total=2",
        f"pixels failed: error=OSError at test_middleware.py:{line} count=1 total=3",
    ]


def test_drops_are_logged_with_their_processor_the_first_as_a_warning(make_client, caplog, ticking):
    client = make_client(processors=[honor_gpc])
    caplog.set_level(logging.INFO, "pixel_middleware")
    for _ in range(2):
        for _ in range(500):
            client.get(PAGE, headers={"Sec-GPC": "1"})
        ticking()
        client.get(PAGE, headers={"Sec-GPC": "1"})
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "pixels dropped: processor=honor_gpc count=1 total=1"),
        ("INFO", "pixels dropped: processor=honor_gpc count=500 total=501"),
        ("INFO", "pixels dropped: processor=honor_gpc count=501 total=1002"),
    ]
    assert client.app.stats()["dropped"] == 1002


def test_reasons_without_end_are_counted_as_others(make_client, caplog):
    numbers = iter(range(300))

    def refuse(event, request):
        raise BadPixel("".join(chr(97 + int(digit)) for digit in str(next(numbers))), "no")

    client = make_client(processors=[refuse])
    log_of(caplog, client, 300, status=400)
    rejected = client.app.stats()["rejected"]
    assert (len(rejected), rejected["others"], sum(rejected.values())) == (101, 200, 300)


def test_a_server_that_strips_the_proxies_header_is_named_once(make_client, events, caplog):
    client = make_client(trusted_proxies=1)
    client.get(PAGE, headers={"X-Forwarded-For": "192.0.2.9"})
    assert caplog.text == ""
    for _ in range(3):
        client.get(PAGE)
    (record,) = caplog.records
    assert "trusted_proxies=1, but a request has no X-Forwarded-For" in record.getMessage()
    assert record.name == "pixel_middleware"
    assert "clear_untrusted_proxy_headers=False" in record.getMessage()


def test_stats_count_each_outcome(make_client, caplog):
    def sink(event):
        if event["anonymousId"] == "bad":
            raise OSError

    client = make_client(sink, processors=[lambda event, request: event if event["type"] == "track" else None])
    for url, status in [
        (TRACK, 200),
        (TRACK, 200),
        (PAGE, 200),
        (TRACK.replace("=a", "=bad"), 503),
        ("/pixel/v1/track", 400),
        ("/pixel/v1/x", 404),
        ("/elsewhere", 200),
    ]:
        client.get(url, status=status)
    client.post(PAGE, status=405)
    expected = {
        "accepted": 2,
        "dropped": 1,
        "failed": 1,
        "rejected": {"missing_write_key": 1, "not_found": 1, "method_not_allowed": 1},
    }
    snapshot = client.app.stats()
    assert snapshot == expected
    snapshot["rejected"]["not_found"] = 99
    assert client.app.stats() == expected


def test_no_count_is_lost_among_32_threads(events):
    app = PixelMiddleware(host_app, events.append)
    start = threading.Barrier(32)

    def post_many():
        client = webtest.TestApp(app, lint=True)
        start.wait()
        for _ in range(25):
            client.get(TRACK)
            client.get("/pixel/v1/track", status=400)

    threads = [threading.Thread(target=post_many, daemon=True) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert app.stats() == {"accepted": 800, "dropped": 0, "failed": 0, "rejected": {"missing_write_key": 800}}
    assert len({event["messageId"] for event in events}) == 800


@given(st.binary(max_size=300), st.sampled_from(["page", "track", "page.gif"]))
def test_any_query_string_is_answered(query, path):
    environ = {"SCRIPT_NAME": "", "PATH_INFO": f"/pixel/v1/{path}", "QUERY_STRING": query.decode("latin-1")}
    setup_testing_defaults(environ)
    assert answer_to(environ) in ("200 OK", "400 Bad Request")


PAIRS = """writeKey=k anonymousId=a anonymousId=%22 userId= event=e name name= = .. %00 integrations type.x context=1
context.page=x context.page.0=x properties.a=1 properties.a.0=1 a.b=%ff"""


@given(st.lists(st.sampled_from(PAIRS.split())).map("&".join))
def test_any_mix_of_names_is_answered(query):
    environ = {"SCRIPT_NAME": "", "PATH_INFO": "/pixel/v1/page", "QUERY_STRING": query, "HTTP_REFERER": "x"}
    setup_testing_defaults(environ)
    assert answer_to(environ) in ("200 OK", "400 Bad Request")


def answer_to(environ):
    """The status, checked by wsgiref.validate on both sides of the middleware."""
    statuses = []
    app = validator(PixelMiddleware(validator(host_app), json.dumps))
    body = app(environ, lambda status, headers, exc_info=None: statuses.append(status))
    list(body)
    body.close()
    return statuses[0]


# Options


async def coroutine_sink(event):
    """Nobody would await it."""


async def async_generator_sink(event):
    yield event


class Elsewhere(Destination):
    def send(self, events):
        """Nobody would call it."""


class CoroutineSink:
    async def __call__(self, event):
        """Nobody would await it."""


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ({"app": None}, "app must be a WSGI app, got None"),
        ({"sink": 3}, "sink must be a callable that takes one event, got 3"),
        ({"sink": coroutine_sink}, "and no coroutine function"),
        ({"sink": CoroutineSink()}, "and no coroutine function"),
        ({"prefix": "pixel"}, "prefix must be a path like"),
        ({"prefix": "/pixel/"}, "prefix must be a path like"),
        ({"prefix": "/"}, "prefix must be a path like"),
        ({"prefix": None}, "prefix must be a path like"),
        ({"response": "png"}, 'response must be "auto", "text" or "gif", got \'png\''),
        ({"response": []}, "response must be"),
        ({"write_keys": "abc"}, "write_keys must be None, a collection of keys, or a callable"),
        ({"write_keys": []}, "write_keys must be None, a collection"),
        ({"write_keys": 1}, "write_keys must be None, a collection"),
        ({"write_keys": ["k", 1]}, "write_keys must be strings that are not blank, got 1"),
        ({"write_keys": ["k", " "]}, "write_keys must be strings that are not blank"),
        ({"write_keys": coroutine_sink}, "and no coroutine function"),
        ({"require_anonymous_id": "false"}, "require_anonymous_id must be True or False, got 'false'"),
        ({"processors": print}, "processors must be a list"),
        ({"processors": "abc"}, "processors must be a list"),
        ({"sink": generator_sink}, "and no generator, which nobody runs"),
        ({"sink": async_generator_sink}, "and no coroutine function"),
        ({"sink": functools.partial(coroutine_sink)}, "and no coroutine function"),
        ({"sink": JSONLines}, "JSONLines is a class, so make one: JSONLines(...), got <class"),
        ({"sink": lambda: None}, "sink must be a callable that takes one event (too many positional arguments)"),
        (
            {"sink": Elsewhere()},
            "Elsewhere is a destination, not a sink; put it into an EventLog",
        ),
        ({"app": [].append, "sink": host_app}, "app must be a WSGI app (too many positional arguments), got <built-in"),
        ({"app": [].append}, "app must be a WSGI app (too many positional arguments)"),
        ({"sink": host_app}, "sink must be a callable that takes one event (missing a required argument: 'start_resp"),
        ({"processors": [convert]}, "convert is a class, so give it its arguments: convert(...)"),
        ({"processors": [verify_signature]}, "verify_signature is a class, so give it its arguments"),
        ({"processors": [lambda event: event]}, "processors must be a callable that takes an event and a request (too"),
        ({"write_keys": lambda: True}, "write_keys must be a callable (key) -> bool (too many positional arguments)"),
        ({"processors": [1]}, "processors must be a callable"),
        ({"trusted_proxies": -1}, "trusted_proxies must be a whole number of at least 0, got -1"),
        ({"trusted_proxies": True}, "trusted_proxies must be a whole number"),
        ({"max_query_bytes": 0}, "max_query_bytes must be a whole number of at least 1, got 0"),
        ({"max_params": "10"}, "max_params must be a whole number of at least 1, got '10'"),
        ({"max_event_bytes": 100}, "max_event_bytes must be a whole number of at least 1024, got 100"),
        ({"max_depth": 201}, "max_depth must be a whole number of at least 1 and at most 200, got 201"),
    ],
)
def test_a_wrong_option_says_what_was_given_and_what_is_accepted(options, accepted):
    with pytest.raises(ConfigurationError) as caught:
        PixelMiddleware(**{"app": host_app, "sink": print} | options)
    assert accepted in str(caught.value)
    assert caught.value.option in options


def test_an_asgi_app_is_told_its_own_face():
    async def app(scope, receive, send):
        raise AssertionError("nobody calls this")

    with pytest.raises(ConfigurationError, match=r"for an ASGI app \(FastAPI, Starlette\) use pixel_middleware.asgi"):
        PixelMiddleware(app, print)


def test_without_a_prefix_every_path_is_the_endpoints(make_client, events):
    client = make_client(prefix="")
    client.get("/track.gif?writeKey=k&anonymousId=a&event=e", status=200)
    assert client.get("/", status=404).text == (
        "there is no such pixel; use /page or /track, with .gif behind it for an image"
    )
    assert [event["event"] for event in events] == ["e"]


def test_beacons_are_recorded_if_wanted_and_their_bodies_are_not_read(make_client, events):
    client = make_client(beacons=True)
    body = io.BytesIO(b"writeKey=other")
    response = client.post(TRACK, extra_environ={"wsgi.input": body}, headers={"Content-Type": "text/ping"})
    assert (response.body, [event["writeKey"] for event in events], body.tell()) == (b"OK", ["k"], 0)
    assert client.post(PAGE.partition("&")[0], status=400).headers["X-Pixel-Error"] == "missing_anonymous_id"
    refused = client.put(TRACK, status=405)
    assert refused.headers["Allow"] == client.options(TRACK).headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    assert client.app.stats()["rejected"] == {"missing_anonymous_id": 1, "method_not_allowed": 1}


def test_the_deepest_event_that_may_be_configured_is_mapped(make_client, events):
    client = make_client(json.dumps, max_depth=200)
    client.get(f"{PAGE}&{'a.' * 199}0=1", status=200)
