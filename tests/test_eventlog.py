"""EventLog: an event is on disk when the call returns, or the call raises; and it is sent on by itself."""

import itertools
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

import pytest

from pixel_middleware import ConfigurationError, PixelMiddleware, RetryLater, StorageError
from pixel_middleware.destinations import Destination
from pixel_middleware.runtime import group_commit
from pixel_middleware.runtime.group_commit import Busy
from pixel_middleware.sinks import EventLog, JSONLines, schema, store, tee
from pixel_middleware.sinks.reader import Reader

PATIENCE_S = 60


class Recorder(Destination):
    """Keeps what it delivered, and raises what its `trouble()` returns."""

    def __init__(self, trouble=lambda: None):
        self.trouble = trouble
        self.sent = []
        self.closed = 0

    def send(self, events):
        error = self.trouble()
        if error is not None:
            raise error
        self.sent += [event["event"] for event in events]

    def close(self):
        self.closed += 1


def at_a_rate(rate):
    destination = Recorder()
    destination.max_per_second = rate
    return destination


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


@pytest.fixture
def make_log(path):
    logs = []

    def make(destinations=None, **options):
        options = {"retry_min_s": 0.01, "retry_max_s": 0.02} | options
        logs.append(EventLog(options.pop("path", path), destinations, **options))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


@pytest.fixture
def log(make_log):
    return make_log()


def rows(path, columns="event ->> 'event'"):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT {columns} FROM events ORDER BY id").fetchall()


def names(path):
    return [name for (name,) in rows(path)]


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Stored


def test_an_event_is_a_row_that_people_can_query(log, path, make_event):
    event = make_event("Signup")
    log(event)
    ((*columns, text),) = rows(path, "id, received_at, type, write_key, message_id, visitor, name, event")
    assert columns == [1, event["receivedAt"], "track", "k", event["messageId"], "a", "Signup"]
    assert json.loads(text) == event
    assert log.message_ids() == {event["messageId"]}


def test_who_has_no_anonymous_id_is_known_by_the_user_id_and_a_page_by_its_name(log, path, make_event):
    user = {name: value for name, value in make_event().items() if name != "anonymousId"} | {"userId": "u"}
    log(user)
    log(make_event() | {"type": "page", "name": "Home"})
    assert rows(path, "visitor, name") == [("u", "e"), ("a", "Home")]


def test_the_file_keeps_what_was_committed_through_a_power_cut(log, make_event):
    log(make_event())
    with log._store._writing:
        assert log._store._writer.execute("PRAGMA synchronous").fetchone() == (2,)
        assert log._store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_32_threads_share_commits_and_lose_nothing(log, path, make_event, in_threads):
    assert in_threads(32, lambda number: [log(make_event(f"{number}-{n}")) for n in range(10)]) == []
    assert sorted(names(path)) == sorted(f"{number}-{n}" for number in range(32) for n in range(10))


def test_many_are_stored_by_one_commit_or_none(log, path, make_event):
    log.put_many(make_event(name) for name in "abc")
    with pytest.raises(ValueError, match="JSON"):
        log.put_many([make_event("d"), make_event("e", properties={"x": float("nan")})])
    assert names(path) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"properties": {"x": "\ud800"}},
        {"properties": {"x": float("nan")}},
        {"properties": {"x": object()}},
        {"messageId": 10**30},
        {"userId": 7, "anonymousId": ""},
    ],
    ids=["surrogate", "nan", "object", "30 digits", "number"],
)
def test_one_event_that_cannot_be_stored_fails_alone(log, path, make_event, make_client, in_threads, wrong):
    bad, errors = {**make_event("bad"), **wrong}, []

    def put(number):
        for _ in range(20):
            if number:
                log(make_event("good"))
            else:
                try:
                    log(bad)
                except (TypeError, ValueError) as error:
                    errors.append(error)

    assert in_threads(8, put) == []
    assert (names(path), len(errors)) == (["good"] * 140, 20)


def test_files_are_for_their_owner_alone(make_log, path, make_event):
    mask = os.umask(0)
    try:
        log = make_log({"it": Recorder()})
        log(make_event())
        assert log.flush(PATIENCE_S)
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    finally:
        os.umask(mask)
    assert modes == dict.fromkeys(["events.db", "events.db-wal", "events.db-shm", "events.db-lock"], 0o600)


def test_a_closed_log_is_opened_by_the_next_event(make_log, path, make_event):
    destination = Recorder()
    log = make_log({"it": destination})
    log(make_event("a"))
    log.close()
    assert (destination.sent, destination.closed, [each.name for each in sorted(path.parent.iterdir())]) == (
        destination.sent,
        1,
        ["events.db", "events.db-lock"],
    )
    log(make_event("b"))
    assert log.flush(PATIENCE_S)
    assert destination.sent == ["a", "b"]


# Refused


def fill(log, make_event, stored):
    for number in itertools.count():
        log(make_event(str(number), properties={"text": "x" * 5000}))
        stored.append(str(number))


def test_a_file_without_destinations_is_bounded_and_what_does_not_fit_is_refused(make_log, path, make_event):
    log = make_log(max_bytes=300_000)
    stored = []
    with pytest.raises(StorageError, match=r"events\.db is full: .* bytes are in use, max_bytes is 300,000"):
        fill(log, make_event, stored)
    assert names(path) == stored
    log.close()
    assert path.stat().st_size <= 300_000


def test_what_is_delivered_gives_way_to_what_comes(make_log, path, make_event):
    destination = Recorder()
    log = make_log({"it": destination}, max_bytes=500_000)
    for number in range(500):
        log(make_event(str(number), properties={"text": "x" * 5000}))
        if number % 20 == 0:
            assert log.flush(PATIENCE_S)
    assert log.flush(PATIENCE_S)
    kept = names(path)
    assert (destination.sent, kept == [str(number) for number in range(500)][-len(kept) :]) == (
        [str(number) for number in range(500)],
        True,
    )
    assert 20 < len(kept) < 100


def test_a_backlog_that_fills_the_file_leaves_and_events_are_accepted_again(make_log, make_event):
    down = [True]
    destination = Recorder(lambda: RetryLater() if down else None)
    log = make_log({"it": destination}, max_bytes=500_000)
    stored = []
    with pytest.raises(StorageError, match="nothing may go before it is delivered"):
        fill(log, make_event, stored)
    down.clear()
    assert log.flush(PATIENCE_S)
    log(make_event("again"))
    assert log.flush(PATIENCE_S)
    assert destination.sent == [*stored, "again"]


def test_a_dead_destination_fills_the_file_and_another_has_had_all_before(make_log, make_event):
    dead, alive = Recorder(lambda: RetryLater("down")), Recorder()
    log = make_log({"dead": dead, "alive": alive}, max_bytes=500_000)
    stored = []
    with pytest.raises(StorageError, match="full"):
        fill(log, make_event, stored)
    until(lambda: len(alive.sent) == len(stored))
    log.drop("dead")
    log(make_event("again"))
    until(lambda: alive.sent == [*stored, "again"])
    assert "dead" not in log.stats()["destinations"]


def test_a_destination_that_nobody_has_had_for_7_days_pins_nothing(make_log, path, make_event, caplog):
    old = EventLog(path, {"gone": Recorder(lambda: RetryLater("down"))}, max_bytes=500_000)
    old(make_event())
    old.close()
    destination = Recorder()
    log = make_log({"it": destination}, max_bytes=500_000)
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE destinations SET claimed_at = claimed_at - 8 * 86400 WHERE name = 'gone'")
    for number in range(200):
        log(make_event(str(number), properties={"text": "x" * 5000}))
        if number % 20 == 0:
            until(lambda number=number: len(destination.sent) == number + 1)
    assert "no process has had the destination gone for 7 days" in caplog.text


def test_a_full_disk_is_refused_before_it_is_full_and_loses_nothing(tmpfs, make_log, make_event):
    log = make_log(path=tmpfs / "events.db")
    stored = []
    with pytest.raises(StorageError, match=r"the disk of .* is full: .* bytes are left, and .* are kept for delivery"):
        fill(log, make_event, stored)
    assert [name for (name,) in log.read("SELECT event ->> 'event' FROM events ORDER BY id")] == stored
    log.close()


def test_a_disk_that_others_fill_lets_a_backlog_leave(tmpfs, make_log, make_event):
    down = [True]
    destination = Recorder(lambda: RetryLater() if down else None)
    log = make_log({"it": destination}, path=tmpfs / "events.db")
    stored = []
    with pytest.raises(StorageError):
        fill(log, make_event, stored)
    with (tmpfs / "ballast").open("wb", buffering=0) as ballast:
        with suppress(OSError):  # no space is left
            while True:
                ballast.write(b"x" * 4096)
        down.clear()
        until(lambda: len(destination.sent) == len(stored))
        log.close()
    assert destination.sent == stored


def test_old_events_go(make_log, path, make_event):
    log = make_log(keep_days=30)
    long_ago = {"receivedAt": (datetime.now(UTC) - timedelta(days=31)).strftime("%Y-%m-%dT%H:%M:%S.000Z")}
    log.put_many([make_event("old") | long_ago, make_event("new")])
    log.close()
    make_log(keep_days=30)
    assert names(path) == ["new"]


def test_old_events_that_a_destination_lacks_stay(make_log, path, make_event):
    long_ago = {"receivedAt": "2020-01-01T00:00:00.000Z"}
    down = [True]
    destination = Recorder(lambda: RetryLater() if down else None)
    log = make_log({"it": destination}, keep_days=1)
    log(make_event("old") | long_ago)
    log.close()
    log = make_log({"it": destination}, keep_days=1)
    assert names(path) == ["old"]
    down.clear()
    assert log.flush(PATIENCE_S)
    log.close()
    make_log({"it": destination}, keep_days=1)
    assert names(path) == []


def test_old_events_wait_for_their_destination_though_the_machine_was_off_for_8_days(make_log, path, make_event):
    down = [True]
    destination = Recorder(lambda: RetryLater() if down else None)
    log = make_log({"it": destination}, keep_days=0)
    log(make_event("old") | {"receivedAt": "2020-01-01T00:00:00.000Z"})
    log.close()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE destinations SET claimed_at = claimed_at - 8 * 86400")
    down.clear()
    log = make_log({"it": destination}, keep_days=0)
    assert log.flush(PATIENCE_S)
    assert destination.sent == ["old"]


def test_a_log_that_is_nearly_full_says_so(make_log, make_event, caplog):
    log = make_log({"it": Recorder(lambda: RetryLater("down"))}, max_bytes=500_000)
    with pytest.raises(StorageError):
        fill(log, make_event, [])
    assert any("% full of what is still to be delivered" in each.getMessage() for each in caplog.records)


@pytest.fixture
def short_wait(monkeypatch):
    monkeypatch.setattr(group_commit, "WAIT_S", 0.5)


@pytest.mark.usefixtures("short_wait")
def test_a_locked_database_is_refused_and_the_next_event_is_stored(log, path, make_event, make_client, caplog):
    client = make_client(log)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        client.get("/pixel/v1/page?writeKey=k&anonymousId=a", status=503)
        assert "database is locked" in caplog.text
        other.rollback()
    client.get("/pixel/v1/page?writeKey=k&anonymousId=a", status=200)
    assert len(rows(path)) == 1


@pytest.mark.usefixtures("short_wait")
def test_a_locked_json_lines_file_is_refused_and_the_next_event_is_stored(tmp_path, make_event, in_threads):
    sink = JSONLines(tmp_path / "events.jsonl")
    command = ["flock", str(tmp_path / "events.jsonl"), sys.executable, "-c", "print(1, flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        holder.stdout.readline()
        errors = in_threads(4, lambda number: sink(make_event("refused")))
        assert [str(error).partition(" could not")[2] for error in errors] == [" be had within 0.5 s: it is locked"] * 4
        holder.communicate("\n")
    sink(make_event("a"))
    sink.close()
    assert [json.loads(line)["event"] for line in (tmp_path / "events.jsonl").read_text().splitlines()] == ["a"]


@pytest.mark.parametrize(
    "content", [b"no database at all, but text" * 100, b"SQLite format 3\0" + b"\xff" * 4096], ids=["text", "header"]
)
def test_a_broken_file_is_a_clear_error_at_start(path, content):
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"cannot use .*events\.db"):
        EventLog(path)
    assert os.listdir(path.parent) == ["events.db"]


def test_a_directory_that_does_not_exist_is_a_clear_error_at_start(tmp_path):
    with pytest.raises(StorageError, match="No such file or directory"):
        EventLog(tmp_path / "missing" / "events.db")


def test_a_directory_in_place_of_the_file_is_a_clear_error_at_start(tmp_path):
    with pytest.raises(StorageError, match="unable to open database file"):
        EventLog(tmp_path)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_the_database_of_another_program_is_refused_and_nothing_is_left_beside_it(path, mode):
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA journal_mode = {mode}")
        other.execute("CREATE TABLE events (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(StorageError, match="it is the database of another program"):
        EventLog(path)
    assert (os.listdir(path.parent), path.read_bytes()) == (["events.db"], before)


def test_a_file_of_the_old_layout_is_refused_with_a_sentence(path):
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE events (id INTEGER, received_at, type, write_key, message_id, event)")
    with pytest.raises(StorageError, match="it has the layout of an older pixel-middleware"):
        EventLog(path)


def test_a_file_of_a_newer_version_is_refused(log, path):
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="it is of version 99, by a newer pixel-middleware"):
        EventLog(path)


@pytest.mark.parametrize("version", range(1, schema.VERSION))
def test_an_older_file_is_brought_up_to_date_and_keeps_what_it_has(path, make_event, version):
    with closing(sqlite3.connect(path)) as other, other:
        for statements in schema._STEPS[:version]:
            for statement in statements:
                other.execute(statement)
        other.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        other.execute(f"PRAGMA user_version = {version}")
        values = ("2026-01-01T00:00:00.000Z", "track", "k", "m", "a", "e", '{"event":"old"}')
        other.execute(
            "INSERT INTO events (received_at, type, write_key, message_id, visitor, name, event) VALUES "
            "(?, ?, ?, ?, ?, ?, ?)",
            values,
        )
    with closing(EventLog(path)) as log:
        log(make_event("new"))
        new = path.parent / "new.db"
        EventLog(new).close()
        tables = "SELECT sql FROM sqlite_master ORDER BY sql"
        with closing(sqlite3.connect(new)) as other:
            assert log.read(tables) == other.execute(tables).fetchall()
        assert log.read("PRAGMA user_version") == [(schema.VERSION,)]
    assert names(path) == ["old", "new"]


@pytest.mark.parametrize("queries", range(4))
def test_a_file_that_another_process_makes_meanwhile_is_new_or_a_log(path, queries):
    class Watched(sqlite3.Connection):
        asked = 0

        def execute(self, query):
            if self.asked == queries:
                EventLog(path).close()
            self.asked += 1
            return super().execute(query)

    with closing(sqlite3.connect(path, factory=Watched)) as connection:
        assert schema.version_of(connection) in (0, schema.VERSION)


@pytest.mark.parametrize("meanwhile", ["close", "a fork", "another process", "the end of the log"])
def test_what_is_in_a_file_that_is_moved_stays_in_it_whatever_happens_before_the_next_event(
    make_log, path, tmp_path, make_event, run, in_child, meanwhile
):
    log = make_log()
    for number in range(20):
        log(make_event(str(number)))
    path.rename(tmp_path / "old.db")
    if meanwhile == "close":
        log.close()
    elif meanwhile == "a fork":
        in_child(lambda: None)
    elif meanwhile == "another process":
        run([sys.executable, "-W", "ignore", "-c", f"from pixel_middleware.sinks import *; EventLog({str(path)!r})"])
        with pytest.raises(StorageError, match="was moved or deleted"):
            log(make_event("refused"))
    else:
        log._store.__del__()
    make_log()(make_event("new"))
    assert names(path) == ["new"]
    assert names(tmp_path / "old.db") == [str(number) for number in range(20)]


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_file_that_is_gone_is_refused_once_and_then_made_anew(make_log, path, tmp_path, make_event, how):
    destination = Recorder()
    log = make_log({"it": destination})
    log(make_event("before"))
    assert log.flush(PATIENCE_S)
    match how:
        case "deleted":
            path.unlink()
        case "moved":
            path.rename(tmp_path / "moved.db")
        case "replaced":
            EventLog(tmp_path / "other.db", {"it": Recorder()}).close()
            (tmp_path / "other.db").rename(path)
    with pytest.raises(StorageError, match="was moved or deleted"):
        log(make_event("refused"))
    log(make_event("after"))
    assert log.flush(PATIENCE_S)
    assert (names(path), destination.sent) == (["after"], ["before", "after"])


def test_what_fails_while_the_file_is_gone_is_said_as_it_was_and_the_next_event_makes_a_new_one(
    make_log, path, make_event
):
    log = make_log()
    log(make_event("before"))

    def fail(connection):
        path.unlink()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        log._store.write(fail)
    log(make_event("after"))
    assert names(path) == ["after"]


def test_what_is_to_be_written_waits_for_a_program_that_has_locked_the_file(make_log, path, make_event, monkeypatch):
    log = make_log({"it": Recorder()})
    log.close()
    begin = store._begin
    tries = []

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        def begin_and_let_go(connection):
            tries.append("a try")
            try:
                begin(connection)
            except Busy:
                other.execute("ROLLBACK")
                raise

        monkeypatch.setattr(store, "_begin", begin_and_let_go)
        log.drop("it")
    assert (len(tries) > 1, log.stats()["destinations"]) == (True, {})


def test_a_program_that_changes_its_directory_goes_on_with_its_file(tmp_path, make_event, monkeypatch):
    monkeypatch.chdir(tmp_path)
    destination = Recorder()
    with closing(EventLog("events.db", {"it": destination})) as log:
        log(make_event("before"))
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        log.close()
        log(make_event("after"))
        assert log.flush(PATIENCE_S)
    assert (names(tmp_path / "events.db"), destination.sent) == (["before", "after"], ["before", "after"])


def test_a_file_that_is_gone_when_its_disk_is_looked_at_is_refused_likewise(make_log, path, make_event, monkeypatch):
    monkeypatch.setattr("pixel_middleware.sinks.retention._LOOK_EVERY_S", 0.0)
    log = make_log()
    log(make_event("before"))
    path.unlink()
    with pytest.raises(StorageError, match="was moved or deleted"):
        log(make_event("refused"))
    log(make_event("after"))
    assert names(path) == ["after"]


def test_who_reads_while_a_file_is_replaced_reads_the_new_one_soon(make_log, path, tmp_path, make_event):
    log = make_log()
    log(make_event("before"))
    with closing(EventLog(tmp_path / "other.db")):
        (tmp_path / "other.db").rename(path)  # beside it stands the write-ahead log of the old one
    with closing(Reader(str(path))) as reader:
        with suppress(StorageError):  # or what the two give together
            reader.read("SELECT name FROM events")
        with pytest.raises(StorageError, match="was moved or deleted"):
            log(make_event("refused"))
        log(make_event("after"))
        with suppress(StorageError):  # once
            reader.read("SELECT name FROM events")
        assert reader.read("SELECT name FROM events") == [("after",)]


def test_an_older_copy_in_place_of_the_file_goes_on_from_its_own_position(make_log, path, tmp_path, make_event):
    destination = Recorder()
    log = make_log({"it": destination})
    log(make_event("in the copy"))
    assert log.flush(PATIENCE_S)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        source.backup(copy)
    log.put_many(make_event(str(number)) for number in range(50))
    assert log.flush(PATIENCE_S)
    (tmp_path / "copy.db").rename(path)
    with pytest.raises(StorageError, match="was moved or deleted"):
        log(make_event("refused"))
    log(make_event("after"))
    assert log.flush(PATIENCE_S)
    assert (names(path), destination.sent[-1]) == (["in the copy", "after"], "after")


def test_lock_files_that_a_cleaner_removes_leave_one_carrier(make_log, path, make_event):
    first, second = Recorder(), Recorder()
    one, two = make_log({"it": first}), make_log({"it": second})
    for number in range(200):
        (one if number % 2 else two)(make_event(str(number)))
        if number % 20 == 0:
            (path.parent / "events.db-lock").unlink(missing_ok=True)
    assert one.flush(PATIENCE_S)
    assert sorted(first.sent + second.sent, key=int) == [str(number) for number in range(200)]


def test_what_cannot_be_read_is_a_storage_error(log):
    with pytest.raises(StorageError, match="no such table"):
        log.read("SELECT * FROM missing")
    with pytest.raises(StorageError, match="readonly"):
        log.read("DELETE FROM events")


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ({"destinations": [Recorder()]}, 'destinations must be a mapping of names to destinations, like {"lake"'),
        ({"destinations": {"": Recorder()}}, "a destination's name must be text of 1 to 100 printable characters"),
        ({"destinations": {"a\nb": Recorder()}}, "a destination's name must be text of 1 to 100"),
        ({"destinations": {"it": print}}, "destinations must be of the class Destination, 'it' too"),
        ({"max_bytes": 0}, "max_bytes must be a whole number of at least 65536"),
        ({"max_bytes": True}, "max_bytes must be a whole number"),
        ({"destinations": {"it": at_a_rate(0)}}, "max_per_second must be None or a number of events, above 0"),
        ({"destinations": {"it": at_a_rate("9")}}, "max_per_second must be None or a number of events, above 0"),
        ({"keep_days": -1}, "keep_days must be None or a number of days, 0 or more"),
        ({"keep_days": "30"}, "keep_days must be None or a number of days"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"retry_min_s": 0}, "retry_min_s must be above 0"),
        ({"retry_min_s": 31}, "at most retry_max_s, 30.0"),
        ({"retry_max_s": float("inf")}, "at most retry_max_s, inf"),
    ],
)
def test_a_wrong_option_says_what_is_accepted(path, options, accepted):
    with pytest.raises(ConfigurationError) as caught:
        EventLog(**{"path": path} | options)
    assert (accepted in str(caught.value), path.exists()) == (True, False)


# Sent on


def test_events_are_sent_to_each_destination(make_log, make_event):
    one, two = Recorder(), Recorder()
    log = make_log({"one": one, "two": two})
    for name in "abc":
        log(make_event(name))
    assert log.flush(PATIENCE_S)
    stats = log.stats()
    assert (one.sent, two.sent, stats["events"]) == (["a", "b", "c"], ["a", "b", "c"], 3)
    ages = {name: of_one.pop("last_success_age_s") for name, of_one in stats["destinations"].items()}
    nothing = {
        "lag": 0,
        "oldest_age_s": 0.0,
        "held": 0,
        "dead": 0,
        "given_up": 0,
        "retried": 0,
        "last_error": "",
        "cause": "",
    }
    assert stats["destinations"] == dict.fromkeys(["one", "two"], nothing | {"sent": 3, "carries": True})
    assert all(age >= 0 for age in ages.values())


def test_what_waits_is_counted_with_its_age_and_survives_a_restart(make_log, make_event):
    down = make_log({"it": Recorder(lambda: RetryLater("no route"))})
    down(make_event("a") | {"receivedAt": "2026-01-01T00:00:00.000Z"})
    down(make_event("b"))
    assert not down.flush(0.05)
    stats = down.stats()["destinations"]["it"]
    assert (stats["lag"], stats["oldest_age_s"] > 86400, stats["sent"]) == (2, True, 0)
    until(lambda: "no route" in down.stats()["destinations"]["it"]["last_error"])
    down.close()
    destination = Recorder()
    up = make_log({"it": destination})
    assert up.flush(PATIENCE_S)
    assert destination.sent == ["a", "b"]


def test_a_destination_seen_for_the_first_time_starts_at_the_end_and_rewind_sends_it_history(make_log, make_event):
    old = make_log()
    old(make_event("old") | {"receivedAt": "2026-01-01T00:00:00.000Z"})
    old(make_event("older") | {"receivedAt": "2026-01-02T00:00:00.000Z"})
    destination = Recorder()
    log = make_log({"it": destination})
    log(make_event("new"))
    assert log.flush(PATIENCE_S)
    assert destination.sent == ["new"]
    assert log.rewind("it", datetime(2026, 1, 2, tzinfo=UTC)) == 2
    assert log.flush(PATIENCE_S)
    assert destination.sent == ["new", "older", "new"]
    assert log.rewind("it") == 3
    assert log.flush(PATIENCE_S)
    assert destination.sent == ["new", "older", "new", "old", "older", "new"]
    assert log.rewind("it", "2100-01-01") == 0


def test_adding_a_destination_deletes_nothing(make_log, path, make_event):
    archive = make_log()
    archive.put_many([make_event(str(number)) for number in range(50)])
    archive.close()
    log = make_log({"it": Recorder()})
    log(make_event("new"))
    assert log.flush(PATIENCE_S)
    assert len(names(path)) == 51


@pytest.mark.parametrize("ask", [EventLog.rewind, EventLog.drop])
def test_a_destination_that_the_file_does_not_know_is_named_with_those_that_it_knows(make_log, ask):
    with pytest.raises(StorageError, match="has no destination 'nobody'; it has it"):
        ask(make_log({"it": Recorder()}), "nobody")


def test_a_moment_without_a_time_zone_is_refused(make_log):
    with pytest.raises(ConfigurationError, match="since must have a time zone"):
        make_log({"it": Recorder()}).rewind("it", datetime(2026, 1, 1))


def test_a_destination_that_comes_back_gets_everything_in_order(make_log, make_event):
    failures = iter([RetryLater(), OSError("reset"), RetryLater(after=0.01)])
    destination = Recorder(lambda: next(failures, None))
    log = make_log({"it": destination})
    for number in range(20):
        log(make_event(str(number)))
    assert log.flush(PATIENCE_S)
    assert sorted(destination.sent, key=int) == [str(number) for number in range(20)]


def test_only_one_of_two_logs_on_one_file_carries_and_the_other_takes_over(make_log, make_event):
    first, second = Recorder(), Recorder()
    one, two = make_log({"it": first}), make_log({"it": second})
    one(make_event("a"))
    assert one.flush(PATIENCE_S)
    for number in range(10):
        two(make_event(str(number)))
    assert two.flush(PATIENCE_S)
    assert (len(first.sent), second.sent) == (11, [])
    assert [log.stats()["destinations"]["it"]["carries"] for log in (one, two)] == [True, False]
    one.close()
    two(make_event("b"))
    assert two.flush(PATIENCE_S)
    assert second.sent == ["b"]


def test_many_threads_start_one_courier(make_log, make_event, in_threads):
    destination = Recorder()
    log = make_log({"of many threads": destination})
    assert in_threads(16, lambda number: log(make_event(str(number)))) == []
    assert log.flush(PATIENCE_S)
    assert sorted(destination.sent, key=int) == [str(number) for number in range(16)]
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("pixel-courier-of many threads") == 1


@pytest.mark.parametrize("error", [SystemExit(), KeyboardInterrupt(), MemoryError(), RetryLater(after=9999999999999)])
def test_nothing_that_a_destination_raises_ends_its_courier(make_log, make_event, error):
    failures = iter([error])
    destination = Recorder(lambda: next(failures, None))
    log = make_log({"it": destination})
    log(make_event("a"))
    if isinstance(error, RetryLater):
        until(lambda: log.stats()["destinations"]["it"]["retried"] == 1)
        assert log._carriers["it"]._courier._not_before - time.monotonic() <= 3600
        return
    assert log.flush(PATIENCE_S)
    assert destination.sent == ["a"]


def test_no_thread_to_be_had_stores_the_event_all_the_same(make_log, path, make_event, monkeypatch):
    destination = Recorder()
    log = make_log({"it": destination})

    def none_left(*args, **options):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        log(make_event("a"))
    assert (names(path), destination.sent) == (["a"], [])
    log(make_event("b"))
    assert log.flush(PATIENCE_S)
    assert destination.sent == ["a", "b"]


def test_a_close_at_the_moment_of_the_first_event_leaves_a_courier_that_works(make_log, make_event, in_threads):
    destination = Recorder()
    log = make_log({"it": destination})
    for round_ in range(20):
        assert in_threads(2, lambda n, round_=round_: log.close() if n else log(make_event(f"{round_}"))) == []
    assert log.flush(PATIENCE_S)
    assert sorted(destination.sent, key=int) == [str(number) for number in range(20)]


def test_a_carrier_that_hangs_is_told_by_the_stats(make_log, path, make_event):
    go_on = threading.Event()
    log = make_log({"it": Recorder(lambda: go_on.wait(PATIENCE_S) and None)})
    log(make_event())
    until(lambda: log.stats()["destinations"]["it"]["carries"])
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE destinations SET beat_at = beat_at - 100, carrier = 4711")
    assert "process 4711 carries, and has said nothing for 1" in log.stats()["destinations"]["it"]["last_error"]
    go_on.set()


def test_the_middleware_has_what_waits_sent_without_an_event(make_log, make_event):
    down = make_log({"it": Recorder(lambda: RetryLater())})
    down(make_event("a"))
    down.close()
    destination = Recorder()
    PixelMiddleware(lambda environ, start_response: [], make_log({"it": destination}))
    until(lambda: destination.sent == ["a"])


RELOADERS = {
    "Werkzeug": ("import werkzeug._reloader", {}, {"WERKZEUG_RUN_MAIN": "true"}),
    "flask run --debug": ("", {"FLASK_RUN_FROM_CLI": "true", "FLASK_DEBUG": "1"}, {"WERKZEUG_RUN_MAIN": "true"}),
    "runserver": ("import django; sys.argv = ['manage.py', 'runserver']", {}, {"RUN_MAIN": "true"}),
}


@pytest.mark.parametrize("name", RELOADERS)
def test_the_parent_of_a_reloader_leaves_carrying_to_the_child(name):
    code, of_both, of_child = RELOADERS[name]
    asks = f"import sys; {code}\nfrom pixel_middleware.runtime import reloaders; print(reloaders.is_parent())"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WERKZEUG", "FLASK"))}
    said = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", asks],
            env=environment | of_both | more,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for more in ({}, of_child)
    ]
    assert said == ["True\n", "False\n"]


def test_the_parent_of_a_reloader_does_not_carry(make_log, make_event, monkeypatch):
    monkeypatch.setattr("pixel_middleware.runtime.reloaders.is_parent", lambda: True)
    destination = Recorder()
    log = make_log({"it": destination})
    log(make_event("a"))
    assert not log.flush(0.3)
    monkeypatch.undo()
    assert log.flush(PATIENCE_S)
    assert destination.sent == ["a"]


# Forks and interruptions


def test_a_fork_after_use_loses_nothing(log, path, make_event, in_threads, in_child):
    """The trap that was measured: an inherited connection silently loses hundreds of acknowledged events."""
    log(make_event("before"))
    stop = threading.Event()
    stored = []

    def busy():
        while not stop.is_set():
            log(make_event("busy"))
            stored.append("busy")

    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        in_child(lambda: in_threads(4, lambda number: [log(make_event("child")) for _ in range(10)]))
    stop.set()
    for thread in threads:
        thread.join()
    assert sorted(names(path)) == sorted(["before", *stored, *["child"] * 200])


def test_threads_that_fork_at_once_do_not_wait_for_each_other(tmp_path, make_event, in_threads, in_child):
    logs = [EventLog(tmp_path / f"{number}.db") for number in range(8)]

    def work(number):
        for _ in range(20):
            if number % 2:
                in_child(lambda: logs[0](make_event()))
            else:
                for log in logs:
                    log(make_event())

    assert in_threads(8, work) == []


def test_a_forked_child_stores_and_carries_with_threads_of_its_own(make_log, make_event, in_child):
    destination = Recorder()
    log = make_log({"it": destination})
    log(make_event("parent"))
    assert log.flush(PATIENCE_S)
    in_child(lambda: log(make_event("child")))
    assert log.flush(PATIENCE_S)
    assert destination.sent == ["parent", "child"]
    log.close()

    def deliver():
        log(make_event("alone"))
        assert log.flush(PATIENCE_S)
        assert destination.sent == ["parent", "child", "alone"]

    in_child(deliver)


def test_a_process_that_forks_leaves_the_carrying_to_its_child(make_log, path, make_event):
    log = make_log({"it": Recorder()})
    log(make_event("a"))
    assert log.flush(PATIENCE_S)
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            log.start()
            until(lambda: log.stats()["destinations"]["it"]["carries"])
            os.write(writing, b"1")
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as carried:
        assert carried.read() == b"1"
    assert os.waitpid(pid, 0)[1] == 0


def test_a_forked_child_carries_without_an_event_of_its_own(make_log, in_child):
    log = make_log({"it": Recorder()})
    log.start()
    in_child(lambda: until(lambda: log.stats()["destinations"]["it"]["carries"]))


def test_a_fork_waits_for_no_destination(make_log, make_event, in_child):
    asked, go_on = threading.Event(), threading.Event()
    log = make_log({"it": Recorder(lambda: asked.set() or (go_on.wait(PATIENCE_S) and None))})
    log(make_event())
    assert asked.wait(PATIENCE_S)
    in_child(lambda: log(make_event()))
    assert not go_on.is_set()
    go_on.set()


FORKS_IN_C = """
import ctypes, os, sys, threading
from pixel_middleware.destinations import Destination
from pixel_middleware.events import Visit, make_event
from pixel_middleware.sinks import EventLog, JSONLines

def event(name):
    return make_event("track", {"writeKey": "k", "anonymousId": "a", "event": name}, Visit())

class Nowhere(Destination):
    def send(self, events):
        pass

sink = JSONLines(sys.argv[1]) if sys.argv[1].endswith("l") else EventLog(sys.argv[1], {"it": Nowhere()})
stop = threading.Event()
put = threading.Barrier(4)
def use_and_rest():
    sink(event("parent"))
    put.wait()
    stop.wait()  # a thread that ran while C forks would be missed by the interpreter in the child
if sys.argv[2] != "nothing":
    sink(event("before"))
threads = [threading.Thread(target=use_and_rest) for _ in range(3 if sys.argv[2] == "threads" else 0)]
for thread in threads:
    thread.start()
if threads:
    put.wait()
libc = ctypes.PyDLL(None)  # keeps the interpreter over the fork, as a server in C does
for number in range(10):
    pid = libc.fork()
    if not pid:
        for _ in range(5):
            sink(event("child"))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
sink.close()
"""


@pytest.mark.parametrize("used_before", ["nothing", "an event", "threads"])
@pytest.mark.parametrize("name", ["events.db", "events.jsonl"])
def test_a_fork_that_python_does_not_see_hangs_nobody_and_loses_nothing(tmp_path, name, used_before):
    command = [sys.executable, "-c", FORKS_IN_C, str(tmp_path / name), used_before]
    # Coverage does not survive such a fork itself.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    subprocess.run(command, timeout=PATIENCE_S, check=True, env=environment)
    if name.endswith("db"):
        stored = names(tmp_path / name)
    else:
        stored = [json.loads(line)["event"] for line in (tmp_path / name).read_text().splitlines()]
    assert (stored.count("child"), stored.count("before")) == (50, int(used_before != "nothing"))


class Interrupted(Exception):
    """What a signal handler raises."""


@pytest.mark.parametrize("name", ["events.db", "events.jsonl"])
def test_an_interrupted_waiter_owes_nothing_to_the_others(tmp_path, make_event, in_threads, name):
    path = tmp_path / name
    sink = EventLog(path) if name.endswith("db") else JSONLines(path)
    sink(make_event("before"))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        holder.stdout.readline()

        def interrupt(signum, frame):
            raise Interrupted

        previous = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(Interrupted):
                sink(make_event("interrupted"))
        finally:
            signal.signal(signal.SIGALRM, previous)
        holder.communicate("\n")
    assert in_threads(4, lambda number: sink(make_event("after"))) == []
    sink.close()


def test_a_signal_handler_that_raises_when_a_transaction_has_begun_leaves_none_open(log, path, make_event):
    log(make_event("before"))

    def interrupt(frame, event, arg):  # where Python runs signal handlers too: behind a call of C
        if event == "c_return" and frame.f_code.co_name == "_begin":
            raise Interrupted

    sys.setprofile(interrupt)
    try:
        with pytest.raises((Interrupted, StorageError)):
            log(make_event("interrupted"))
    finally:
        sys.setprofile(None)
    log(make_event("after"))
    assert names(path) == ["before", "after"]


HOLDS = """
import fcntl, sqlite3, sys
if sys.argv[1].endswith("db"):
    connection = sqlite3.connect(sys.argv[1])
    connection.execute("BEGIN IMMEDIATE")
else:
    file = open(sys.argv[1])
    fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
input()
"""


ENDS_AT_ONCE = """
import sys, time
from pixel_middleware.destinations import Destination
from pixel_middleware.events import Visit, make_event
from pixel_middleware.sinks import EventLog

class Slow(Destination):
    def send(self, events):
        started.append(1)
        time.sleep(0.3)
        print("delivered", len(events))

started = []
log = EventLog(sys.argv[1], {"slow": Slow()})
log(make_event("track", {"writeKey": "k", "anonymousId": "a", "event": "e"}, Visit()))
while not started:
    pass
"""


def test_an_exit_waits_for_the_batch_under_way(tmp_path):
    command = [sys.executable, "-c", ENDS_AT_ONCE, str(tmp_path / "events.db")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "delivered 1\n"


# File systems


@pytest.fixture
def remount(tmpfs):
    """Makes the small file system read-only, or writable again."""
    yield lambda mode: subprocess.run(["mount", "-o", f"remount,{mode}", str(tmpfs)], check=True)
    subprocess.run(["mount", "-o", "remount,rw", str(tmpfs)], check=True)


@pytest.mark.parametrize(("kind", "name"), [(EventLog, "events.db"), (JSONLines, "events.jsonl")])
def test_a_read_only_file_system_is_an_error_and_passes(kind, name, tmpfs, remount, make_event):
    sink = kind(tmpfs / name)
    sink(make_event("before"))
    sink.close()
    remount("ro")
    with pytest.raises(StorageError):
        sink(make_event("refused"))
    with pytest.raises(StorageError):
        sink.put_many([make_event("refused")])
    with pytest.raises(StorageError, match=r"other.*(read-only|Read-only|unable to open)"):
        kind(tmpfs / f"other.{name}")
    sink.close()
    remount("rw")
    sink(make_event("after"))
    sink.close()
    assert len(sink.message_ids()) == 2


# tee


def test_tee_hands_each_event_to_every_sink(make_event):
    one, two = [], []
    event = make_event()
    tee(one.append, two.append)(event)
    assert (one, two) == ([event], [event])


def test_any_failure_of_a_tee_is_a_failure(make_client):
    def full(event):
        raise StorageError("full")

    taken = []
    make_client(tee(taken.append, full)).get("/pixel/v1/page?writeKey=k&anonymousId=a", status=503)
    assert len(taken) == 1


NO_DESCRIPTORS = """
import os, resource, sys, time
from pixel_middleware import StorageError
from pixel_middleware.destinations import Destination
from pixel_middleware.events import Visit, make_event
from pixel_middleware.sinks import EventLog

sent = []
class Recorder(Destination):
    def send(self, events):
        sent.extend(event["event"] for event in events)

def event(name):
    return make_event("track", {"writeKey": "k", "anonymousId": "a", "event": name}, Visit())

log = EventLog(sys.argv[1], {"it": Recorder()})
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
log.start()
try:
    log(event("refused"))
except StorageError as error:
    print("refused:", error)
time.sleep(1)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
log(event("a"))
print(log.flush(60), sent)
"""


def test_no_descriptors_for_a_second_is_survived(run, path):
    done = run([sys.executable, "-c", NO_DESCRIPTORS, path])
    refused, flushed = done.stdout.splitlines()
    assert ("refused:" in refused, flushed) == (True, "True ['a']"), done.stderr


# Corners


@pytest.mark.usefixtures("short_wait")
def test_a_file_that_is_locked_when_it_is_opened_is_refused_for_a_while(make_log, path, make_event):
    log = make_log()
    log.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match="database is locked"):
            log(make_event("refused"))
        other.rollback()
    log(make_event("a"))
    assert names(path) == ["a"]


def test_a_file_that_another_program_puts_in_our_place_is_refused(make_log, path, make_event):
    log = make_log()
    log.close()
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (id INTEGER)")
    with pytest.raises(StorageError, match="it is the database of another program"):
        log(make_event("refused"))


def test_a_claim_on_a_file_that_nobody_has_used_is_nobodys(make_log, path):
    log = make_log()
    log.close()
    (path.parent / "events.db-lock").unlink()
    assert not log._store.is_claimed("it")


def test_ten_thousand_old_events_go_at_a_time(make_log, path, make_event):
    log = make_log()
    log.put_many([make_event("old") | {"receivedAt": "2020-01-01T00:00:00.000Z"}] * 10_001)
    log.close()
    make_log(keep_days=1).close()
    assert names(path) == ["old"]
    make_log(keep_days=1)
    assert names(path) == []


def test_old_events_behind_ten_thousand_dead_letters_go_too(make_log, path, make_event):
    log = make_log({"it": Recorder()})
    log.put_many([make_event("old") | {"receivedAt": "2020-01-01T00:00:00.000Z"}] * 10_001)
    assert log.flush(PATIENCE_S)
    log.close()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute(
            "INSERT INTO setbacks (destination, id, lane, state, reason, attempts, retry_at, bytes)"
            " SELECT 'it', id, '', 'dead', '', 0, 0, 1 FROM events ORDER BY id LIMIT 10000"
        )
    log = make_log({"it": Recorder()}, keep_days=1)

    def has_gone():
        log(make_event("new"))
        return names(path).count("old") == 10_000

    until(has_gone)


def test_a_destination_is_claimed_again_when_its_process_starts(make_log, path):
    make_log({"it": Recorder()}).close()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE destinations SET claimed_at = claimed_at - 86400")
    make_log({"it": Recorder()}).close()
    with closing(sqlite3.connect(path)) as other:
        assert time.time() - other.execute("SELECT claimed_at FROM destinations").fetchone()[0] < 3600


def test_a_moment_that_is_none_has_no_age(make_log, make_event):
    log = make_log({"it": Recorder(lambda: RetryLater("down"))})
    log(make_event() | {"receivedAt": "some day"})
    assert log.stats()["destinations"]["it"]["oldest_age_s"] == 0.0


def test_a_fork_between_the_turn_and_the_commit_of_json_lines_is_noticed(tmp_path, make_event, in_child):
    sink = JSONLines(tmp_path / "events.jsonl")
    assert sink._file.take_turn(wait=True)
    in_child(lambda: None)  # the fork has closed the file, and with it goes the lock
    with pytest.raises(group_commit.Busy):
        sink._file.commit(list)
    sink._file.end_turn()
    sink(make_event("a"))
    sink.close()


def test_a_fork_while_json_lines_wait_for_their_file_begins_the_wait_anew(tmp_path, make_event, in_child):
    path = tmp_path / "events.jsonl"
    sink = JSONLines(path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        holder.stdout.readline()
        thread = threading.Thread(target=sink, args=(make_event("a"),), daemon=True)
        thread.start()
        until(lambda: sink._lines._waiting)
        in_child(lambda: None)
        holder.communicate("\n")
        thread.join()
    sink.close()
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["a"]


def test_a_child_of_a_log_that_never_started_starts_nothing(make_log, in_child):
    make_log({"it": Recorder()})

    def only_idle_threads():
        assert [thread.name for thread in threading.enumerate() if thread.name == "pixel-courier-it"] == []

    in_child(only_idle_threads)


def test_a_destination_must_say_how_it_sends():
    with pytest.raises(NotImplementedError):
        Destination().send([])


def test_a_thread_that_has_the_turn_is_told_so(make_log, make_event):
    log = make_log({"it": Recorder()})
    log(make_event("a"))
    assert log.flush(PATIENCE_S)
    log._store.take_turn(wait=True)
    try:
        with pytest.raises(StorageError, match="this thread is using it"):
            log._store.write(lambda connection: None)
    finally:
        log._store.end_turn()


def test_who_notices_late_that_a_file_is_gone_leaves_the_new_one_alone(make_log, path, make_event):
    one, two = make_log(), make_log()
    one(make_event("before"))
    two(make_event("before"))
    path.unlink()
    with pytest.raises(StorageError, match="was moved or deleted"):
        one(make_event("refused"))
    one(make_event("after"))
    with pytest.raises(StorageError, match="was moved or deleted"):
        two(make_event("refused"))
    two(make_event("after that"))
    one.close()
    two.close()
    assert names(path) == ["after", "after that"]


def test_a_fork_of_a_log_that_never_started_starts_no_thread(make_log):
    log = make_log({"never started": Recorder()})
    log._carriers["never started"].after_fork_in_child()  # as in a child, of which nobody here sees the threads
    assert "pixel-courier-never started" not in [thread.name for thread in threading.enumerate()]


def test_a_destination_has_one_lane_unless_it_says_otherwise(make_event):
    assert Destination().lane(make_event()) == ""
