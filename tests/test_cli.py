"""The command line, started as its user starts it."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from click.testing import CliRunner
from dataplane import DataPlane
from processes import PATIENCE_S, until

from pixel_middleware.commands import cli
from pixel_middleware.sinks import SQLite

COMMAND = [sys.executable, "-m", "pixel_middleware"]
TRACK = "pixel/v1/track?writeKey=k&anonymousId=a&event=Order%20Completed&properties.total=12.5"


@pytest.fixture
def serve_command(popen, tmp_path):
    """Starts `serve` in an empty directory, on a port of its own, and ends it as its user would."""
    processes = []

    def start(*arguments):
        processes.append(
            popen(
                [*COMMAND, "serve", "--port", "0", *arguments],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
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
    assert process.stdout.readline() == f"Watch them come:      {address}\n"
    example = process.stdout.readline().split()[-1]
    assert get(address + TRACK) == (200, b"OK")
    assert get(address + TRACK.replace("?", ".gif?"))[1][:6] == b"GIF89a"
    assert get(address + TRACK.replace("event", "x"))[0] == 400
    assert get(example) == (200, b"OK")
    assert b"<h1>Pixels, live</h1>" in get(address)[1]
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
    assert "cannot open missing/events.jsonl: No such file or directory" in done.stderr


def test_a_port_in_use_is_an_error_at_start(collector, run_command):
    port = collector[0].strip("/").rpartition(":")[2]
    done = run_command("serve", "--port", port)
    assert (done.returncode, done.stderr) == (1, f"Error: cannot listen on 127.0.0.1:{port}: Address already in use\n")


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


# forwarding and the outbox


def invoke(*arguments):
    return CliRunner().invoke(cli.cli, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def outbox(tmp_path, make_event):
    """An outbox in which three events wait."""
    path = tmp_path / "events.db"
    store = SQLite(path)
    for name in ("a", "poison", "c"):
        store(make_event(name))
    store.close()
    return path


def no_poison(write_key, batch):
    return (400, {}) if any(event["event"] == "poison" for event in batch) else None


def test_serve_forwards_what_it_stores(serve_command):
    with DataPlane() as plane:
        first = serve_command("--forward-to", plane.url).stdout.readline()
        assert f"into events.db, and on to {plane.url}" in first
        assert get(address_in(first) + TRACK) == (200, b"OK")
        until(lambda: plane.stored, "the event")
        assert plane.stored[0]["event"] == "Order Completed"


def test_outbox_shows_what_waits_and_drain_sends_it(outbox):
    assert re.fullmatch(r"waiting  3  since 2\d{3}-.*Z\ndead     0\n", invoke("outbox", outbox).output)
    with DataPlane(no_poison) as plane:
        done = invoke("outbox", outbox, "drain", "--forward-to", plane.url)
        assert (done.exit_code, done.stdout) == (0, "3 sent or buried, 0 left, 1 dead\n")
        assert "100%" in done.stderr
        assert [event["event"] for event in plane.stored] == ["a", "c"]
    assert invoke("outbox", outbox).output == "waiting  0  since never\ndead     1\n"
    listed = invoke("outbox", outbox, "dead").output
    assert re.fullmatch(r".*Z  .*Z  track  poison  by a  HTTP 400: no such luck\n", listed)
    (letter,) = map(json.loads, invoke("outbox", outbox, "dead", "--json").output.splitlines())
    assert (letter["event"]["event"], letter["reason"]) == ("poison", "HTTP 400: no such luck")
    assert invoke("outbox", outbox, "retry").output == "1 events wait again\n"
    assert "waiting  1" in invoke("outbox", outbox).output


def test_drain_says_what_is_left_and_outbox_why(outbox):
    with DataPlane(lambda write_key, batch: (401, {})) as plane:
        done = invoke("outbox", outbox, "drain", "--forward-to", plane.url, "--timeout", "0.5")
    assert (done.exit_code, done.stdout) == (1, "0 sent or buried, 3 left, 0 dead\n")
    assert "on hold  k: HTTP 401: no such luck\n" in invoke("outbox", outbox).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--output", "x.jsonl", "--forward-to", "http://127.0.0.1"],
            "output must be an SQLite file, like events.db, to be forwarded",
        ),
        (["--forward-to", "nowhere"], "forward_to must be the URL of a data plane"),
        (["--forward-to", "kafka://host:9092"], "or kafka://host:9092/topic"),
        (["--forward-to", "kafka://host:9092/topic?acks=most"], "config must be options librdkafka takes"),
        (["--output", "missing/x.db"], "cannot use missing/x.db"),
    ],
)
def test_what_serve_cannot_do_is_an_error_at_start(run_command, arguments, message):
    done = run_command("serve", *arguments)
    assert (done.returncode, message in " ".join(done.stderr.split()), "Traceback" in done.stderr) == (2, True, False)


def test_a_missing_extra_of_the_destination_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.chdir(tmp_path)
    done = invoke("serve", "--forward-to", "kafka://host:9092/topic")
    assert (done.exit_code, "pip install 'pixel-middleware[kafka]'" in done.output) == (1, True)


def test_a_file_that_is_no_outbox_is_a_clear_error(tmp_path):
    path = tmp_path / "text"
    path.write_text("no database at all" * 100)
    done = invoke("outbox", path)
    assert (done.exit_code, "file is not a database" in done.output) == (1, True)
