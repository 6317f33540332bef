"""SQLite: an event is on disk when the call returns, or the call raises."""

import itertools
import json
import os
import sqlite3
import subprocess
import threading
from contextlib import closing

import pytest

from pixel_middleware import ConfigurationError, PixelMiddleware, StorageError
from pixel_middleware.runtime.group_commit import GroupCommit
from pixel_middleware.sinks import JSONLines, SQLite, sqlite


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


@pytest.fixture
def sink(path):
    sink = SQLite(path)
    yield sink
    sink.close()


def rows(path, columns="event ->> 'event'"):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT {columns} FROM events ORDER BY id").fetchall()


def names(path):
    return [name for (name,) in rows(path)]


def test_an_event_is_a_row_that_people_can_query(sink, path, make_event):
    event = make_event("Signup")
    sink(event)
    ((*columns, text),) = rows(path, "id, received_at, type, write_key, message_id, event")
    assert columns == [1, event["receivedAt"], "track", "k", event["messageId"]]
    assert json.loads(text) == event


def test_the_file_keeps_what_was_committed_through_a_power_cut(sink, make_event):
    sink(make_event())
    assert sink.read("PRAGMA synchronous") == [(2,)]
    assert sink.read("PRAGMA journal_mode") == [("wal",)]


def test_32_threads_share_commits_and_lose_nothing(sink, path, make_event, in_threads):
    commits = []
    insert = sink._rows._commit
    sink._rows._commit = lambda batch: (commits.append(len(batch)), insert(batch))
    assert in_threads(32, lambda number: [sink(make_event(f"{number}-{n}")) for n in range(10)]) == []
    assert sorted(names(path)) == sorted(f"{number}-{n}" for number in range(32) for n in range(10))
    assert sum(commits) == 320
    assert len(commits) < 320


def test_threads_are_served_in_order_of_arrival():
    order, first, go_on = [], threading.Event(), threading.Event()

    def commit(batch):
        order.append(batch)
        first.set()
        go_on.wait()

    group = GroupCommit(commit)
    threads = []
    for record in range(4):
        threads.append(threading.Thread(target=group.put, args=(record,)))
        threads[-1].start()
        first.wait()
        while record and len(group._waiting) < record:
            pass
    go_on.set()
    for thread in threads:
        thread.join()
    assert order == [[0], [1, 2, 3]]


def test_a_failed_commit_fails_all_that_it_was_for():
    def commit(batch):
        raise OSError(f"{len(batch)} lost")

    with pytest.raises(StorageError, match="1 lost"):
        GroupCommit(commit).put("x")


def test_an_interrupted_leader_leaves_nobody_waiting():
    group = GroupCommit(lambda batch: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        group.put("x")
    assert not group._has_leader


def fill(sink, make_event, stored):
    for number in itertools.count():
        sink(make_event(str(number), properties={"text": "x" * 5000}))
        stored.append(str(number))


def test_the_file_is_bounded_and_what_does_not_fit_is_refused(path, make_event):
    sink = SQLite(path, max_bytes=100_000)
    stored = []
    with pytest.raises(StorageError, match="database or disk is full"):
        fill(sink, make_event, stored)
    assert names(path) == stored
    sink.transaction(lambda connection: connection.execute("DELETE FROM events"))
    sink(make_event("again"))
    assert (names(path), path.stat().st_size <= 100_000) == (["again"], True)
    sink.close()


def test_a_full_disk_is_refused_and_loses_nothing(tmpfs, make_event):
    path = tmpfs / "events.db"
    sink = SQLite(path)
    stored = []
    with pytest.raises(StorageError, match=r"disk is full|disk I/O error"):
        fill(sink, make_event, stored)
    assert [name for (name,) in sink.read("SELECT event ->> 'event' FROM events ORDER BY id")] == stored
    sink.close()


def test_a_locked_database_is_refused_after_the_timeout(path, make_event, monkeypatch, make_client, caplog):
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
    sink = SQLite(path)
    client = make_client(sink)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        client.get("/pixel/v1/page?writeKey=k&anonymousId=a", status=503)
        assert "database is locked" in caplog.text
        other.rollback()
    client.get("/pixel/v1/page?writeKey=k&anonymousId=a", status=200)
    assert len(rows(path)) == 1
    sink.close()


@pytest.mark.parametrize("content", [b"no database at all, but text" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_broken_file_is_a_clear_error_at_start(path, content):
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"cannot use .*events\.db"):
        SQLite(path)


def test_a_directory_that_does_not_exist_is_a_clear_error_at_start(tmp_path):
    with pytest.raises(StorageError, match="No such file or directory"):
        SQLite(tmp_path / "missing" / "events.db")


def test_a_directory_in_place_of_the_file_is_a_clear_error_at_start(tmp_path):
    with pytest.raises(StorageError, match="unable to open database file"):
        SQLite(tmp_path)


def test_what_cannot_be_read_is_a_storage_error(sink):
    with pytest.raises(StorageError, match="no such table"):
        sink.read("SELECT * FROM missing")


@pytest.mark.parametrize("max_bytes", [0, -1, True, "1"])
def test_a_wrong_bound_is_refused(path, max_bytes):
    with pytest.raises(ConfigurationError, match="max_bytes must be a whole number of at least 1"):
        SQLite(path, max_bytes)


def test_a_fork_after_use_loses_nothing(sink, path, make_event, in_threads, in_child):
    """The trap that was measured: an inherited connection silently loses hundreds of acknowledged events."""
    sink(make_event("before"))
    app = PixelMiddleware(lambda environ, start_response: [], sink)
    stop = threading.Event()
    stored = []

    def busy():
        while not stop.is_set():
            sink(make_event("busy"))
            stored.append("busy")

    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        in_child(lambda: in_threads(4, lambda number: [sink(make_event("child")) for _ in range(10)]))
    stop.set()
    for thread in threads:
        thread.join()
    assert sorted(names(path)) == sorted(["before", *stored, *["child"] * 200])
    assert (os.path.exists(path), app.stats()["accepted"]) == (True, 0)


def test_threads_that_fork_at_once_do_not_wait_for_each_other(tmp_path, make_event, in_threads, in_child):
    sinks = [SQLite(tmp_path / f"{number}.db") for number in range(8)]

    def work(number):
        for _ in range(20):
            if number % 2:
                in_child(lambda: sinks[0](make_event()))
            else:
                for sink in sinks:
                    sink(make_event())

    assert in_threads(8, work) == []


@pytest.fixture
def remount(tmpfs):
    """Makes the small file system read-only, or writable again."""
    yield lambda mode: subprocess.run(["mount", "-o", f"remount,{mode}", str(tmpfs)], check=True)
    subprocess.run(["mount", "-o", "remount,rw", str(tmpfs)], check=True)


@pytest.mark.parametrize("kind", [SQLite, JSONLines])
def test_a_read_only_file_system_is_an_error_and_passes(kind, tmpfs, remount, make_event):
    sink = kind(tmpfs / "events")
    sink(make_event("before"))
    sink.close()
    remount("ro")
    with pytest.raises(StorageError):
        sink(make_event("refused"))
    with pytest.raises(StorageError):
        sink.put_many([make_event("refused")])
    with pytest.raises(StorageError, match=r"other.*(read-only|Read-only|unable to open)"):
        kind(tmpfs / "other")
    remount("rw")
    sink(make_event("after"))
    sink.close()
    assert len(sink.message_ids()) == 2
