"""JSONLines: an event is on disk when the call returns, whatever happens to the file."""

import errno
import json
import os
from contextlib import closing

import pytest

from pixel_middleware import StorageError
from pixel_middleware.sinks import JSONLines


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


@pytest.fixture
def sink(path):
    sink = JSONLines(path)
    yield sink
    sink.close()


def names(path):
    return [json.loads(line)["event"] for line in path.read_text("utf-8").splitlines()]


def test_each_event_is_one_line(sink, path, make_event):
    event = make_event("two\nlines, ünï")
    sink(event)
    sink(make_event("b"))
    first, second = path.read_text("utf-8").splitlines()
    assert (json.loads(first), json.loads(second)["event"]) == (event, "b")


def test_a_program_that_changes_its_directory_goes_on_with_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with closing(JSONLines("events.jsonl")) as sink:
        sink({"number": 1})
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        sink.close()
        sink({"number": 2})
    assert (tmp_path / "events.jsonl").read_text().count("number") == 2


def test_many_threads_and_processes_share_a_file(sink, path, make_event, in_threads, in_child):
    def write(who):
        assert in_threads(8, lambda number: [sink(make_event(f"{who}-{number}-{n}")) for n in range(20)]) == []

    sink(make_event("first"))
    in_child(lambda: write("child"))
    write("parent")
    assert sorted(names(path)) == sorted(
        ["first", *(f"{who}-{number}-{n}" for who in ("child", "parent") for number in range(8) for n in range(20))]
    )


def test_a_torn_line_does_not_swallow_the_next_event(sink, path, make_event):
    sink(make_event("a"))
    with path.open("a") as other:
        other.write('{"event": "killed half')
    sink(make_event("b"))
    lines = path.read_text("utf-8").splitlines()
    assert (len(lines), json.loads(lines[2])["event"]) == (3, "b")


def test_a_line_torn_inside_a_letter_does_not_hide_the_other_events(sink, path, make_event):
    event = make_event("a")
    path.write_bytes('{"event": "ü'.encode()[:-1])
    sink(event)
    assert sink.message_ids() == {event["messageId"]}


@pytest.mark.parametrize("rotate", ["rename", "unlink", "truncate"])
def test_it_survives_log_rotation(sink, path, make_event, rotate):
    sink(make_event("a"))
    match rotate:
        case "rename":
            path.rename(path.with_suffix(".1"))
        case "unlink":
            path.unlink()
        case "truncate":
            os.truncate(path, 0)
    sink(make_event("b"))
    assert names(path) == ["b"]


def test_a_file_that_was_replaced_is_found(sink, path, make_event):
    sink(make_event("a"))
    path.rename(path.with_suffix(".1"))
    path.write_text("")
    sink(make_event("b"))
    assert (names(path), names(path.with_suffix(".1"))) == (["b"], ["a"])


def test_a_full_disk_is_refused_and_leaves_no_part_of_an_event(tmpfs, make_event):
    path = tmpfs / "events.jsonl"
    sink = JSONLines(path)
    sink(make_event("kept"))
    ballast = tmpfs / "ballast"
    free = os.statvfs(tmpfs).f_bavail * os.statvfs(tmpfs).f_frsize
    ballast.write_bytes(b"x" * (free - 4096))
    with pytest.raises(StorageError, match="No space left"):
        sink(make_event("too large", properties={"text": "x" * 20_000}))
    assert names(path) == ["kept"]
    ballast.unlink()
    sink(make_event("again"))
    assert names(path) == ["kept", "again"]
    sink.close()


def test_a_path_that_cannot_be_written_is_an_error_at_construction(tmp_path):
    with pytest.raises(StorageError, match=r"cannot open .*: No such file or directory") as caught:
        JSONLines(tmp_path / "missing" / "events.jsonl")
    assert caught.value.__cause__.errno == errno.ENOENT


def test_a_relative_path_will_do(tmp_path, monkeypatch, make_event):
    monkeypatch.chdir(tmp_path)
    sink = JSONLines("events.jsonl")
    sink(make_event("a"))
    sink.close()
    sink.close()
    assert names(tmp_path / "events.jsonl") == ["a"]
