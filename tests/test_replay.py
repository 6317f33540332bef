"""A lost hour won back from access logs: formats, repetition, and logs that a real nginx wrote."""

import gzip
import http.client
import json
import random
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from dataplane import DataPlane
from nginx import needs_nginx, start_nginx

from pixel_middleware import PixelMiddleware, pixel_url
from pixel_middleware.commands import cli
from pixel_middleware.events import Visit, make_event, timestamp
from pixel_middleware.processors import verify_signature
from pixel_middleware.replay import LONGEST_LINE, Replay, opened
from pixel_middleware.sinks import EventLog, JSONLines
from pixel_middleware.sinks.known import Known
from pixel_middleware.wire.access_log import parse

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


@pytest.mark.parametrize(
    ("letter", "as_read"), [(b"\\u00e9", "é"), (b"\xc3\xa9", "é"), (b"\xe9", "\ufffd"), (b"\\ud800", "?")]
)
def test_json_in_which_a_letter_is_spoilt_is_an_event_all_the_same(letter, as_read):
    ((event,), _) = replayed(as_json(http_user_agent="caf-").replace(b"caf-", b"caf" + letter))
    assert event["context"]["userAgent"] == f"caf{as_read}"


def test_json_may_have_the_request_its_time_and_its_status_alone():
    ((event,), _) = replayed(as_json(remote_addr=None, http_referer=None, http_user_agent=None))
    assert (event["context"], event["request_ip"]) == ({}, "")


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
        (combined(status="2" * 5000), "not understood"),
        (combined(status="\u00b2"), "not understood"),
        (combined(f"{PIXEL}&properties.a=%00"), "refused: invalid_character"),
        (combined(PIXEL.replace("track", "x%2Ftrack")), "not a pixel"),
        (combined(r"/pixel/v1/track\x\\"), "not a pixel"),
        (b'{"a":' * 100_000 + b"/pixel/v1/track", "not understood"),
        (b'{"request": "GET /pixel/v1/track HTTP/1.1", "status": ' + b"2" * 5000 + b"}", "not understood"),
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


def test_a_period_bounds_what_is_taken():
    moments = [f"10/Oct/2026:13:55:{second} +0200" for second in (35, 36, 37)]
    events, counts = replayed(
        *(combined(time=moment) for moment in moments),
        since="2026-10-10T11:55:36.000Z",
        until="2026-10-10T11:55:37.000Z",
    )
    assert [event["receivedAt"] for event in events] == ["2026-10-10T11:55:36.000Z"]
    assert counts == {"another time": 2, "stored": 1}


def test_what_the_collector_refuses_and_drops_is_not_recovered():
    def drop_bots(event, request):
        return None if "bot" in request.user_agent else event

    def fails(event, request):
        return event if event["event"] != "bad" else 1 / 0

    lines = [
        combined(),
        combined(PIXEL.replace("writeKey=k", "writeKey=other")),
        combined(agent="a bot"),
        combined(PIXEL.replace("Order%20Completed", "bad")),
    ]
    _, counts = replayed(*lines, write_keys=["k"], processors=[drop_bots, fails])
    assert {outcome.split(".")[0]: count for outcome, count in counts.items() if "drop" not in outcome} == {
        "stored": 1,
        "refused: invalid_write_key": 1,
        "failed: ZeroDivisionError": 1,
    }
    assert [count for outcome, count in counts.items() if outcome.startswith("dropped: ")] == [1]


def test_a_signature_holds_and_an_unsigned_pixel_is_refused():
    fields = {"write_key": "k", "anonymous_id": "a", "event": "e", "signing_key": "secret" * 6}
    url = pixel_url("https://x.example", "track", **fields).removeprefix("https://x.example")
    events, counts = replayed(combined(url), combined(), processors=[verify_signature(["secret" * 6])])
    assert counts == {"stored": 1, "refused: invalid_signature": 1}
    assert events[0]["receivedAt"] == "2026-10-10T11:55:36.000Z"


def test_times_and_an_id_that_the_client_sent_are_kept():
    sent = "&messageId=m&originalTimestamp=2026-10-10T11:55:30.000Z&sentAt=2026-10-10T11:55:31.000Z"
    ((event,), _) = replayed(combined(PIXEL + sent))
    assert [event[name] for name in ("messageId", "originalTimestamp", "sentAt", "receivedAt")] == [
        "m",
        "2026-10-10T11:55:30.000Z",
        "2026-10-10T11:55:31.000Z",
        "2026-10-10T11:55:36.000Z",
    ]


def test_a_broken_log_costs_a_line_and_no_memory(tmp_path):
    path = tmp_path / "access.log"
    path.write_bytes(combined() + b"x" * (3 * LONGEST_LINE) + b"\n" + combined() + b"y" * (2 * LONGEST_LINE + 2))
    with path.open("rb") as raw:
        lines = list(opened(raw))
    assert [len(line) for line in lines] == [len(combined()), LONGEST_LINE + 1, len(combined()), LONGEST_LINE + 1]
    assert replayed(*lines)[1] == {"stored": 2, "not understood": 2}
    path.write_bytes(gzip.compress(b"".join(combined(f"{PIXEL}&a={n}") for n in range(5000)))[:-20])
    with path.open("rb") as raw:
        counts = replayed(*opened(raw))[1]
    assert counts["not understood"] == 1
    assert counts["stored"] > 0


START = datetime(2026, 10, 10, tzinfo=UTC)


def live(second, **sent):
    """An event as the collector stored it, and the line that the server wrote of it, up to a second later."""
    received_at = timestamp(START + timedelta(seconds=second))
    query = "&".join(f"{name}={value}" for name, value in sent.items())
    logged = (START + timedelta(seconds=int(second + 0.9))).strftime("%d/%b/%Y:%H:%M:%S +0000")
    event = make_event("track", sent, Visit("203.0.113.9", AGENT), received_at)
    return event, combined(f"/pixel/v1/track?{query}", time=logged)


@pytest.mark.parametrize("output", ["events.db", "events.jsonl"])
@pytest.mark.parametrize("seed", range(5))
def test_a_lost_hour_comes_back_and_nothing_twice(tmp_path, output, seed):
    """Of clicks that say the same, several a second, as many are stored in the end as there were."""
    chance = random.Random(seed)
    seconds = sorted(chance.uniform(0, 300) for _ in range(1000))
    clicks = [
        live(second, writeKey="k", anonymousId=chance.choice("xyz"), event=chance.choice("ab")) for second in seconds
    ]
    (tmp_path / "access.log").write_bytes(b"".join(line for _, line in clicks))
    kept = [event for (event, _), second in zip(clicks, seconds, strict=True) if not 100 <= second < 200]
    path = tmp_path / output
    with closing((EventLog if path.suffix == ".db" else JSONLines)(path)) as sink:
        sink.put_many(kept)
    lost = 1000 - len(kept)
    dry = invoke("replay", tmp_path / "access.log", "--output", path, "--dry-run")
    assert f"{lost:>9,}  would be stored\n" in dry.stdout
    for known in (1000 - lost, 1000):
        done = invoke("replay", tmp_path / "access.log", "--output", path)
        assert f"{known:>9,}  known already\n" in done.stdout
        lines = path.read_text("utf-8").splitlines() if path.suffix == ".jsonl" else []
        after = [json.loads(line) for line in lines] or stored(path)
        assert Counter(map(said, after)) == Counter(said(event) for event, _ in clicks)


def said(event):
    return event["event"], event["anonymousId"]


def live_order(**changed):
    """An order as it was collected; its total was made a number, and it has a page's URL."""
    sent = {"writeKey": "k", "anonymousId": "a", "event": "Order Completed"}
    event = make_event("track", sent, Visit("203.0.113.9", AGENT), "2026-10-10T11:55:35.900Z")
    return event | {"properties": {"total": 12.5, "url": "https://shop.example"}} | changed


@pytest.mark.parametrize(
    ("stored_event", "outcome"),
    [
        (live_order(), "known already"),
        (live_order(receivedAt="2026-10-10T11:55:33.999Z"), "stored"),
        (live_order(receivedAt="soon"), "stored"),
        (live_order(anonymousId="b"), "stored"),
        (live_order(properties={"total": "13"}), "stored"),
        (live_order(properties=["none"]), "stored"),
        ({}, "stored"),
    ],
)
def test_an_event_collected_live_is_known_by_what_it_says(stored_event, outcome):
    with closing(Known([stored_event])) as known:
        assert replayed(combined(), known=known)[1] == {outcome: 1}


def test_a_line_stands_for_no_event_that_another_line_has_by_its_id():
    with closing(Known([live_order(messageId="m", properties={"total": "12.5"})])) as known:
        lines = [combined(f"{PIXEL}&messageId=m"), combined()]
        assert replayed(*lines, known=known)[1] == {"known already": 1, "stored": 1}


def test_the_collectors_options_are_given_as_in_an_ini_file(tmp_path):
    (tmp_path / "access.log").write_bytes(combined() + combined(PIXEL.replace("writeKey=k", "writeKey=other")))
    command = ["replay", tmp_path / "access.log", "--output", tmp_path / "events.db", "--dry-run"]
    done = invoke(*command, "--option", "write_keys=k j", "--option", "processors=pixel_middleware.processors:drop_ip")
    assert done.stdout == "        1  would be stored\n        1  refused: invalid_write_key\n"
    assert "Neither --since, --until nor --status bounds what is replayed" in done.stderr
    assert not (tmp_path / "events.db").exists()
    assert "Neither" not in invoke(*command, "--since", "2026-10-10").stderr
    assert "replay sets amp, prefix itself" in invoke(*command, "--option", "prefix=/a", "--option", "amp=true").output
    assert "did you mean write_keys?" in invoke(*command, "--option", "writekeys=a").output.replace("\n", " ")


CONFIG = """
output = "collected.db"
prefix = "/p"
write_keys = ["k"]
trusted_proxies = 1
processors = ["drop_ip"]
"""


def test_the_collectors_file_says_what_holds_for_its_lines(tmp_path):
    (tmp_path / "pixels.toml").write_text(CONFIG)
    target = PIXEL.replace("/pixel/v1", "/p")
    lines = [combined(target), combined(target.replace("writeKey=k", "writeKey=other")), combined(PIXEL)]
    (tmp_path / "access.log").write_bytes(b"".join(lines))
    command = ["replay", tmp_path / "access.log", "--config", tmp_path / "pixels.toml", "--status", "200"]
    counts = "        1  {}\n        1  refused: invalid_write_key\n        1  not a pixel\n"
    assert invoke(*command, "--dry-run").stdout == counts.format("would be stored")
    assert not (tmp_path / "collected.db").exists()
    assert invoke(*command).stdout == counts.format("stored")
    (event,) = stored(tmp_path / "collected.db")
    assert (event["event"], event["request_ip"]) == ("Order Completed", "")


def test_flags_go_before_the_collectors_file(tmp_path):
    (tmp_path / "pixels.toml").write_text(CONFIG)
    (tmp_path / "access.log").write_bytes(combined(PIXEL.replace("writeKey=k", "writeKey=other")))
    flags = ["--output", tmp_path / "mine.db", "--prefix", "/pixel/v1", "--option", "write_keys=other"]
    done = invoke("replay", tmp_path / "access.log", "--config", tmp_path / "pixels.toml", *flags)
    assert (done.stdout, (tmp_path / "collected.db").exists()) == ("        1  stored\n", False)
    assert stored(tmp_path / "mine.db")[0]["writeKey"] == "other"


def test_a_mistake_in_the_collectors_file_is_told_with_its_place(tmp_path):
    (tmp_path / "pixels.toml").write_text("max_depth = 0")
    (tmp_path / "access.log").write_bytes(combined())
    done = invoke("replay", tmp_path / "access.log", "--config", tmp_path / "pixels.toml")
    assert done.exit_code == 2
    assert "pixels.toml: max_depth must be a whole number of at least 1" in done.output.replace("\n", " ")


def test_an_endpoint_that_took_a_user_id_is_replayed():
    assert replayed(combined("/pixel/v1/page?writeKey=k&userId=u"))[1] == {"stored": 1}


def test_equal_lines_are_events_of_their_own_and_the_same_again_the_next_time():
    first, _ = replayed(combined(), combined(), combined(f"{PIXEL}&messageId=m"))
    again, _ = replayed(combined(), combined(), combined(f"{PIXEL}&messageId=m"))
    ids = [event["messageId"] for event in first]
    assert (len(set(ids)), ids[2], [event["messageId"] for event in again]) == (3, "m", ids)
    known = Known(first[:1])
    assert replayed(combined(), combined(), known=known)[1] == {"known already": 1, "stored": 1}
    known.close()


def test_what_is_forgotten_is_known_no_more():
    """Who follows a log for years must not keep all of it."""
    moments = [f"{day}/Oct/2026:13:55:36 +0200" for day in (10, 11)]
    with closing(Known([live_order(receivedAt="2026-10-10T11:55:35.900Z", properties={"total": "12.5"})])) as known:
        replay = Replay(known=known)
        lines = [combined(time=moment) for moment in moments]
        first = list(replay.events(lines))
        known.forget_before(datetime(2026, 10, 11, tzinfo=UTC).timestamp())
        again = list(replay.events(lines))
    assert [[event["receivedAt"][:10] for event in events] for events in (first, again)] == [
        ["2026-10-11"],
        ["2026-10-10", "2026-10-11"],
    ]
    assert again[1]["messageId"] != first[0]["messageId"]


@pytest.mark.parametrize(
    ("field", "usual", "name", "value"),
    [
        *(("address", "remote_addr", name, "192.0.2.1") for name in ("client_ip", "ip")),
        *(("time", "time_iso8601", name, TIME) for name in ("time_local", "msec", "time", "timestamp")),
        *(("referer", "http_referer", name, "https://a.example/") for name in ("http_referrer", "referer", "referrer")),
        ("agent", "http_user_agent", "user_agent", "me"),
    ],
)
def test_a_json_log_may_call_its_fields_so(field, usual, name, value):
    assert getattr(parse(as_json(**{usual: None, name: value})), field) == value


def test_a_line_without_referer_and_user_agent_has_none():
    hit = parse(combined().partition(b' "https://shop')[0] + b"\n")
    assert (hit.status, hit.referer, hit.agent) == (200, "", "")


def test_what_a_log_escapes_is_read_as_it_was_sent():
    written = r"\n\r\t\b\f\v\"\\\x41\xc3\xa9"
    assert parse(combined(agent=written)).agent == '\n\r\t\b\f\v"\\A\xc3\xa9'


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


def test_a_destination_that_cannot_be_is_an_error_before_anything_is_stored(tmp_path, monkeypatch):
    (tmp_path / "access.log").write_bytes(combined())
    arguments = [tmp_path / "access.log", "--output", tmp_path / "events.db", "--forward-to"]
    done = invoke("replay", *arguments, "gopher://host")
    assert (done.exit_code, "Invalid value" in done.stderr) == (2, True)
    monkeypatch.setitem(sys.modules, "urllib3", None)
    done = invoke("replay", *arguments, "http://host")
    assert (done.exit_code, "pixel-middleware[rudderstack]" in done.stderr) == (1, True)
    assert not (tmp_path / "events.db").exists()


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
