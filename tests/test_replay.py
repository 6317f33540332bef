"""A lost hour won back from access logs: formats, repetition, and logs that a real nginx wrote."""

import gzip
import http.client
import json
import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner
from dataplane import DataPlane
from nginx import needs_nginx, start_nginx

from pixel_middleware import PixelMiddleware
from pixel_middleware.commands import cli
from pixel_middleware.replay import Replay, parse
from pixel_middleware.sinks import EventLog

PIXEL = "/pixel/v1/track?writeKey=k&anonymousId=a&event=Order%20Completed&properties.total=12.5"
AGENT = "Mozilla/5.0 (X11; Linux x86_64)"
TIME = "10/Oct/2026:13:55:36 +0200"


def combined(target=PIXEL, method="GET", status=200, time=TIME, agent=AGENT, referer="https://shop.example/cart"):
    return f'203.0.113.9 - - [{time}] "{method} {target} HTTP/1.1" {status} 2 "{referer}" "{agent}"\n'.encode()


def as_json(**changed):
    fields = {
        "remote_addr": "203.0.113.9",
        "time_iso8601": "2026-10-10T13:55:36+02:00",
        "request": f"GET {PIXEL} HTTP/1.1",
        "status": 200,
        "http_referer": "https://shop.example/cart",
        "http_user_agent": AGENT,
    }
    return json.dumps({name: value for name, value in (fields | changed).items() if value is not None}).encode()


def replayed(*lines, **options):
    replay = Replay(**options)
    return list(replay.events(lines)), dict(replay.counts)


APACHE = combined(agent=r"a \"quoted\" \\ agent, caf\xc3\xa9", referer="-")
FORMATS = [
    pytest.param(combined(), id="combined"),
    pytest.param(as_json(), id="nginx in JSON"),
    pytest.param(as_json(time_iso8601=None, msec="1791633336.000"), id="JSON, seconds"),
    pytest.param(as_json(time_iso8601=None, time_local=TIME), id="JSON, local time"),
    pytest.param(
        as_json(request=None, request_method="GET", request_uri=PIXEL, time_iso8601=None, time="2026-10-10T11:55:36"),
        id="JSON, method and URI apart",
    ),
]


@pytest.mark.parametrize("line", FORMATS)
def test_a_line_becomes_the_event_that_it_was(line):
    ((event,), counts) = replayed(line)
    assert counts == {"stored": 1}
    moment = "2026-10-10T11:55:36.000Z"
    assert {name: value for name, value in event.items() if name != "messageId"} == {
        "type": "track",
        "channel": "web",
        "writeKey": "k",
        "anonymousId": "a",
        "event": "Order Completed",
        "properties": {"total": "12.5"},
        "context": {"ip": "203.0.113.9", "userAgent": AGENT, "page": {"url": "https://shop.example/cart"}},
        "integrations": {"All": True},
        "originalTimestamp": moment,
        "sentAt": moment,
        "receivedAt": moment,
        "request_ip": "203.0.113.9",
    }


def test_escapes_and_absent_values_of_logs_are_understood():
    ((event,), _) = replayed(APACHE)
    assert event["context"] == {"ip": "203.0.113.9", "userAgent": 'a "quoted" \\ agent, café'}


def test_bytes_that_nginx_escapes_in_the_request_are_undone():
    ((event,), _) = replayed(combined(rf"{PIXEL}&properties.a=caf\xC3\xA9\x22"))
    assert event["properties"]["a"] == 'café"'


def test_json_with_letters_beyond_ascii():
    ((event,), _) = replayed(as_json(http_user_agent="café", request=f"GET {PIXEL}&properties.a=é HTTP/1.1"))
    assert (event["context"]["userAgent"], event["properties"]["a"]) == ("café", "é")


def test_a_common_log_has_neither_referer_nor_agent():
    ((event,), _) = replayed(f'203.0.113.9 - ann [{TIME}] "GET {PIXEL} HTTP/1.1" 200 2'.encode())
    assert event["context"] == {"ip": "203.0.113.9"}


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        (combined("/shop"), "not a pixel"),
        (combined("/pixel/v1/nowhere"), "not a pixel"),
        (combined("/shop?from=/pixel/v1/track"), "not a pixel"),
        (combined(method="HEAD"), "another method"),
        (combined(status=503), "status 503"),
        (combined("/pixel/v1/track?writeKey=k"), "refused: missing_anonymous_id"),
        (combined(time="yesterday"), "not understood"),
        (combined(time="99999999999999999"), "not understood"),
        (b"/pixel/v1/track is no log line", "not understood"),
        (b'h - - [t] "GET /pixel/v1/track HTTP/1.1" what 2', "not understood"),
        (b'h - - "GET /pixel/v1/track HTTP/1.1" 200 2', "not understood"),
        (b'{"request": "GET /pixel/v1/track', "not understood"),
        (b'["/pixel/v1/track"]', "not understood"),
        (b'{"a": "/pixel/v1/track"}', "not understood"),
    ],
)
def test_what_is_left_out_is_counted_by_reason(line, outcome):
    assert replayed(line) == ([], {outcome: 1})


def test_other_statuses_can_be_taken_and_other_prefixes():
    assert replayed(combined(status=503), statuses=[503])[1] == {"stored": 1}
    assert replayed(combined(PIXEL.replace("/pixel/v1", "/z%C3%A4hler")), prefix="/zähler")[1] == {"stored": 1}


def test_an_endpoint_that_took_a_user_id_is_replayed():
    assert replayed(combined("/pixel/v1/page?writeKey=k&userId=u"))[1] == {"stored": 1}


def test_equal_lines_are_events_of_their_own_and_the_same_again_the_next_time():
    first, _ = replayed(combined(), combined(), combined(f"{PIXEL}&messageId=m"))
    again, _ = replayed(combined(), combined(), combined(f"{PIXEL}&messageId=m"))
    ids = [event["messageId"] for event in first]
    assert (len(set(ids)), ids[2], [event["messageId"] for event in again]) == (3, "m", ids)
    assert replayed(combined(), combined(), known=ids[:1])[1] == {"known already": 1, "stored": 1}


def test_a_hit_is_what_the_line_says():
    assert parse(combined())[:3] == ("203.0.113.9", TIME, "GET")


def invoke(*arguments):
    return CliRunner().invoke(cli.cli, [*map(str, arguments)])


def stored(path):
    with closing(sqlite3.connect(path)) as connection:
        return [json.loads(event) for (event,) in connection.execute("SELECT event FROM events ORDER BY id")]


@pytest.mark.parametrize("output", ["events.db", "events.jsonl"])
def test_replaying_twice_changes_nothing(tmp_path, output):
    log, zipped = tmp_path / "access.log", tmp_path / "access.log.1.gz"
    log.write_bytes(combined() + combined("/shop") + combined(status=503))
    zipped.write_bytes(gzip.compress(as_json() + b"\n" + combined(method="HEAD")))
    done = invoke("replay", zipped, log, "--output", tmp_path / output)
    assert done.exit_code == 0
    summary = {line.split(maxsplit=1)[1]: line.split()[0] for line in done.stdout.splitlines()}
    assert summary == {"stored": "2", "not a pixel": "1", "status 503": "1", "another method": "1"}
    before = (tmp_path / output).read_bytes()
    done = invoke("replay", zipped, log, "--output", tmp_path / output)
    assert "2  known already" in done.stdout
    assert output == "events.db" or (tmp_path / output).read_bytes() == before
    assert output == "events.jsonl" or len(stored(tmp_path / output)) == 2


def test_a_replay_can_be_forwarded(tmp_path):
    log = tmp_path / "access.log"
    log.write_bytes(combined() + combined(f"{PIXEL}&messageId=m"))
    with DataPlane() as plane:
        done = invoke("replay", log, "--output", tmp_path / "events.db", "--forward-to", f"lake={plane.url}")
        assert (done.exit_code, done.stdout) == (0, "        2  stored\n2 sent, 0 dead, 0 left\n")
        assert plane.stored[1]["messageId"] == "m"
        again = invoke("replay", log, "--output", tmp_path / "events.db", "--forward-to", f"lake={plane.url}")
        assert (again.exit_code, again.stdout) == (0, "        2  known already\n0 sent, 0 dead, 0 left\n")


def test_a_replay_to_a_new_destination_says_that_it_does_not_send_what_was_there(tmp_path, make_event):
    (tmp_path / "access.log").write_bytes(combined())
    with closing(EventLog(tmp_path / "events.db")) as log:
        log(make_event("before"))
    with DataPlane() as plane:
        arguments = [tmp_path / "access.log", "--output", tmp_path / "events.db", "--forward-to", f"lake={plane.url}"]
        done = invoke("replay", *arguments)
        assert "lake is new to " in done.stdout
        assert "not the 1 event before.\n" in done.stdout
        assert [event["event"] for event in plane.stored] == ["Order Completed"]


def test_a_replay_that_could_not_forward_all_exits_1(tmp_path):
    (tmp_path / "access.log").write_bytes(combined())
    with DataPlane(lambda write_key, batch: (503, {})) as plane:
        arguments = [tmp_path / "access.log", "--output", tmp_path / "events.db", "--forward-to", f"lake={plane.url}"]
        done = invoke("replay", *arguments, "--timeout", "1")
    assert (done.exit_code, "0 sent, 0 dead, 1 left\nlake: " in done.stdout) == (1, True)


def test_a_torn_line_of_an_output_is_no_obstacle(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"messageId": "m"}\n{"mess\n7\n{}\n')
    (tmp_path / "access.log").write_bytes(combined(f"{PIXEL}&messageId=m"))
    done = invoke("replay", tmp_path / "access.log", "--output", tmp_path / "events.jsonl")
    assert "1  known already" in done.stdout


def test_a_full_disk_is_a_clear_error(tmpfs, tmp_path):
    (tmp_path / "access.log").write_bytes(combined(f"{PIXEL}&properties.text={'x' * 2000}") * 1000)
    done = invoke("replay", tmp_path / "access.log", "--output", tmpfs / "events.db")
    assert (done.exit_code, "Invalid value for --output" in done.output) == (2, True)


NGINX_JSON = """
log_format as_json escape=json '{{"remote_addr":"$remote_addr","time_iso8601":"$time_iso8601","request":"$request",'
    '"status":$status,"http_referer":"$http_referer","http_user_agent":"$http_user_agent"}}';
access_log {folder}/json.log as_json;
"""


@needs_nginx
@pytest.mark.parametrize("log", ["access.log", "json.log"])
def test_what_a_real_nginx_logged_is_what_the_app_collected(popen, serve, tmp_path, free_port, events, log):
    app = PixelMiddleware(lambda environ, start_response: [], events.append, trusted_proxies=1)
    start_nginx(popen, tmp_path, free_port, serve(app), http=NGINX_JSON.format(folder=tmp_path))
    headers = {"User-Agent": 'caf\xe9 "quoted" \\', "Referer": "http://shop.example/?a=b&c"}
    queries = ["&properties.a=%C3%A9+%22%5C", '&properties.a="\\', "&properties.a=;&properties.a=b", "&event="]
    for query in queries:
        connection = http.client.HTTPConnection("127.0.0.1", free_port)
        connection.putrequest("GET", f"/pixel/v1/track?writeKey=k&anonymousId=a&event=e{query}")
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.getresponse().read()
        connection.close()
    invoke("replay", tmp_path / log, "--output", tmp_path / "events.db")
    times = ("originalTimestamp", "sentAt", "receivedAt", "messageId")
    assert [{name: event[name] for name in event if name not in times} for event in stored(tmp_path / "events.db")] == [
        {name: event[name] for name in event if name not in times} for event in events
    ]
