"""`pixel-middleware tail`: JSON in a pipe, colours on a terminal, and what comes as it comes."""

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import closing, suppress

import pytest
from processes import PATIENCE_S

from pixel_middleware.sinks import SQLite

COMMAND = [sys.executable, "-m", "pixel_middleware", "tail"]


@pytest.fixture
def path(tmp_path, make_event):
    path = tmp_path / "events.db"
    sink = SQLite(path)
    for number in range(12):
        sink(make_event(f"event {number}"))
    sink.close()
    return path


def put(path, event):
    with closing(SQLite(path)) as sink:
        sink(event)


def names(text):
    return [json.loads(line)["event"] for line in text.splitlines()]


@pytest.mark.parametrize(("count", "first"), [(3, 9), (100, 0), (0, 12)])
def test_a_pipe_gets_json_of_the_newest_events(run, path, count, first):
    done = run([*COMMAND, path, "-n", count, "--no-follow"])
    assert names(done.stdout) == [f"event {number}" for number in range(first, 12)]


def test_events_are_printed_as_they_come(popen, path, make_event):
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = popen([*COMMAND, path, "-n", "1"], stdout=subprocess.PIPE, text=True, env=environment)
    assert names(process.stdout.readline()) == ["event 11"]
    put(path, make_event("new 1"))
    assert names(process.stdout.readline()) == ["new 1"]
    put(path, make_event("new 2"))
    assert names(process.stdout.readline()) == ["new 2"]
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 0


@pytest.fixture
def on_terminal(popen):
    """What a program prints on a terminal."""

    def on_terminal(command):
        terminal, its_end = pty.openpty()
        popen(command, stdout=its_end)
        os.close(its_end)
        printed = b""
        with open(terminal, "rb", buffering=0) as screen, suppress(OSError):  # so Linux says that the end is closed
            while said := screen.read(65536):
                printed += said
        return printed.decode()

    return on_terminal


def test_a_terminal_gets_colours_and_nothing_that_a_client_sent_controls_it(on_terminal, path, make_event):
    put(path, make_event("\x1b[2Jcleared", context={"page": {"url": "https://shop.example/\x07"}}))
    put(path, make_event("odd", context={"page": "text"}))
    cleared, odd = on_terminal([*COMMAND, path, "-n", "2", "--no-follow"]).splitlines()
    assert "\x1b[32mtrack\x1b[0m  \x1b[1m?[2Jcleared\x1b[0m  a  \x1b[2mhttps://shop.example/?\x1b[0m" in cleared
    assert "odd" in odd


def test_a_file_that_is_no_database_is_a_clear_error(run, tmp_path):
    (tmp_path / "text").write_text("no database at all" * 100)
    done = run([*COMMAND, tmp_path / "text"])
    assert (done.returncode, "file is not a database" in done.stderr) == (1, True)
