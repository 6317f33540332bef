"""What the ASGI face adds to the conformance suite, which runs through it too: see `face` in test_middleware."""

import asyncio
import contextlib
import contextvars
import json
import os
import sys
import threading
from contextlib import closing
from unittest.mock import Mock

import pytest
from asgi_driver import get
from processes import PATIENCE_S, TESTS, until, until_up
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from test_servers import Site
from websockets.sync.client import connect

from pixel_middleware import ConfigurationError
from pixel_middleware.asgi import PixelMiddleware
from pixel_middleware.async_endpoint import QUICK_BYTES, THREADS
from pixel_middleware.destinations import Destination
from pixel_middleware.events import never_waits
from pixel_middleware.processors import anonymize_ip, convert, drop_ip, honor_dnt, honor_gpc
from pixel_middleware.runtime import group_commit
from pixel_middleware.runtime.pool import Pool
from pixel_middleware.sinks import EventLog, JSONLines

TRACK = "/pixel/v1/track?writeKey=k&anonymousId=a&event=e"


async def host(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"host"})


# Pass-through


@pytest.mark.parametrize(
    "scope",
    [
        {"type": "http", "path": "/", "root_path": ""},
        {"type": "http", "path": "/pixel/v1"},
        {"type": "http", "path": "/pixel/v10/page"},
        {"type": "http", "path": "/a/pixel/v1/page"},
        {"type": "websocket", "path": "/pixel/v1/page"},
        {"type": "lifespan"},
        {"type": "an extension of tomorrow"},
    ],
    ids=str,
)
def test_what_is_no_pixel_reaches_the_app_with_the_same_objects(scope, events):
    seen = []

    async def spy(*given):
        seen.append(given)

    async def receive():
        raise AssertionError("nothing of it is read")

    async def send(message):
        raise AssertionError("and nothing is sent")

    before = dict(scope)
    asyncio.run(PixelMiddleware(spy, events.append)(scope, receive, send))
    assert [[id(each) for each in given] for given in seen] == [[id(scope), id(receive), id(send)]]
    assert (scope, events) == (before, [])


# Mounts


@pytest.mark.parametrize(
    ("path", "root_path", "prefix"),
    [
        ("/app/pixel/v1/track", "/app", "/pixel/v1"),  # as the specification has it
        ("/app/pixel/v1/track", "/app/", "/pixel/v1"),
        ("/pixel/v1/track", "/app", "/pixel/v1"),  # as servers had it that read the specification otherwise
        ("/pixel/v1/track", "/pixel/v1", ""),
        ("/grüße/v1/track", "/grüße", "/v1"),
        ("/a/grüße/track", "/a", "/grüße"),
    ],
)
def test_what_a_mount_takes_of_the_path_is_no_part_of_the_prefix(events, path, root_path, prefix):
    app = PixelMiddleware(host, events.append, prefix=prefix)
    status, _, body = asyncio.run(get(app, f"{path}?writeKey=k&anonymousId=a&event=e", root_path=root_path))
    assert (status, body, len(events)) == (200, b"OK", 1)


def test_starlette_takes_it_as_middleware_and_as_a_mount(events):
    async def page(request):
        return PlainTextResponse("page")

    app = Starlette(routes=[Route("/", page), Mount("/mail", PixelMiddleware(host, events.append, prefix=""))])
    app.add_middleware(PixelMiddleware, sink=events.append)
    targets = ["/", TRACK, "/mail/track?writeKey=k&anonymousId=a&event=opened"]
    bodies = [asyncio.run(get(app, target, root_path=""))[2] for target in targets]
    assert bodies == [b"page", b"OK", b"OK"]
    assert [event["event"] for event in events] == ["e", "opened"]


def test_the_amp_configuration_names_the_mount():
    app = PixelMiddleware(host, print, amp=True)
    scope = {"root_path": "/shop", "server": ("shop.example", 80), "headers": [("Host", "shop.example")]}
    status, _, body = asyncio.run(get(app, "/shop/pixel/v1/amp.json", **scope))
    configuration = json.loads(body)
    url = configuration["requestOrigin"] + configuration["requests"]["page"]["baseUrl"]
    assert (status, url.partition("?")[0]) == (200, "https://shop.example/shop/pixel/v1/page.gif")


# What a server tells of a request


def event_of(events, **scope):
    """The event of a request with these parts of a scope."""
    asyncio.run(get(PixelMiddleware(host, events.append, trusted_proxies=1), TRACK, **scope))
    return events.pop()


def test_an_unknown_address_is_unknown(events):
    unix_socket = {"client": None, "server": ("/run/app.sock", None)}
    assert event_of(events, **unix_socket)["request_ip"] == ""
    assert event_of(events, client=("192.0.2.7", 1))["request_ip"] == "192.0.2.7"


def test_lines_of_one_header_are_joined(events):
    headers = [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", "192.0.2.2"), ("X-Forwarded-For", "192.0.2.3")]
    assert event_of(events, headers=headers)["request_ip"] == "192.0.2.3"


def test_a_header_with_an_underscore_overwrites_none_of_the_proxys(events):
    headers = [("X-Forwarded-For", "192.0.2.1"), ("X_Forwarded_For", "203.0.113.9")]
    assert event_of(events, headers=headers)["request_ip"] == "192.0.2.1"


def test_cookies_reach_processors_and_no_body_does(events):
    seen = []

    def look(event, request):
        seen.append((dict(request.cookies), request.content_type, request.body))
        return event

    headers = [("Cookie", "a=1"), ("Cookie", "b=2"), ("Content-Length", "9"), ("Content-Type", "text/ping")]
    app = PixelMiddleware(host, events.append, processors=[look], beacons=True)
    asyncio.run(get(app, TRACK, "POST", headers))
    assert seen == [({"a": "1", "b": "2"}, "text/ping", b"")]


# Sinks


def test_an_async_sink_is_awaited_in_the_event_loop(events):
    async def sink(event):
        await asyncio.sleep(0)
        events.append((asyncio.get_running_loop(), event["event"]))

    async def one():
        answered = await get(PixelMiddleware(host, sink), TRACK)
        return answered[0], events == [(asyncio.get_running_loop(), "e")]

    assert asyncio.run(one()) == (200, True)


def test_an_async_sink_that_fails_has_its_event_not_accepted(caplog):
    class Store:
        async def __call__(self, event):
            raise OSError("no space left")

    status, headers, _ = asyncio.run(get(PixelMiddleware(host, Store()), TRACK))
    assert (status, headers[b"x-pixel-error"]) == (503, b"sink_failed")
    assert "no space left" in caplog.text


def test_what_a_plain_sink_returns_to_be_awaited_is_awaited(events):
    async def store(event):
        events.append(event)

    assert asyncio.run(get(PixelMiddleware(host, lambda event: store(event)), TRACK))[0] == 200
    assert len(events) == 1


def test_a_slow_sink_holds_up_neither_the_loop_nor_another_pixel(events):
    both_wait = threading.Barrier(2, timeout=PATIENCE_S)

    def sink(event):
        both_wait.wait()
        released.wait(PATIENCE_S)
        events.append(event)

    async def two():
        app = PixelMiddleware(host, sink)
        pixels = [asyncio.create_task(get(app, TRACK)) for _ in range(2)]
        pages = [(await get(app, "/"))[2] for _ in range(3)]
        released.set()
        return pages, [status for status, _, _ in await asyncio.gather(*pixels)]

    released = threading.Event()
    assert asyncio.run(two()) == ([b"host"] * 3, [200, 200])
    assert len(events) == 2


def test_more_pixels_than_threads_wait_their_turn(events):
    async def many():
        app = PixelMiddleware(host, events.append)
        return [status for status, _, _ in await asyncio.gather(*(get(app, TRACK) for _ in range(3 * THREADS)))]

    assert asyncio.run(many()) == [200] * 3 * THREADS
    assert len(events) == 3 * THREADS


def test_sinks_see_the_context_of_the_request(events):
    user = contextvars.ContextVar("user")

    async def one():
        user.set("Ann")
        await get(PixelMiddleware(host, lambda event: events.append(user.get())), TRACK)

    asyncio.run(one())
    assert events == ["Ann"]


def test_a_sink_is_started_once_unless_that_has_to_be_awaited():
    started = []

    class Plain:
        def __call__(self, event):
            pass

        def start(self):
            started.append(type(self).__name__)

    class Awaited(Plain):
        async def start(self):
            raise AssertionError("only the app can await it")

    PixelMiddleware(host, Plain())
    PixelMiddleware(host, Awaited())
    assert started == ["Plain"]


# Sinks that need no thread


@pytest.fixture
def no_threads(monkeypatch):
    def submit(*given):
        raise AssertionError("a thread is used")

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", submit)


QUICK = {"processors": [honor_gpc, anonymize_ip, convert({"properties.n": int}), drop_ip, honor_dnt]}


def test_a_pixel_that_waits_for_an_event_log_holds_no_thread(log, no_threads):
    async def many():
        app = PixelMiddleware(host, log, write_keys={"k"}, refused=log.refused, **QUICK)
        answers = [get(app, f"{TRACK}&properties.n={number}") for number in range(100)]
        answers += [get(app, TRACK, "HEAD"), get(app, TRACK.replace("Key=k", "Key=x")), get(app, "/pixel/v1/x")]
        statuses = [status for status, _, _ in await asyncio.gather(*answers)]
        return statuses, app.stats()

    statuses, stats = asyncio.run(many())
    assert statuses == [200] * 101 + [400, 404]
    assert (stats["accepted"], stats["rejected"]) == (100, {"invalid_write_key": 1, "not_found": 1})
    numbers = log.read("SELECT event ->> '$.properties.n' FROM events ORDER BY 1")
    assert numbers == [(number,) for number in range(100)]


def test_json_lines_need_no_thread_either(tmp_path, no_threads):
    lines = JSONLines(tmp_path / "events.jsonl")
    assert asyncio.run(get(PixelMiddleware(host, lines), TRACK))[0] == 200
    assert [json.loads(line)["event"] for line in lines.lines()] == ["e"]


def wait_for(event, request=None):
    assert threading.current_thread().name.startswith("pixel-requests")
    return event


@pytest.mark.parametrize(
    "options",
    [
        {"processors": [honor_gpc, wait_for]},
        {"processors": [convert({"properties.plan": wait_for})]},
        {"write_keys": wait_for},
        {"refused": wait_for, "write_keys": {"another"}},
        {"max_query_bytes": QUICK_BYTES},  # a longer query is not even looked at in the loop
    ],
    ids=["processor", "what a processor calls", "write_keys", "refused", "long query"],
)
def test_what_may_wait_does_so_in_a_thread(log, options):
    app = PixelMiddleware(host, log, **options)
    padding = "x" * QUICK_BYTES if "max_query_bytes" in options else ""
    used = []
    run = app._endpoint._pool.run
    app._endpoint._pool.run = lambda *given: used.append(1) or run(*given)
    status, _, _ = asyncio.run(get(app, f"{TRACK}&properties.plan=pro&properties.x={padding}"))
    expected = 400 if padding or "refused" in options else 200
    assert (status, used, len(log.read("SELECT 1 FROM events"))) == (expected, [1], int(expected == 200))


def test_an_event_that_no_commit_would_store_is_a_failure_at_once(log, no_threads, caplog):
    @never_waits
    def spoil(event, request):
        event["properties"] = {"a": {1, 2}}
        return event

    async def one():
        app = PixelMiddleware(host, log, processors=[spoil])
        return (await get(app, TRACK))[0], app.stats()["failed"]

    assert asyncio.run(one()) == (503, 1)
    assert "not JSON serializable" in caplog.text


def test_a_log_that_cannot_be_had_fails_its_pixel_and_holds_up_nobody(log, no_threads, monkeypatch, caplog):
    monkeypatch.setattr(group_commit, "WAIT_S", 0.2)

    async def one():
        app = PixelMiddleware(host, log)
        assert log.file.take_turn(wait=False)
        pixel = asyncio.create_task(get(app, TRACK))
        pages = 0
        while not pixel.done():
            pages += (await get(app, "/"))[2] == b"host"
            await asyncio.sleep(0)
        log.file.end_turn()
        monkeypatch.setattr(group_commit, "WAIT_S", PATIENCE_S)
        return (await pixel)[:2], pages > 1, (await get(app, TRACK))[0]

    (status, headers), was_served, then = asyncio.run(one())
    assert (status, headers[b"x-pixel-error"], was_served, then) == (503, b"sink_failed", True, 200)
    assert "could not be had within 0.2 s" in caplog.text
    assert log.read("SELECT count(*) FROM events") == [(1,)]


def test_a_pixel_that_is_cancelled_while_it_waits_for_the_disk_is_kept_and_counted(log, no_threads):
    async def one():
        app = PixelMiddleware(host, log)
        assert log.file.take_turn(wait=False)
        pixel = asyncio.create_task(get(app, TRACK))
        await asyncio.sleep(0)
        pixel.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pixel
        log.file.end_turn()
        return (await get(app, TRACK))[0], app.stats()["accepted"]

    assert asyncio.run(one()) == (200, 2)
    assert log.read("SELECT count(*) FROM events") == [(2,)]


def test_a_mock_is_a_plain_sink():
    sink = Mock()
    assert asyncio.run(get(PixelMiddleware(host, sink), TRACK))[0] == 200
    sink.assert_called_once()


def test_nobody_waits_for_ever_if_it_cannot_be_told_what_became_of_an_event(log, no_threads, monkeypatch):
    app = PixelMiddleware(host, log)
    monkeypatch.setattr(app._endpoint._endpoint, "settle", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(asyncio.wait_for(get(app, TRACK), PATIENCE_S))


def test_what_a_loop_puts_into_a_log_is_sent_on(tmp_path):
    class Recorder(Destination):
        def send(self, events):
            sent.extend(event["event"] for event in events)

    sent = []
    with closing(EventLog(tmp_path / "events.db", {"it": Recorder()})) as log:
        assert asyncio.run(get(PixelMiddleware(host, log), TRACK))[0] == 200
        until(lambda: sent == ["e"], "the event at its destination")


FORKING = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
from asgi_driver import get
from pixel_middleware.asgi import PixelMiddleware
from pixel_middleware.sinks import JSONLines

async def host(scope, receive, send):
    pass

def pixel():
    assert asyncio.run(get(app, "/pixel/v1/track?writeKey=k&anonymousId=a&event=e"))[0] == 200

app = PixelMiddleware(host, JSONLines(sys.argv[2]))
pixel()
child = os.fork()
pixel()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_has_threads_of_its_own(run, tmp_path):
    environment = os.environ | {"PYTHONDEVMODE": ""}  # or asyncio would print what it calls slow
    done = run([sys.executable, "-W", "ignore", "-c", FORKING, TESTS, tmp_path / "events.jsonl"], env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert len((tmp_path / "events.jsonl").read_text("utf-8").splitlines()) == 3


# Clients that leave


def test_the_event_of_a_client_that_left_is_kept_and_nobody_is_hurt(events):
    async def send(message):
        raise OSError("the client has left")

    async def one():
        app = PixelMiddleware(host, events.append)
        scope = {"method": "GET", "path": "/pixel/v1/track", "query_string": b"writeKey=k&anonymousId=a&event=e"}
        await app(scope | {"type": "http", "http_version": "1.1", "headers": []}, None, send)

    asyncio.run(one())
    assert len(events) == 1


def test_the_event_of_a_request_that_is_cancelled_is_kept(events):
    entered, released, kept = threading.Event(), threading.Event(), threading.Semaphore(0)

    def sink(event):
        entered.set()
        released.wait(PATIENCE_S)
        events.append(event)
        kept.release()

    async def one():
        app = PixelMiddleware(host, sink)
        pixel = asyncio.create_task(get(app, TRACK))
        await asyncio.to_thread(entered.wait, PATIENCE_S)
        pixel.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pixel
        released.set()
        return await get(app, TRACK)

    assert asyncio.run(one())[0] == 200
    assert kept.acquire(timeout=PATIENCE_S)
    assert kept.acquire(timeout=PATIENCE_S)
    assert len(events) == 2


# Too few threads


@pytest.fixture
def one_thread(monkeypatch):
    """An app whose sink holds its only thread until it is released; with the events that it took."""
    monkeypatch.setattr("pixel_middleware.runtime.pool.WAIT_S", PATIENCE_S)
    entered, released, kept = threading.Event(), threading.Event(), []

    def sink(event):
        entered.set()
        released.wait(PATIENCE_S)
        kept.append(event["event"])

    app = PixelMiddleware(host, sink)
    app._endpoint._pool = Pool(1)
    return app, entered, released, kept


def named(name):
    return TRACK.replace("event=e", f"event={name}")


def test_the_event_of_a_request_that_is_cancelled_before_a_thread_was_free_is_kept_and_counted(one_thread):
    app, entered, released, kept = one_thread

    async def two():
        first = asyncio.create_task(get(app, named("first")))
        await asyncio.to_thread(entered.wait, PATIENCE_S)
        second = asyncio.create_task(get(app, named("second")))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        released.set()
        return (await first)[0], (await get(app, named("third")))[0]

    assert asyncio.run(two()) == (200, 200)
    assert (kept, app.stats()["accepted"]) == (["first", "second", "third"], 3)


def test_a_pixel_waits_for_a_thread_no_longer_than_for_the_disk_and_then_is_not_stored(one_thread, monkeypatch):
    app, entered, released, kept = one_thread

    async def three():
        first = asyncio.create_task(get(app, named("first")))
        await asyncio.to_thread(entered.wait, PATIENCE_S)
        monkeypatch.setattr("pixel_middleware.runtime.pool.WAIT_S", 0.01)
        late = [(await get(app, target))[:2] for target in (named("late"), named("late").replace("track", "track.gif"))]
        monkeypatch.setattr("pixel_middleware.runtime.pool.WAIT_S", PATIENCE_S)
        released.set()
        return (
            [(status, headers[b"x-pixel-error"]) for status, headers in late],
            (await first)[0],
            (await get(app, TRACK))[0],
        )

    assert asyncio.run(three()) == ([(503, b"sink_failed")] * 2, 200, 200)
    assert (kept, app.stats()["accepted"], app.stats()["failed"]) == (["first", "e"], 2, 2)


def test_without_a_thread_to_be_had_a_pixel_is_refused_at_once_and_never_stored(events, monkeypatch):
    def none_left(thread):
        raise RuntimeError("can't start new thread")

    app = PixelMiddleware(host, events.append)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        status, headers, _ = asyncio.run(get(app, named("refused")))
    assert (status, headers[b"x-pixel-error"]) == (503, b"sink_failed")
    assert asyncio.run(get(app, TRACK))[0] == 200
    assert [event["event"] for event in events] == ["e"]


def test_a_pixel_is_stored_even_if_its_loop_has_ended(one_thread):
    app, entered, released, kept = one_thread

    async def leave():
        pixel = asyncio.ensure_future(get(app, named("left behind")))
        await asyncio.to_thread(entered.wait, PATIENCE_S)
        return pixel

    asyncio.run(leave())
    released.set()
    until(lambda: kept == ["left behind"], "the event")
    assert asyncio.run(get(app, TRACK))[0] == 200


def test_the_call_of_a_subclass_is_not_passed_by(tmp_path):
    class Sales(EventLog):
        def __call__(self, event):
            if event["event"] == "Bought":
                super().__call__(event)

    with closing(Sales(tmp_path / "events.db")) as log:
        app = PixelMiddleware(host, log)
        assert [asyncio.run(get(app, named(name)))[0] for name in ("Bought", "Seen")] == [200, 200]
        assert log.read("SELECT name FROM events") == [("Bought",)]


# Options


def wsgi_app(environ, start_response):
    raise AssertionError("nobody calls this")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"app": wsgi_app}, r"app must be an ASGI app \(for a WSGI app use pixel_middleware.PixelMiddleware\)"),
        ({"app": None}, "app must be an ASGI app"),
        ({"sink": EventLog}, r"EventLog is a class, so make one: EventLog\(...\)"),
        ({"sink": host}, "sink must be a callable that takes one event .*missing a required argument"),
        ({"prefix": "pixel"}, 'prefix must be a path like "/pixel/v1"'),
        ({"processors": [host]}, "and no coroutine function"),
    ],
)
def test_a_wrong_option_says_what_is_right(options, error):
    with pytest.raises(ConfigurationError, match=error):
        PixelMiddleware(**{"app": host, "sink": print} | options)


# Servers

SERVERS = {
    "uvicorn": ("-m", "uvicorn", "--host=127.0.0.1", "--port={port}", "--log-level=warning"),
    "hypercorn": ("-m", "hypercorn", "--bind=127.0.0.1:{port}"),
    "granian": ("-m", "granian", "--interface=asgi", "--host=127.0.0.1", "--port={port}"),
}


@pytest.fixture(params=SERVERS)
def site(request, start, tmp_path, free_port):
    command = [word.format(port=free_port) for word in SERVERS[request.param]]
    until_up(free_port, start(*command, "asgi_hosting_app:app", EVENTS=str(tmp_path / "events.jsonl")))
    return Site(free_port, tmp_path / "events.jsonl")


def test_servers_collect_pixels_and_pass_all_else_through(site):
    with site.open("/pixel/v1/track?writeKey=k&anonymousId=a&event=Gr%C3%BC%C3%9Fe+%26") as answer:
        assert (answer.read(), answer.headers["Content-Type"]) == (b"OK", "text/plain; charset=utf-8")
    with site.open("/pixel/v1/page.gif?writeKey=k&anonymousId=a") as answer:
        assert (answer.read()[:6], answer.headers["Content-Length"]) == (b"GIF89a", "43")
    head = site.raw(f"HEAD {TRACK} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert (head.split(b"\r\n")[0][9:12], head.endswith(b"\r\n\r\n")) == (b"200", True)
    assert [event.get("event") for event in site.events] == ["Grüße &", None]

    with site.open("/lifespan") as answer:
        assert answer.read() == b"started"
    with site.open("/echo", b"x" * 3_000_000) as answer:
        assert answer.read() == b"3000000"


def test_a_stream_reaches_the_client_part_by_part(site):
    """The app sends the second part once a pixel has told it that the first has arrived."""
    with site.open("/stream") as answer:
        assert answer.read(5) == b"first"
        site.open(TRACK).close()
        assert answer.read() == b"second"


def test_websockets_live(site):
    with connect(f"ws://127.0.0.1:{site.port}/pixel/v1/page", open_timeout=PATIENCE_S) as socket:
        socket.send("hello")
        assert socket.recv(PATIENCE_S) == "hello"
