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

from pixel_middleware.commands import following
from pixel_middleware.sinks import EventLog, JSONLines

COMMAND = [sys.executable, "-m", "pixel_middleware", "tail"]


@pytest.fixture(params=["events.db", "events.jsonl"])
def path(request, tmp_path, make_event):
    """An event log, and JSON Lines, with twelve events."""
    path = tmp_path / request.param
    put(path, *(make_event(f"event {number}") for number in range(12)))
    return path


def put(path, *events):
    with closing((JSONLines if path.suffix == ".jsonl" else EventLog)(path)) as sink:
        sink.put_many(events)


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


def test_who_is_too_slow_is_told_how_many_are_left_out(path, make_event):
    with closing(following.follow(path, 0, 5)) as told:
        assert next(told) is None
        put(path, *(make_event(f"new {number}", text="x" * 30_000) for number in range(12)))
        *texts, left_out = iter(told.__next__, None)
        assert [json.loads(text)["event"] for text in texts] == [f"new {number}" for number in range(len(texts))]
        assert (len(texts), left_out) == (5, 7)
        put(path, *(make_event(f"last {number}") for number in range(5)))
        assert len([*iter(told.__next__, None)]) == 5


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


def test_more_events_than_are_read_at_once_are_all_printed(run, path, make_event):
    put(path, *(make_event(f"more {number} {'x' * 100}") for number in range(2100)))
    assert len(names(run([*COMMAND, path, "-n", 2100, "--no-follow"]).stdout)) == 2100
    assert len(names(run([*COMMAND, path, "-n", 9999, "--no-follow"]).stdout)) == 2112


def test_a_file_that_is_replaced_is_followed(popen, path, make_event):
    process = popen(
        [*COMMAND, path, "-n", "1"], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    assert names(process.stdout.readline()) == ["event 11"]
    new = path.with_name(f"new{path.suffix}")
    put(new, make_event("of the new file"))
    new.rename(path)
    assert names(process.stdout.readline()) == ["of the new file"]
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 0


def test_lines_that_are_cut_off_or_torn_or_rotated_away_are_no_obstacle(popen, tmp_path, make_event):
    path = tmp_path / "events.jsonl"
    put(path, *(make_event(name) for name in "abc"))
    process = popen(
        [*COMMAND, path, "-n", "1"], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    assert names(process.stdout.readline()) == ["c"]
    with path.open("a") as lines:
        lines.write('{"half a line\n{"event": "whole"')
        lines.flush()
        lines.write("}\n")
    assert names(process.stdout.readline()) == ["whole"]
    path.write_text('{"event": "cut"}\n')  # as copytruncate does
    assert names(process.stdout.readline()) == ["cut"]
    path.unlink()
    path.write_text('{"event": "new"}\n')
    assert names(process.stdout.readline()) == ["new"]
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text", b"no database at all" * 100, "text is no event log: file is not a database"),
        ("empty.db", b"", "empty.db is no event log: it is empty"),
        ("missing.db", None, "there is no file missing.db"),
        ("missing.jsonl", None, "cannot read missing.jsonl: No such file or directory"),
    ],
)
def test_a_file_that_is_none_to_show_is_a_clear_error(run, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = sorted(os.listdir(tmp_path))
    done = run([*COMMAND, name], cwd=tmp_path, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    assert (done.returncode, done.stderr) == (1, f"Error: {message}\n")
    assert sorted(os.listdir(tmp_path)) == before
