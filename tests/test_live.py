"""The live view of a plain sink: what its feed says; and who may look, of any."""

import http.client
import json
import re
import socket
import sys
import urllib.request
from contextlib import ExitStack, closing
from decimal import Decimal

import pytest
import webtest
from conftest import host_app
from nginx import needs_nginx, start_nginx
from processes import PATIENCE_S, until, until_up

from pixel_middleware import ConfigurationError, PixelMiddleware
from pixel_middleware.processors import drop_ip
from pixel_middleware.sinks import EventLog
from pixel_middleware.watch.entries import MOST_FIELD
from pixel_middleware.watch.feed import MOST_KEPT
from pixel_middleware.watch.live import LiveView

TRACK = "/pixel/v1/track?writeKey=k&anonymousId=a&event="
TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def watched(events):
    """A client of a collector with a live view, that knows no token."""

    def make(sink=None, processors=(), prefix="/pixel/v1", **options):
        pixels = PixelMiddleware(host_app, sink or events.append, processors=processors, prefix=prefix)
        app = LiveView(pixels, **{"live_token": TOKEN} | options)
        return webtest.TestApp(app, lint=True)

    return make


def feed(client, after=None, path="/pixel/live"):
    return client.get(f"{path}/feed", {} if after is None else {"after": after}, headers=BEARER).json


def pages(client):
    """All pages of a feed, one after the other."""
    page = feed(client)
    yield page
    while page["more"]:
        page = feed(client, page["cursor"])
        yield page


# what it shows


def test_it_shows_what_became_of_each_pixel_and_why(watched):
    client = watched()
    client.get(f"{TRACK}Signup", extra_environ={"REMOTE_ADDR": "192.0.2.1"})
    client.get(TRACK, status=400)
    client.get("/pixel/v1/nowhere", status=404)
    client.post("/pixel/v1/track", status=405)
    client.get("/another/page")
    seen = feed(client)["entries"]
    event = json.loads(seen[0].pop("event"))
    assert (event["event"], event["messageId"] != "") == ("Signup", True)
    times = [entry.pop("at") for entry in seen]
    assert times == sorted(times)
    assert seen == [
        {
            "id": "request-1",
            "outcome": "accepted",
            "type": "track",
            "name": "Signup",
            "who": "a",
            "address": "192.0.2.1",
            "key": "k",
        },
        {
            "id": "request-2",
            "outcome": "rejected",
            "who": "a",
            "key": "k",
            "reason": "missing_event",
            "message": "event is missing; add event=... with the name of what happened",
            "path": "/pixel/v1/track",
            "query": "writeKey=k&anonymousId=a&event=",
        },
        {
            "id": "request-3",
            "outcome": "rejected",
            "reason": "not_found",
            "message": "there is no such pixel",
            "path": "/pixel/v1/nowhere",
        },
        {
            "id": "request-4",
            "outcome": "rejected",
            "reason": "method_not_allowed",
            "message": "a pixel takes no such method",
            "path": "/pixel/v1/track",
        },
    ]
    assert sum(feed(client)["seconds"].popitem()[1].values()) == 4


def test_what_processors_took_out_is_not_shown(watched):
    address = {"REMOTE_ADDR": "192.0.2.77"}
    without_address = watched(processors=[drop_ip])
    without_address.get(f"{TRACK}a", extra_environ=address)
    dropping = watched(processors=[lambda event, request: None])
    dropping.get(f"{TRACK}private", extra_environ=address)
    shown = [json.dumps(feed(each)) for each in (without_address, dropping)]
    assert ["192.0.2.77" in each for each in shown] == [False, False]
    (dropped,) = feed(dropping)["entries"]
    assert dropped.keys() == {"id", "at", "outcome", "by"}


def test_what_failed_is_shown_with_its_query(watched):
    def fail(event):
        raise OSError("no space")

    client = watched(sink=fail)
    client.get(f"{TRACK}lost", status=503)
    (entry,) = feed(client)["entries"]
    assert (entry["outcome"], entry["query"], "event" in entry) == ("failed", f"{TRACK}lost".partition("?")[2], False)
    assert (entry["by"], entry["reason"], entry["name"]) == ("OSError: no space", "sink_failed", "lost")


def test_an_exception_without_a_text_is_told_by_its_name(watched):
    def fail(event):
        raise Speechless

    client = watched(sink=fail)
    client.get(f"{TRACK}lost", status=503)
    assert feed(client)["entries"][0]["by"] == "Speechless"


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Unspeakable:
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Decimal("12.50"), '"x":"12.50"'),
        (float("nan"), '"x":NaN'),
        ("half \ud800 of a pair", '"x":"half \ud800 of a pair"'),
        ({(1, 2): 3}, "this event cannot be shown: TypeError"),
        (Unspeakable(), "this event cannot be shown: RuntimeError"),
    ],
    ids=["decimal", "NaN", "surrogate", "a key that is no text", "no text at all"],
)
def test_what_json_cannot_hold_costs_no_client_its_answer(watched, events, value, shown):
    def put_in(event, request):
        event["properties"]["x"] = value
        return event

    client = watched(processors=[put_in])
    assert client.get(f"{TRACK}a").body == b"OK"
    assert len(events) == 1
    (entry,) = feed(client)["entries"]
    assert shown in entry["event"]


def test_a_client_that_sends_objects_where_text_belongs_is_shown(watched):
    client = watched()
    client.get(f"{TRACK}a&context.ip.toString=x&context.page=y", extra_environ={"REMOTE_ADDR": "127.0.0.1"})
    (entry,) = feed(client)["entries"]
    assert (entry["name"], entry["address"], "url" in entry) == ("a", "127.0.0.1", False)


def test_a_feed_tells_what_is_new_and_all_to_whom_another_process_told_before(watched):
    client = watched()
    client.get(f"{TRACK}1")
    cursor = feed(client)["cursor"]
    client.get(f"{TRACK}2")
    assert [entry["name"] for entry in feed(client, cursor)["entries"]] == ["2"]
    assert [entry["name"] for entry in feed(client, "123abc-2-0")["entries"]] == ["1", "2"]
    assert feed(client, feed(client)["cursor"])["entries"] == []
    assert feed(watched())["run"] != feed(client)["run"]


def test_each_process_forked_or_not_counts_for_itself(watched, in_child):
    client = watched()
    cursor = feed(client)["cursor"]

    def look():
        assert feed(client)["cursor"] != cursor

    in_child(look)


@pytest.mark.parametrize("after", ["9" * 5000, "nonsense", "", "ab-1234567890123456-0", "ab-1"])
def test_what_is_no_cursor_is_refused(watched, after):
    answer = watched().get("/pixel/live/feed", {"after": after}, headers=BEARER, status=400)
    assert answer.text == "after must be the cursor of an earlier answer, or be left out"


def test_it_keeps_no_more_than_its_size(watched):
    client = watched(size=2)
    for name in ("1", "2", "3"):
        client.get(TRACK + name)
    assert [entry["id"] for entry in feed(client)["entries"]] == ["request-2", "request-3"]


@pytest.mark.parametrize(
    "big",
    [
        pytest.param("x" * 60_000, id="text"),
        pytest.param('"\\' * 30_000, id="quotes"),
        pytest.param("\x01" * 60_000, id="controls"),
        pytest.param("\U0001f600" * 60_000, id="emoji"),
    ],
)
def test_its_memory_and_each_page_are_bounded_whatever_comes(watched, big):
    def grow(event, request):
        return event | {"event": big, "properties": {"x": big}, "userId": big, "writeKey": big, "request_ip": big}

    client = watched(processors=[grow])
    for number in range(300):
        client.get(f"{TRACK}{number}")
    bodies = [len(json.dumps(page, ensure_ascii=False).encode("utf-8", "replace")) for page in pages(client)]
    assert max(bodies) <= 65536
    assert sum(bodies) < MOST_KEPT + len(bodies) * 8192
    shown = [int(entry["id"].removeprefix("request-")) for page in pages(client) for entry in page["entries"]]
    assert shown == list(range(shown[0], 301))


def test_a_refused_query_is_shown_cut(watched):
    client = watched()
    client.get(f"/pixel/v1/{'p' * 5000}?{'q' * 60_000}", status=404)
    (entry,) = feed(client)["entries"]
    assert re.fullmatch("/pixel/v1/p+…", entry["path"])
    assert re.fullmatch("q+…", entry["query"])
    assert (len(entry["path"]), len(entry["query"])) == (MOST_FIELD // 2 + 1, 8192 // 2 + 1)


def test_the_page_itself_is_no_longer_than_a_socket_takes_at_once(watched):
    assert watched().get("/pixel/live", headers=BEARER).content_length <= 65536


def test_the_chart_forgets_old_seconds(watched, monkeypatch):
    client = watched()
    client.get(f"{TRACK}old")
    monkeypatch.setattr("pixel_middleware.watch.feed.CHART_S", -1)
    client.get(f"{TRACK}new")
    assert feed(client)["seconds"] == {}


def test_all_else_passes_through(watched):
    client = watched()
    assert client.get("/pixel/live/elsewhere").body == b"host"


def test_the_page_learns_where_the_pixels_are(watched):
    own = feed(watched(prefix="/px", path="/seen/"), path="/seen")
    assert (own["path"], own["prefix"]) == ("/seen", "/px")
    wrapped = LiveView(lambda environ, start_response: [], live_token=TOKEN, prefix="/other")
    assert feed(webtest.TestApp(wrapped))["prefix"] == "/other"


# who may look


PATHS = pytest.mark.parametrize(
    "path", ["/pixel/live", "/pixel/live/feed", "/pixel/live?token=", "/pixel/live?token=x"]
)


@PATHS
@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="this machine"),
        pytest.param({"REMOTE_ADDR": ""}, id="nobody knows who"),
        pytest.param({"HTTP_HOST": "localhost"}, id="by a local name"),
        pytest.param({"HTTP_X_FORWARDED_FOR": "127.0.0.1", "HTTP_X_REAL_IP": "127.0.0.1"}, id="headers of proxies"),
        pytest.param({"HTTP_AUTHORIZATION": f"Bearer {TOKEN}x"}, id="another token"),
        pytest.param({"HTTP_AUTHORIZATION": f"Bearer {TOKEN[:-1]}"}, id="half a token"),
        pytest.param({"HTTP_AUTHORIZATION": f"Basic {TOKEN}"}, id="another scheme"),
        pytest.param({"HTTP_AUTHORIZATION": "Bearer \xff"}, id="no ASCII"),
        pytest.param({"HTTP_COOKIE": f"token={TOKEN}; pixel_live={TOKEN}"}, id="another cookie"),
    ],
)
def test_who_does_not_know_the_token_sees_nothing(watched, environ, path):
    client = watched()
    client.get(f"{TRACK}secret-name")
    answer = client.get(path, extra_environ=environ, status=403)
    assert "the live view needs its token" in answer.text
    assert "secret-name" not in answer.text
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/", "/pixel/live", "/pixel/live/"])
def test_a_token_becomes_a_cookie_and_leaves_the_address(watched, path):
    client = watched(path=path)
    welcome = client.get(f"{path}?token={TOKEN}")
    assert welcome.status_int == 303
    assert re.fullmatch(rf"pixel_live_[0-9a-f]{{8}}={TOKEN}; HttpOnly; SameSite=Strict", welcome.headers["Set-Cookie"])
    page = welcome.follow()
    assert (page.request.path_qs, page.headers["Cross-Origin-Resource-Policy"]) == (path, "same-origin")
    assert "<h1>Pixels, live</h1>" in page
    assert client.get(f"{path.rstrip('/')}/feed").headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_over_https_the_cookie_never_leaves_it(watched):
    welcome = watched().get(f"/pixel/live?token={TOKEN}", extra_environ={"wsgi.url_scheme": "https"})
    assert welcome.headers["Set-Cookie"].endswith("; Secure")


def test_two_collectors_on_ports_of_one_host_have_two_cookies(watched):
    tokens = [TOKEN, TOKEN[::-1]]
    cookies = [watched(live_token=each).get(f"/pixel/live?token={each}").headers["Set-Cookie"] for each in tokens]
    assert len({cookie.partition("=")[0] for cookie in cookies}) == 2


def test_the_file_of_a_log_keeps_the_token(tmp_path, events):
    path = tmp_path / "events.db"
    tokens = []
    for _ in range(2):
        with closing(EventLog(path)) as log:
            tokens.append(LiveView(PixelMiddleware(host_app, log), log=log).live_token)
    assert tokens[0] == tokens[1]
    with closing(EventLog(tmp_path / "another.db")) as log:
        tokens.append(LiveView(PixelMiddleware(host_app, log), log=log).live_token)
    tokens.append(LiveView(PixelMiddleware(host_app, events.append)).live_token)
    tokens.append(LiveView(PixelMiddleware(host_app, events.append)).live_token)
    assert len(set(tokens)) == 4
    assert [re.fullmatch("[A-Za-z0-9_-]{43}", token) is not None for token in tokens] == [True] * 5


@pytest.mark.parametrize(
    ("allow", "status"),
    [
        (["192.0.2.0/24"], 200),
        (["2001:db8::/32", "192.0.2.1"], 200),
        (["10.0.0.0/8"], 403),
        (lambda environ: environ["REMOTE_ADDR"] == "192.0.2.1", 200),
        (lambda environ: False, 403),
    ],
)
def test_others_may_be_allowed_and_nobody_else_is(watched, allow, status):
    client = watched(allow=allow)
    client.get("/pixel/live", extra_environ={"REMOTE_ADDR": "192.0.2.1"}, status=status)
    for address in ("127.0.0.1", "::1", "192.0.3.1", "nonsense"):
        client.get("/pixel/live", extra_environ={"REMOTE_ADDR": address, "HTTP_HOST": "localhost"}, status=403)
    client.get("/pixel/live", headers=BEARER, extra_environ={"REMOTE_ADDR": "192.0.3.1"}, status=200)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"path": "live"}, "path must be a path like"),
        ({"size": 0}, "size must be a whole number of at least 1"),
        ({"allow": ["nonsense"]}, "allow must be networks like"),
        ({"allow": "10.0.0.0/8"}, "allow must be a list of networks"),
        ({"allow": 7}, "allow must be networks like"),
        ({"log": "events.db"}, "log must be an EventLog"),
        ({"prefix": "px"}, "prefix must be a path like"),
    ],
)
def test_a_wrong_option_is_refused(options, error):
    with pytest.raises(ConfigurationError, match=error):
        LiveView(host_app, **options)


@pytest.mark.parametrize("live_token", ["short", "x" * 201, "with spaces in between", "semicolons;are;cookies", 7, ""])
def test_a_token_that_can_be_guessed_or_is_no_cookie_is_refused_and_not_told(live_token):
    with pytest.raises(ConfigurationError) as refused:
        LiveView(host_app, live_token=live_token)
    assert str(refused.value) == "live_token must be 16 to 200 letters, digits, or any of -_.~"


PROXY_HEADERS = {
    "nothing": "",
    "X-Forwarded-For": "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
    "Host": "proxy_set_header Host $host;",
    "all": """
        proxy_set_header Host $host;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Host $host;
        proxy_set_header X-Forwarded-Proto $scheme;
    """,
}


@pytest.fixture
def collector(popen, tmp_path):
    """`pixel-middleware serve` with further arguments: its port, and its live view's token."""

    def start(*arguments):
        command = [sys.executable, "-u", "-m", "pixel_middleware", "serve", "--port", "0", *arguments]
        process = popen(command, cwd=tmp_path, stdout=-1, text=True)
        address = until(lambda: re.search(r"http://127.0.0.1:(\d+)/\?token=(\S+)", process.stdout.readline()), "a URL")
        return int(address[1]), address[2]

    return start


@needs_nginx
@pytest.mark.parametrize("allow", [[], ["--allow", "10.99.0.0/16"]], ids=["", "allow"])
def test_behind_nginx_strangers_see_nothing_and_the_token_shows_all(collector, popen, new_port, tmp_path, allow):
    upstream, token = collector(*allow)
    locations = "".join(
        f"location /{number}/ {{ {headers} proxy_pass http://127.0.0.1:{upstream}/; }}\n"
        for number, headers in enumerate(PROXY_HEADERS.values())
    )
    port = new_port()
    start_nginx(popen, tmp_path, port, upstream, server=locations)

    def get(path, **headers):
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
            connection.request("GET", path, headers=headers)
            with connection.getresponse() as answer:
                return answer.status, answer.read(), answer.headers

    assert get(f"/0{TRACK}secret-name")[0] == 200
    hosts = [{}, {"Host": "localhost"}, {"Host": "127.0.0.1"}, {"Host": "shop.example"}]
    spoofed = [{}, {"X-Forwarded-For": "10.99.0.1"}, {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"}]
    for number in range(len(PROXY_HEADERS)):
        for path in ("", "feed", "?token=", "feed?token="):
            for host in hosts:
                for more in spoofed:
                    status, body, _ = get(f"/{number}/{path}", **host, **more)
                    assert (status, b"secret-name" in body) == (403, False), (number, path, host, more)
        status, _, headers = get(f"/{number}/?token={token}")
        assert (status, headers["Location"]) == (303, "./")
        cookie = {"Cookie": headers["Set-Cookie"].partition(";")[0]}
        assert [get(f"/{number}/{path}", **cookie)[0] for path in ("", "feed")] == [200, 200]
        assert b"secret-name" in get(f"/{number}/feed", **cookie)[1]


def test_serve_tells_the_same_token_after_a_restart(collector):
    assert collector()[1] == collector()[1]


def test_viewers_who_do_not_read_hold_no_worker(start, new_port, tmp_path):
    (tmp_path / "watched_app.py").write_text(
        "from pixel_middleware import PixelMiddleware\n"
        "from pixel_middleware.watch.live import LiveView\n"
        f"app = LiveView(PixelMiddleware(lambda environ, start: [], [].append), live_token={TOKEN!r})\n"
    )
    port = new_port()
    server = start(
        *("-m", "gunicorn", "watched_app:app", "-k=gthread", "--threads=4", f"--bind=127.0.0.1:{port}"),
        f"--pythonpath={tmp_path}",
        "--limit-request-line=8190",
    )
    until_up(port, server)
    base = f"http://127.0.0.1:{port}"
    for number in range(500):
        with urllib.request.urlopen(f"{base}{TRACK}{number}&x={'x' * 7000}", timeout=PATIENCE_S) as answer:
            assert answer.status == 200
    request = f"GET /pixel/live/feed HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    with ExitStack() as viewers:
        for _ in range(12):  # three times as many as there are threads
            viewer = viewers.enter_context(closing(socket.socket()))
            viewer.settimeout(PATIENCE_S)
            viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least that there is
            viewer.connect(("127.0.0.1", port))
            viewer.sendall(request)
            assert viewer.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL) == b"HTTP/1.1 200"
        with urllib.request.urlopen(f"{base}{TRACK}b", timeout=PATIENCE_S) as answer:
            assert answer.read() == b"OK"
