"""Under real servers whose workers are killed, and data planes that fail: nothing that was answered 200 is lost.

Longer runs: PIXEL_FAULT_KILLS=200.
"""

import json
import re
import signal
import sqlite3
import urllib.request
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from load import KILLS, children_of, collect_under_fire
from processes import PATIENCE_S, TESTS, until, until_up

from pixel_middleware.destinations import RudderStack
from pixel_middleware.sinks import EventLog

BATCH_SIZE = 10
WORKERS = 4

GUNICORN = ("-m", "gunicorn", "collecting_app:app", f"--workers={WORKERS}", "--bind=127.0.0.1:{port}")
UWSGI = (
    *("-c", "import os, sys, sysconfig; os.execv(os.path.join(sysconfig.get_path('scripts'), 'uwsgi'), sys.argv)"),
    *("--http-socket=127.0.0.1:{port}", "--master", f"--processes={WORKERS}", "--module=collecting_app:app"),
    *("--listen=64", "--need-app", "--die-on-term", "--pythonpath={tests}"),
)
GRANIAN = (
    *("-m", "granian", "--host=127.0.0.1", "--port={port}", "--workers=3"),
    *("--respawn-failed-workers", "--respawn-interval=0"),
)
SERVERS = {
    # A gevent worker that is told to stop while it boots does not hear it.
    "sync, preload": (*GUNICORN, "-k=sync", "--preload"),
    "gthread, preload": (*GUNICORN, "-k=gthread", "--threads=8", "--preload"),
    "gthread": (*GUNICORN, "-k=gthread", "--threads=8"),
    "gevent, preload": (*GUNICORN, "-k=gevent", "--preload", "--graceful-timeout=3"),
    "gevent": (*GUNICORN, "-k=gevent", "--graceful-timeout=3"),
    "granian": (*GRANIAN, "--interface=wsgi", "collecting_app:app"),
    "granian, asgi": (*GRANIAN, "--interface=asginl", "async_collecting_app:app"),
    "uwsgi": (*UWSGI, "--enable-threads"),
    "uwsgi, lazy": (*UWSGI, "--enable-threads", "--lazy-apps"),
    "uwsgi, without threads": UWSGI,
}


@pytest.fixture
def start_server(start, new_port):
    """Starts a server of SERVERS; returns it and its port, when it listens."""

    def start_server(name, **environment):
        port = new_port()
        command = [word.format(port=port, tests=TESTS) for word in SERVERS[name]]
        server = start(*command, **environment)
        until_up(port, server)
        return server, port

    return start_server


@pytest.fixture
def start_plane(start, new_port, tmp_path):
    """Starts a data plane that fails now and then; returns its URL, and the file of what it stored."""

    def start_plane(name, seed):
        log, port = tmp_path / f"stored by {name}", new_port()
        log.touch()
        until_up(port, start(TESTS / "dataplane.py", port, log, seed))
        return f"http://127.0.0.1:{port}", log

    return start_plane


def end(server, name):
    """Tell a server to end, or kill it where workers that still boot would not hear that, and be waited for."""
    if name.startswith(("uwsgi", "granian")):
        server.kill()
    server.end()


def set_back(path, name):
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT message_id FROM events JOIN setbacks USING (id) WHERE destination = ?"
        return {message_id for (message_id,) in connection.execute(query, (name,))}


def deliveries(log):
    return [line.split() for line in log.read_text().splitlines()]


@pytest.mark.parametrize("name", SERVERS)
def test_nothing_acknowledged_is_lost_on_the_way_to_either_of_two_destinations(
    name, start_server, start_plane, tmp_path
):
    path = tmp_path / "events.db"
    planes = {plane: start_plane(plane, seed) for seed, plane in enumerate(["one", "two"])}
    forward_to = " ".join(f"{plane}={url}" for plane, (url, _) in planes.items())
    server, port = start_server(name, LOG=str(path), FORWARD_TO=forward_to, BATCH_SIZE=str(BATCH_SIZE))
    # granian ends if a worker dies that it has started anew within seconds.
    acknowledged = set(collect_under_fire(server, port, kills=2 if name.startswith("granian") else KILLS))
    end(server, name)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert acknowledged <= {message_id for (message_id,) in connection.execute("SELECT message_id FROM events")}
    destinations = {plane: RudderStack(url) for plane, (url, _) in planes.items()}
    with closing(EventLog(path, destinations, retry_min_s=0.01, retry_max_s=0.1)) as draining:
        assert draining.flush(PATIENCE_S)
    for plane, (_, log) in planes.items():
        delivered = deliveries(log)
        assert acknowledged - {message_id for message_id, _ in delivered} - set_back(path, plane) == set()
        # Only a killed courier sends again what the data plane had acknowledged, and that is a batch at most.
        answered = Counter(message_id for message_id, word in delivered if word == "answered")
        assert answered.total() - len(answered) <= BATCH_SIZE * (KILLS + WORKERS)


def stats_of(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=PATIENCE_S) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize("name", [name for name in SERVERS if name != "uwsgi, without threads"])
def test_a_backlog_leaves_after_a_restart_without_any_request(name, start_server, start_plane, tmp_path, make_event):
    path = tmp_path / "events.db"
    url, log = start_plane("plane", 1)
    with closing(EventLog(path, {"plane": RudderStack("http://127.0.0.1:9")})) as down:
        down.put_many([make_event(str(number)) for number in range(200)])
    server, port = start_server(name, LOG=str(path), FORWARD_TO=f"plane={url}")
    until(lambda: len({message_id for message_id, _ in deliveries(log)}) == 200, "the backlog")
    workers = children_of(server.pid) or [server.pid]

    def carrier():
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT carrier FROM destinations").fetchone()[0]

    # What one master began, before it forked, the workers go on with.
    urllib.request.urlopen(f"http://127.0.0.1:{port}/pixel/v1/page?writeKey=k&anonymousId=a").close()
    until(
        lambda: (carrier() in descendants_of(server.pid) and carrier() != server.pid) or not workers, "a worker carries"
    )
    end(server, name)


def descendants_of(pid):
    return {pid}.union(*(descendants_of(child) for child in children_of(pid)))


@pytest.mark.parametrize("used_before", ["nothing", "an event", "start"])
@pytest.mark.parametrize("name", ["uwsgi", "uwsgi, without threads"])
def test_a_fork_that_python_does_not_see_leaves_all_workers_answering(
    name, used_before, start_server, start_plane, tmp_path
):
    url, log = start_plane("plane", 1)
    server, port = start_server(
        name, LOG=str(tmp_path / "events.db"), FORWARD_TO=f"plane={url}", USE_BEFORE_FORK=used_before
    )
    pixel = f"http://127.0.0.1:{port}/pixel/v1/track?writeKey=k&anonymousId=a&event=e&messageId="
    for number in range(8):
        for path in (f"{pixel}{number}", f"http://127.0.0.1:{port}/"):
            with urllib.request.urlopen(path, timeout=PATIENCE_S) as answer:
                assert answer.status == 200
    expected = {str(number) for number in range(8)} | ({"before"} if used_before == "an event" else set())
    if name == "uwsgi":
        until(lambda: {message_id for message_id, _ in deliveries(log)} == expected, "all events")
    else:  # its threads only get on while a request is served
        until(
            lambda: stats_of(port) and {message_id for message_id, _ in deliveries(log)} == expected,
            "all events",
        )
    until(lambda: heeds(server.pid, signal.SIGTERM), "a master that has forked all its workers")
    worker = children_of(server.pid)[0]
    server.send_signal(signal.SIGTERM)
    until(lambda: worker not in children_of(server.pid), "the end of a worker")


def heeds(pid, number):
    """Whether a process does not ignore a signal, as the master of uWSGI does while it forks workers."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    ignored = int(re.search(r"^SigIgn:\s*(\w+)", status, re.MULTILINE)[1], 16)
    return not ignored >> (number - 1) & 1


def test_a_destination_that_is_down_for_a_while_costs_nothing(tmp_path, make_event, free_port, start):
    stored = tmp_path / "stored"
    stored.touch()
    plane = RudderStack(f"http://127.0.0.1:{free_port}")
    with closing(EventLog(tmp_path / "events.db", {"it": plane}, retry_min_s=0.05, retry_max_s=0.1)) as log:
        events = [make_event(str(number)) for number in range(200)]
        for event in events:
            log(event)
        until(lambda: log.stats()["destinations"]["it"]["retried"] >= 3, "three failures")
        assert (log.stats()["destinations"]["it"]["lag"], stored.read_text()) == (200, "")
        start(TESTS / "dataplane.py", free_port, stored, "1")
        assert log.flush(PATIENCE_S)
    assert {line.split()[0] for line in stored.read_text().splitlines()} == {event["messageId"] for event in events}
