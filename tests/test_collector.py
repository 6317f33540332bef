"""The collector as an app for any server: options from file, environment and flags; health, metrics, live view."""

import asyncio
import json
import os
import pickle
import sqlite3
import sys
import threading
from contextlib import closing
from textwrap import dedent

import pytest
import webtest
from asgi_driver import as_wsgi, get
from dataplane import DataPlane
from processes import PATIENCE_S, until

from pixel_middleware import ConfigurationError, Rejected, RetryLater, StorageError
from pixel_middleware.collector import app as app_module
from pixel_middleware.collector import config, create_app, create_asgi_app
from pixel_middleware.destinations import Destination
from pixel_middleware.processors import named
from pixel_middleware.sinks import EventLog, JSONLines, counts

TRACK = "/pixel/v1/track?writeKey=shop&anonymousId=a&event=e"


@pytest.fixture
def written(tmp_path):
    """A file of options with these lines."""

    def written(lines):
        path = tmp_path / "etc" / "pixels.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedent(lines))
        return path

    return written


@pytest.fixture(params=["wsgi", "asgi"])
def collect(monkeypatch, request):
    """A client of the collector, by both its faces, with these options; its pages are never older than the question."""
    monkeypatch.setattr(app_module, "AGE_S", -1.0)
    monkeypatch.setattr(counts, "WRITE_EVERY_S", 0.01)
    apps = []

    def collect(options):
        if request.param == "wsgi":
            app = create_app(options)
            apps.append(app)
        else:
            asgi_app = create_asgi_app(options)
            app = as_wsgi(asgi_app)
            apps.append(asgi_app._collector)
        client = webtest.TestApp(app, lint=True)
        client.collector = apps[-1]
        return client

    yield collect
    for app in apps:
        app.sink.close()


def made(path=None, flags=None, **environ):
    return config.load(path, flags, environ).made()


# Where options come from


def test_a_file_says_it_all(written, collect, tmp_path):
    with DataPlane() as plane:
        path = written(
            f"""
            output = "events.db"
            write_keys = ["shop", "blog"]
            trusted_proxies = 1
            max_bytes = 1000000
            processors = ["honor_gpc", "anonymize_ip", {{ convert = {{ "properties.total" = "float" }} }}]

            [destinations]
            rudderstack = "{plane.url}"
            """
        )
        client = collect(path)
        client.get(f"{TRACK}&properties.total=12.5", headers={"X-Forwarded-For": "203.0.113.77"})
        client.get(TRACK, headers={"Sec-GPC": "1", "X-Forwarded-For": "203.0.113.77"})
        assert client.get(TRACK.replace("shop", "other"), status=400).headers["X-Pixel-Error"] == "invalid_write_key"
        until(lambda: plane.stored, "the event at its destination")
    assert [(event["context"]["ip"], event["properties"]) for event in plane.stored] == [
        ("203.0.113.0", {"total": 12.5})
    ]
    assert (tmp_path / "etc" / "events.db").exists()


def test_a_flag_goes_before_the_environment_and_that_before_the_file(written):
    path = written('trusted_proxies = 1\nmax_depth = 5\nprefix = "/f"\noutput = "f.db"\n')
    values = made(path, {"trusted_proxies": "3"}, PIXEL_TRUSTED_PROXIES="2", PIXEL_PREFIX="/e", HOME="/").values
    assert [values[name] for name in ("trusted_proxies", "prefix", "max_depth")] == [3, "/e", 5]
    assert values["output"] == str(path.parent / "f.db")
    assert made(path, PIXEL_OUTPUT="e.db").values["output"] == "e.db"  # relative to where it was said


def test_destinations_are_replaced_and_not_mixed(written):
    path = written('[destinations]\none = "https://one.example"\n')
    assert list(made(path).destinations) == ["one"]
    assert list(made(path, PIXEL_FORWARD_TO="two=https://two.example three=https://three.example").destinations) == [
        "two",
        "three",
    ]
    assert list(made(path, {"forward_to": ["four=https://four.example"]}, PIXEL_FORWARD_TO="x=y").destinations) == [
        "four"
    ]


def test_the_environment_may_name_the_file(written, collect, monkeypatch):
    monkeypatch.setenv("PIXEL_CONFIG", str(written('output = "named.jsonl"\n')))
    client = collect(None)
    client.get(TRACK)
    assert isinstance(client.collector.sink, JSONLines)
    assert [json.loads(line)["event"] for line in client.collector.sink.lines()] == ["e"]


def test_options_can_be_given_to_another_process(written):
    loaded = config.load(written('processors = ["drop_ip"]\n'), {"port": "0"}, {})
    assert pickle.loads(pickle.dumps(loaded)).made().values == loaded.made().values


def test_secrets_come_from_elsewhere_and_are_in_no_error(written):
    path = written(
        """
        [destinations]
        lake = { url = "kafka://h:9092/t", "sasl.password" = "{file:password}", "sasl.mechanisms" = "{env:MECHANISM}" }
        """
    )
    (path.parent / "password").write_text("hunter2\n")
    with pytest.raises(ConfigurationError) as raised:
        made(path)
    assert str(raised.value).endswith("{env:MECHANISM}: there is no such environment variable; set it")
    with pytest.raises(ConfigurationError) as raised:
        config.load(path, {}, {}).made()
    assert "hunter2" not in str(raised.value)


LINES = [
    ("trusted_proxy = 1", "unknown option 'trusted_proxy'; did you mean trusted_proxies?"),
    ("trusted_proxies = -1", "trusted_proxies must be a whole number of at least 0, got -1"),
    ('refused = "x:y"', "unknown option 'refused'"),
    ("a = ", "is no TOML: Invalid value"),
    ("destinations = 7", "destinations must be a table of names and URLs"),
    ('forward_to = ["a=https://h"]\n[destinations]\na = "https://h"', "two destinations are called a; rename one"),
    ('output = "x.txt"', "output must be a file whose name ends in .db, .sqlite or .jsonl"),
    ('output = "x.jsonl"\nkeep_days = 7', "keep_days is for an event log: give output a name that ends in .db"),
    ('allow = ["everybody"]', "allow must be networks like 10.0.0.0/8: 'everybody'"),
    ("processors = 7", "processors must be a list, each of it a callable"),
    ("processors = [{ }]", "processors must be, each, a name, or a table of one name and its arguments"),
    ('processors = [{ convert = { x = "text" } }]', 'convert makes of \'x\' "int", "float", "bool", or package.module'),
    ("processors = [{ convert = { x = 7 } }]", "and not 7"),
    ('processors = [{ convert = "int" }]', "processors: convert: types must be a mapping of paths to callables"),
    ("processors = [{ judge_open = { window = 7 } }]", "judge_open does not take what it is given: got an unexpected"),
    ('processors = [{ suppress = "none" }]', "processors: suppress: suppress cannot read"),
    ('processors = [{ require_schema = "none" }]', "require_schema cannot read"),
    ('processors = [{ require_schema = "pixels.toml" }]', "pixels.toml is no JSON"),
]


@pytest.mark.parametrize(("lines", "error"), LINES)
def test_a_wrong_file_is_named_with_what_would_be_right(written, lines, error):
    path = written(lines)
    with pytest.raises(ConfigurationError) as raised:
        made(path)
    assert str(raised.value).startswith(str(path))
    assert error in str(raised.value)


def test_a_wrong_variable_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^PIXEL_PORT: port must be a whole number, got 'eighty'$"):
        made(PIXEL_PORT="eighty")
    with pytest.raises(ConfigurationError, match=r"^PIXEL_: unknown option 'prot'; did you mean port"):
        made(PIXEL_PROT="80")
    with pytest.raises(ConfigurationError, match=r"^cannot read .*none.toml: No such file or directory$"):
        made(tmp_path / "none.toml")


def test_processors_take_their_arguments_from_the_file(written, collect):
    path = written(
        f"""
        output = "events.jsonl"
        require_anonymous_id = false
        processors = [
            {{ daily_visitor = "salt" }},
            {{ suppress = "gone" }},
            {{ require_schema = "plan.json" }},
            {{ require_schema = {{ type = "object" }} }},
            {{ convert = {{ "properties.total" = "{__name__}:cents" }} }},
            {{ "{__name__}:stamp" = {{ name = "shop" }} }},
            {{ "{__name__}:Stamp" = "own" }},
        ]
        """
    )
    (path.parent / "gone").write_text("forgotten\n")
    (path.parent / "plan.json").write_text('{"properties": {"event": {"enum": ["e"]}}}')
    client = collect(path)
    client.get(f"{TRACK}&properties.total=1.50")
    client.get("/pixel/v1/track?writeKey=k&event=e")
    client.get("/pixel/v1/track?writeKey=k&event=e&anonymousId=forgotten")
    client.get("/pixel/v1/track?writeKey=k&event=other&anonymousId=a", status=400)
    first, second = [json.loads(line) for line in client.collector.sink.lines()]
    assert first["properties"] == {"total": 150, "shop": "own"}
    assert len(second["anonymousId"]) == 36


def cents(text):
    return round(float(text) * 100)


def stamp(name):
    def put(event, request):
        event["properties"][name] = ""
        return event

    return put


def Stamp(text):
    def put(event, request):
        event["properties"] = {name: value or text for name, value in event["properties"].items()}
        return event

    return put


def test_a_check_makes_no_file(written, tmp_path, monkeypatch):
    path = written('processors = [{ daily_visitor = "salt" }]\n[destinations]\nlake = "https://h.example"\n')
    before = sorted(os.listdir(path.parent))
    assert config.load(path, {}, {}).made(touch=False).values["processors"] == []
    assert sorted(os.listdir(path.parent)) == before
    monkeypatch.setattr(os, "access", lambda *arguments: False)  # root may write everywhere
    with pytest.raises(ConfigurationError, match=r"daily_visitor cannot make .*salt: .*etc cannot be written"):
        config.load(path, {}, {}).made(touch=False)


def test_a_processor_may_be_given_by_itself():
    assert named.named(cents) is cents


# What it answers


class Lake(Destination):
    """Refuses what is called bad."""

    def send(self, events):
        if events[0]["event"] == "bad":
            raise Rejected("never: hunter2")


lake = Lake()


def test_health_is_200_and_tells_numbers_and_words_alone(collect, tmp_path):
    options = {"output": str(tmp_path / "events.db"), "destinations": {"lake": f"{__name__}:lake"}}
    client = collect(options)
    client.get(TRACK.replace("event=e", "event=bad"))
    log = client.collector.sink
    until(lambda: log.stats()["destinations"]["lake"]["dead"], "the dead letter")
    told = client.get("/health").json
    of_lake = {"state": "failing", "cause": "rejected", "lag": 0, "oldest_age_s": 0.0, "held": 0, "dead": 1}
    assert told.pop("bytes") == log.stats()["bytes"]
    assert told == {"status": "ok", "events": 1, "destinations": {"lake": of_lake}}
    client.get(TRACK)
    until(lambda: client.get("/health").json["destinations"]["lake"]["state"] == "ok", "the next delivery")
    assert client.head("/health").headers["Cache-Control"] == "no-store"
    assert client.post("/health", status=405).headers["Allow"] == "GET, HEAD"


def test_a_destination_that_is_down_leaves_the_collector_healthy(collect, tmp_path, free_port):
    output = str(tmp_path / "events.db")
    client = collect({"output": output, "destinations": {"plane": f"http://127.0.0.1:{free_port}"}})
    client.get(TRACK)
    until(lambda: client.get("/health").json["destinations"]["plane"]["state"] == "failing", "the failure")
    plane = client.get("/health", status=200).json["destinations"]["plane"]
    assert (plane["lag"], plane["cause"]) == (1, "connect")


class Gate(Destination):
    """Takes nothing until it is open."""

    is_open = threading.Event()

    def send(self, events):
        if not self.is_open.is_set():
            raise RetryLater("not yet", after=0.01)


gate = Gate()


def test_health_is_503_exactly_while_puts_are_refused(collect, tmp_path):
    gate.is_open.clear()
    output = str(tmp_path / "events.db")
    client = collect({"output": output, "max_bytes": 200_000, "destinations": {"gate": f"{__name__}:gate"}})
    text = "x" * 20_000
    while client.get(f"{TRACK}&properties.text={text}", expect_errors=True).status_code == 200:
        assert client.get("/pixel/v1/nothing", status=404)
    for _ in range(3):
        client.get(f"{TRACK}&properties.text={text}", status=503)
        assert client.get("/health", status=503).json["status"] == "refusing"
    gate.is_open.set()
    until(lambda: client.collector.sink.stats()["destinations"]["gate"]["lag"] == 0, "the delivery")
    client.get("/health", status=200)
    client.get(TRACK)
    assert client.collector.sink.read("SELECT count(*) FROM events WHERE id < 1") == [(0,)]  # what was tried is gone


def test_health_is_503_while_the_file_cannot_be_had(collect, tmp_path, monkeypatch):
    client = collect({"output": str(tmp_path / "events.db")})
    client.get(TRACK)
    monkeypatch.setattr("pixel_middleware.sinks.store.WAIT_S", 0.0)
    with closing(sqlite3.connect(tmp_path / "events.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        assert client.get("/health", status=503).json["status"] == "refusing"
        other.rollback()
    assert client.get("/health").json["status"] == "ok"
    client.collector.sink.close()
    for path in tmp_path.glob("events.db*"):
        path.unlink()
    monkeypatch.setattr(client.collector.sink, "probe", lambda: None)
    assert client.get("/health", status=503).json == {"status": "ok", "destinations": {}}


def test_json_lines_have_health_too(collect, tmp_path, monkeypatch):
    client = collect({"output": str(tmp_path / "events.jsonl")})
    client.get(TRACK)
    assert client.get("/health").json == {"status": "ok"}
    assert len((tmp_path / "events.jsonl").read_text("utf-8").splitlines()) == 1
    monkeypatch.setattr("pixel_middleware.sinks.jsonlines.PROBE_BYTES", 1 << 60)
    assert client.get("/health", status=503).json == {"status": "refusing"}
    with pytest.raises(StorageError, match="is full"):
        client.collector.sink.probe()
    assert "pixel_log" not in client.get("/metrics").text


def test_metrics_are_the_sum_and_open_to_any_host(collect, tmp_path):
    output = str(tmp_path / "events.db")
    one, other = collect({"output": output}), collect({"output": output})
    for client in (one, other):
        client.get(TRACK)
        client.get("/pixel/v1/track", status=400)
    log = one.collector.sink
    until(lambda: sum(log.counts().values()) == 4, "the counts")
    text = other.get("/metrics", headers={"Host": "elsewhere.example"}).text
    assert 'pixel_requests_total{outcome="accepted",reason=""} 2.0' in text
    assert 'pixel_requests_total{outcome="rejected",reason="missing_write_key"} 2.0' in text
    assert "anonymous" not in text


def test_an_answer_about_its_state_is_made_once_a_second(collect, tmp_path, monkeypatch):
    client = collect({"output": str(tmp_path / "events.db")})
    monkeypatch.setattr(app_module, "AGE_S", 3600.0)
    assert client.get("/health").json["events"] == 0
    client.get(TRACK)
    assert client.get("/health").json["events"] == 0
    monkeypatch.setattr(app_module, "AGE_S", 0.0)
    assert client.get("/health").json["events"] == 1


def test_without_its_library_metrics_name_the_extra(collect, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    client = collect({"output": str(tmp_path / "events.db")})
    assert "pip install 'pixel-middleware[prometheus]'" in client.get("/metrics", status=501).text


def test_the_live_view_is_at_the_root_and_can_be_left_out(collect, tmp_path):
    output = str(tmp_path / "events.db")
    client = collect({"output": output})
    client.get("/", status=403)
    assert "<title>" in client.get("/", headers={"Authorization": f"Bearer {client.collector.live_token}"}).text
    without = collect({"output": output, "live": False, "prefix": "/p"})
    assert "Try /p/track?writeKey=demo" in without.get("/", status=404).text
    assert without.collector.live_token is None


def test_its_pages_are_there_if_the_pixels_are_at_the_root_too(collect, tmp_path):
    client = collect({"output": str(tmp_path / "events.db"), "prefix": ""})
    client.get("/", status=403)
    client.get("/feed", status=403)
    assert client.get(TRACK.removeprefix("/pixel/v1")).body == b"OK"
    assert client.get("/health").json["events"] == 1
    assert 'pixel_requests_total{outcome="rejected"' not in client.get("/metrics").text


def test_refused_requests_are_kept_in_the_file(collect, tmp_path):
    client = collect({"output": str(tmp_path / "events.db")})
    client.get("/pixel/v1/track?writeKey=k", status=400)
    log: EventLog = client.collector.sink
    until(lambda: log.read("SELECT query FROM refusals") == [("writeKey=k",)], "the refusal")


# What an ASGI server asks beside requests


def told_by(app, scope, *received):
    """What the app sends to a server that sends it these."""
    sent, received = [], iter(received)

    async def receive():
        return {"type": next(received)}

    async def send(message):
        sent.append(message["type"])

    asyncio.run(app({"path": "/", **scope}, receive, send))
    return sent


def test_a_page_for_which_no_thread_is_free_is_refused_and_pixels_go_on(tmp_path, monkeypatch):
    app = create_asgi_app({"output": str(tmp_path / "events.db"), "threads": 1})
    token = [("Authorization", f"Bearer {app._collector.live_token}")]

    async def ask():
        monkeypatch.setattr("pixel_middleware.runtime.pool.WAIT_S", PATIENCE_S)
        looking = asyncio.create_task(get(app, "/feed?wait=2", headers=token, root_path=""))
        await asyncio.sleep(0)
        monkeypatch.setattr("pixel_middleware.runtime.pool.WAIT_S", 0.01)
        refused = await get(app, "/health")
        monkeypatch.setattr("pixel_middleware.runtime.pool.WAIT_S", PATIENCE_S)
        collected = await get(app, TRACK)
        return refused, collected[0], (await looking)[0], (await get(app, "/health"))[0]

    with closing(app._collector.sink):
        (status, headers, body), *others = asyncio.run(ask())
        assert (status, headers[b"retry-after"]) == (503, b"10")
        assert body == b"none of 1 threads was free within 0.01 s\n"
        assert others == [200, 200, 200]


def test_servers_that_start_and_stop_it_or_offer_a_websocket_are_answered(tmp_path):
    app = create_asgi_app({"output": str(tmp_path / "events.db")})
    with closing(app._collector.sink):
        lifespan = told_by(app, {"type": "lifespan"}, "lifespan.startup", "lifespan.shutdown")
        assert lifespan == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert told_by(app, {"type": "websocket"}) == ["websocket.close"]
        assert told_by(app, {"type": "of tomorrow"}) == []
