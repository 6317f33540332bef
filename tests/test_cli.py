"""The command line, started as its user starts it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from dataplane import DataPlane
from processes import PATIENCE_S, until

from pixel_middleware.commands import cli
from pixel_middleware.destinations import named
from pixel_middleware.sinks import EventLog

COMMAND = [sys.executable, "-m", "pixel_middleware"]
TRACK = "pixel/v1/track?writeKey=k&anonymousId=a&event=Order%20Completed&properties.total=12.5"


@pytest.fixture
def serve_command(popen, tmp_path):
    """Starts `serve` in an empty directory, on a port of its own, and ends it as its user would."""
    processes = []

    def start(*arguments, **options):
        processes.append(
            popen(
                [*COMMAND, "serve", "--port", "0", *arguments],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONDEVMODE": ""},
                **options,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0


def address_in(line):
    return re.search(r"http://127\.0\.0\.1:\d+/", line)[0]


@pytest.fixture
def collector(serve_command):
    """A running collector: (its address, its process)."""
    process = serve_command("--output", "events.jsonl")
    return address_in(process.stdout.readline()), process


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.fixture
def run_command(run, tmp_path):
    """Runs the command in an empty directory to its end."""

    def run_command(*arguments, **more):
        # No development mode: its warnings of other people's code would stand in the output.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDEVMODE"} | more
        return run([*COMMAND, *arguments], cwd=tmp_path, env=environment)

    return run_command


def test_serve_collects_into_a_file_and_prints_what_comes(collector, tmp_path):
    address, process = collector
    watch = process.stdout.readline()
    assert re.fullmatch(rf"Watch them come:      {address}\?token=[A-Za-z0-9_-]{{43}}\n", watch)
    example = process.stdout.readline().split()[-1]
    assert get(address + TRACK) == (200, b"OK")
    assert get(address + TRACK.replace("?", ".gif?"))[1][:6] == b"GIF89a"
    assert get(address + TRACK.replace("event", "x"))[0] == 400
    assert get(example) == (200, b"OK")
    assert get(address)[0] == 403
    with_cookies = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with with_cookies.open(watch.split()[-1], timeout=PATIENCE_S) as page:
        assert (page.url, b"<h1>Pixels, live</h1>" in page.read()) == (address, True)
    assert get(address + "elsewhere")[0] == 404
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text("utf-8").splitlines()]
    assert [(event["event"], event["properties"]) for event in events] == [
        ("Order Completed", {"total": "12.5"}),
        ("Order Completed", {"total": "12.5"}),
        ("Hello", {}),
    ]
    assert process.stdout.readline() == f"{events[0]['receivedAt']}  track  Order Completed  by a\n"


def test_nothing_that_a_client_sends_controls_the_terminal(collector):
    address, process = collector
    process.stdout.readline()
    process.stdout.readline()
    get(address + "pixel/v1/track?writeKey=k&anonymousId=a%0Ab&event=%1b[31mred")
    assert process.stdout.readline().endswith("  track  ?[31mred  by a?b\n")


def test_an_output_that_cannot_be_written_is_an_error_at_start(run_command):
    done = run_command("serve", "--output", "missing/events.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert "/missing/events.jsonl: No such file or directory" in done.stderr


def test_a_port_in_use_is_an_error_at_start_and_makes_no_file(collector, run_command, tmp_path):
    port = collector[0].strip("/").rpartition(":")[2]
    before = sorted(os.listdir(tmp_path))
    done = run_command("serve", "--port", port)
    assert (done.returncode, done.stderr) == (1, f"Error: cannot listen on 127.0.0.1:{port}: Address already in use\n")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    ("host", "reason"), [("nohost.invalid", r"\S.*"), ("a" * 64 + ".example", "that is no name of a host")]
)
def test_a_host_that_is_none_is_an_error_at_start(run_command, tmp_path, host, reason):
    before = sorted(os.listdir(tmp_path))
    done = run_command("serve", "--host", host)
    assert (done.returncode, done.stdout, sorted(os.listdir(tmp_path))) == (1, "", before)
    assert re.fullmatch(f"Error: cannot listen on {re.escape(host)}:8080: {reason}\n", done.stderr)


def test_what_is_refused_is_logged_with_its_time(serve_command):
    process = serve_command(stderr=subprocess.PIPE)
    get(address_in(process.stdout.readline()) + TRACK.replace("event", "x"))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} pixels refused: reason=missing_event count=1 total=1\n",
        process.stderr.readline(),
    )


def test_it_listens_on_ipv6_too(serve_command):
    address = re.search(r"http://\[::1\]:\d+/", serve_command("--host", "::1").stdout.readline())[0]
    assert get(address + TRACK) == (200, b"OK")


def test_a_missing_extra_is_named(run_command, tmp_path):
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('gone', name='click')")
    done = run_command("serve", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        1,
        "click is not installed; the command needs: pip install 'pixel-middleware[cli]'\n",
    )


def test_a_broken_installation_is_not_taken_for_a_missing_extra(run_command, tmp_path):
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('gone', name='pixel_middleware.gone')")
    done = run_command("serve", PYTHONPATH=str(tmp_path))
    assert "Traceback" in done.stderr


# options, workers, and who does not read


def test_a_check_says_what_is_right_and_touches_nothing(run_command, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as broker:
        lake = f'{{ url = "kafka://127.0.0.1:{broker.getsockname()[1]}/t", "sasl.password" = "{{env:PASSWORD}}" }}'
        (tmp_path / "pixels.toml").write_text(f'processors = ["honor_gpc"]\n[destinations]\nlake = {lake}\n')
        done = run_command("serve", "--config", "pixels.toml", "--check", PASSWORD="hunter2")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "The options are right: events go into events.db, and on to lake.\n"
        broker.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has connected
            broker.accept()
    assert sorted(os.listdir(tmp_path)) == ["pixels.toml"]
    done = run_command("serve", "--config", "pixels.toml", "--check", "--output", "none/events.db", PASSWORD="hunter2")
    assert (done.returncode, "none/events.db cannot be made: none cannot be written" in done.stderr) == (1, True)
    done = run_command("serve", "--config", "pixels.toml", "--check")
    assert (done.returncode, "pixels.toml: destinations.lake: {env:PASSWORD}: there is no" in done.stderr) == (2, True)


def test_all_workers_are_seen_and_outlive_their_own_death(serve_command, tmp_path):
    """1,000 pixels to four workers: 1,000 stored, and counted whichever of them is asked."""
    (tmp_path / "pixels.toml").write_text('output = "four.db"\nwrite_keys = ["k"]\n')
    process = serve_command("--config", "pixels.toml", "--workers", "4", "--threads", "4", "--quiet")
    address = address_in(process.stdout.readline())
    assert "/pixel/v1/track?writeKey=k" in process.stdout.readline()  # and no token, which is no journal's
    workers = children_of(process.pid)
    for _ in range(10):
        assert [get(address + TRACK)[0] for _ in range(98)] == [200] * 98
        assert [get(address + path)[0] for path in (TRACK.replace("=k", "=x"), "pixel/v1/none")] == [400, 404]
    with closing(EventLog(tmp_path / "four.db")) as log:
        until(lambda: sum(log.counts().values()) == 1000, "all counts")
        expected = {("accepted", ""): 980, ("rejected", "invalid_write_key"): 10, ("rejected", "not_found"): 10}
        assert (log.counts(), log.stats()["events"]) == (expected, 980)
    until(lambda: 'outcome="accepted",reason=""} 980.0' in get(f"{address}metrics")[1].decode(), "the sum")
    assert json.loads(get(f"{address}health")[1])["events"] == 980
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    until(lambda: len(children_of(process.pid) - workers) == 4, "four others")

    def is_answered():
        with suppress(OSError):
            return get(address + TRACK) == (200, b"OK")

    until(is_answered, "an answer")
    until(lambda: 'outcome="accepted",reason=""} 981.0' in get(f"{address}metrics")[1].decode(), "the sum goes on")


def children_of(pid):
    """The worker processes of a program; multiprocessing has one of its own beside them."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
    return {int(each) for each in children if "spawn_main" in command_of(each)}


def command_of(pid):
    """The command line of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_of_much_at_once_a_part_is_printed(serve_command, tmp_path, make_event):
    process = serve_command("--no-live")
    assert "Paste into a browser" in [process.stdout.readline() for _ in range(2)][1]
    with closing(EventLog(tmp_path / "events.db")) as log:
        log.put_many(make_event(str(number)) for number in range(100))
    lines = [process.stdout.readline() for _ in range(31)]
    assert [text.split()[2] for text in lines[:30]] == [str(number) for number in range(30)]
    assert lines[30] == "... and 70 more\n"


def test_who_closes_or_does_not_read_its_output_loses_no_pixel(serve_command, tmp_path):
    for reads in (True, False):
        process = serve_command("--no-live")
        address = address_in(process.stdout.readline())
        if reads:
            process.stdout.close()  # as `serve | head -1` does
        long = f"{address}{TRACK}&messageId=" + "x" * 5000
        assert [get(long)[0] for _ in range(40)] == [200] * 40
        assert get(address)[0] == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    with closing(EventLog(tmp_path / "events.db")) as log:
        assert log.stats()["events"] == 80


def test_idle_connections_are_ended_and_long_heads_refused(serve_command):
    host, port = address_in(serve_command("--quiet").stdout.readline())[7:-1].split(":")
    address = (host, int(port))
    with ExitStack() as connections:
        idle = [connections.enter_context(socket.create_connection(address, PATIENCE_S)) for _ in range(100)]
        assert get(f"http://{host}:{port}/{TRACK}") == (200, b"OK")
        for one in idle:
            with suppress(ConnectionResetError):
                assert one.recv(1000)[:12] in (b"", b"HTTP/1.1 408")
    with socket.create_connection(address, PATIENCE_S) as connection:
        with suppress(OSError):  # it need not read all of it
            connection.sendall(b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n")
        with suppress(ConnectionResetError):
            assert connection.recv(1000)[:10] in (b"", b"HTTP/1.1 4")


def test_without_granian_serve_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "granian", None)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.cli, ["serve"])
    assert (done.exit_code, done.output) == (1, "Error: serve needs granian: pip install 'pixel-middleware[serve]'\n")
    assert os.listdir(tmp_path) == []


# forwarding


def test_serve_forwards_what_it_stores_to_each_destination_and_keeps_it(serve_command, tmp_path):
    with DataPlane() as one, DataPlane() as other:
        first = serve_command("--forward-to", one.url, "--forward-to", f"lake={other.url}").stdout.readline()
        assert "into events.db, and on to 127.0.0.1, lake. Press Ctrl-C to stop." in first
        assert get(address_in(first) + TRACK) == (200, b"OK")
        until(lambda: one.stored and other.stored, "the event at both")
        assert [event["event"] for event in one.stored + other.stored] == ["Order Completed"] * 2
    with closing(EventLog(tmp_path / "events.db")) as log:
        assert log.stats()["events"] == 1


def test_a_new_destination_gets_no_history_and_serve_says_how_it_would(
    serve_command, run_command, tmp_path, make_event
):
    with closing(EventLog(tmp_path / "events.db")) as log:
        log.put_many([make_event("a"), make_event("b")])
    with DataPlane() as plane:
        process = serve_command("--forward-to", f"lake={plane.url}")
        assert [process.stdout.readline() for _ in range(2)] == [
            "lake is new to events.db: it gets what comes from now on, and not the 2 events before.\n",
            "To send them too: pixel-middleware log events.db rewind lake\n",
        ]
        assert get(address_in(process.stdout.readline()) + TRACK) == (200, b"OK")
        until(lambda: plane.stored, "the new event")
        assert [event["event"] for event in plane.stored] == ["Order Completed"]
        assert run_command("log", "events.db", "rewind", "lake").stdout == "3 events will be sent again to lake\n"
        until(lambda: len(plane.stored) == 4, "all events")
        again = serve_command("--forward-to", f"lake={plane.url}")  # it is not new any more
        assert address_in(again.stdout.readline())


def test_serve_sends_a_backlog_before_any_request(serve_command, tmp_path, make_event):
    with DataPlane() as plane:
        with closing(EventLog(tmp_path / "events.db", named([f"lake={plane.url}"]))):
            pass
        with closing(EventLog(tmp_path / "events.db")) as log:
            log(make_event("waiting"))
        serve_command("--forward-to", f"lake={plane.url}")
        until(lambda: plane.stored, "the backlog")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--output", "x.jsonl", "--forward-to", "http://127.0.0.1"],
            "x.jsonl cannot be forwarded: give output a name that ends in .db, like events.db",
        ),
        (["--forward-to", "nowhere"], "forward_to must be the URL of a data plane"),
        (["--forward-to", "kafka://host:9092"], "or kafka://host:9092/topic"),
        (["--forward-to", "kafka://host:9092/topic?acks=most"], "config must be options librdkafka takes"),
        (["--output", "missing/x.db"], "/missing/x.db: "),
        (["--output", "x.txt"], "output must be a file whose name ends in .db, .sqlite or .jsonl"),
        (
            ["--forward-to", "http://h:1", "--forward-to", "http://h:2"],
            "two destinations are called h: give each a NAME",
        ),
        (["--forward-to", "=http://h"], "forward_to must be NAME=URL with a NAME of 1 to 100 printable characters"),
        (["--forward-to", "lake=nowhere"], "Invalid value for --forward-to: forward_to must be the URL of"),
        (["--allow", "everybody"], "Invalid value for --allow: "),
    ],
)
def test_what_serve_cannot_do_is_an_error_at_start(run_command, arguments, message):
    done = run_command("serve", "--port", "0", *arguments)
    assert (done.returncode, message in " ".join(done.stderr.split()), "Traceback" in done.stderr) == (2, True, False)


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\0" * 84], ids=["text", "nearly SQLite"]
)
def test_a_file_that_is_no_log_is_refused_without_litter(run_command, tmp_path, content):
    (tmp_path / "other.db").write_bytes(content)
    before = sorted(os.listdir(tmp_path))
    done = run_command("serve", "--port", "0", "--output", "other.db", "--forward-to", "http://127.0.0.1:9")
    assert (done.returncode, "/other.db: " in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    assert (sorted(os.listdir(tmp_path)), (tmp_path / "other.db").read_bytes()) == (before, content)


def test_an_empty_file_becomes_a_log(serve_command, tmp_path):
    (tmp_path / "events.db").touch()
    process = serve_command("--forward-to", "lake=http://127.0.0.1:9")
    assert get(address_in(process.stdout.readline()) + TRACK) == (200, b"OK")


def test_a_missing_extra_of_the_destination_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.cli, ["serve", "--forward-to", "kafka://host:9092/topic"])
    assert (done.exit_code, "pip install 'pixel-middleware[kafka]'" in done.output) == (1, True)
