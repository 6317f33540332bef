"""What a log forgets: old events, and a person, of whom no byte is left."""

import json
import logging
import os
import sqlite3
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from processes import until
from webob import Request

from pixel_middleware import ConfigurationError, RetryLater, StorageError
from pixel_middleware.destinations import Destination
from pixel_middleware.events import Refusal, timestamp
from pixel_middleware.processors import suppress
from pixel_middleware.sinks import EventLog, JSONLines, erasure
from pixel_middleware.sinks.store import Store

PERSON = 'ann-8c1d/é"7'


class Taking(Destination):
    def send(self, events):
        pass


class Refusing(Destination):
    def send(self, events):
        raise RetryLater(f"no, {PERSON}")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


def put(path, *events):
    with closing((JSONLines if path.suffix == ".jsonl" else EventLog)(path)) as sink:
        sink.put_many(events)


def names(path):
    with closing(sqlite3.connect(path)) as log:
        return [name for (name,) in log.execute("SELECT name FROM events ORDER BY id")]


def files_with(path, *texts):
    """The files of a log, also hidden ones beside it, that contain one of the texts in any byte."""
    files = [file for file in path.parent.iterdir() if path.stem in file.name or file.name.startswith(".")]
    return [file.name for file in files if any(text.encode() in file.read_bytes() for text in texts)]


TRACES = PERSON, json.dumps(PERSON, ensure_ascii=False)[1:-1]


@pytest.mark.parametrize(("option", "field"), [("--anonymous-id", "anonymousId"), ("--user-id", "userId")])
def test_no_byte_of_a_person_is_left(path, pixel, make_event, option, field):
    other = [make_event(f"other {number}", filler="x" * (number % 3000)) for number in range(2000)]
    log = EventLog(path, {"lake": Taking(), "down": Refusing()}, retry_min_s=0.01)
    with closing(log):
        for number in range(0, 2000, 100):
            log.put_many([*other[number : number + 100], make_event("theirs", **{field: PERSON})])
        log.refused(Refusal(1.0, "rejected", "missing_event", query="anonymousId=ann-8c1d%2F%C3%A9%227"))
        log.refused(Refusal(1.0, "rejected", "missing_event", query="anonymousId=bob"))
        until(lambda: log.stats()["destinations"]["lake"]["lag"] == 0, "delivery")
        until(lambda: log.stats()["destinations"]["down"]["last_error"], "a failure")
        until(lambda: len(log.read("SELECT 1 FROM refusals")) == 2, "refusals")
    assert "events.db" in files_with(path, *TRACES)
    assert json.loads(pixel("forget", path, option, PERSON, "--json", "--dry-run"))["events"] == 20
    assert names(path).count("theirs") == 20
    assert pixel("forget", path, option, PERSON) == (
        "20 events, 0 setbacks and 1 refusals deleted\nlake has had up to 20 of them: have them deleted there too\n"
    )
    assert names(path) == [event["event"] for event in other]
    assert files_with(path, *TRACES) == []
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT query FROM refusals").fetchall() == [("anonymousId=bob",)]
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_what_waits_for_delivery_is_forgotten_too(path, pixel, make_event):
    put(path, make_event("theirs", anonymousId=PERSON), make_event("other"))
    with closing(sqlite3.connect(path)) as database, database:
        destination = "INSERT INTO destinations (name, position, epoch, claimed_at) VALUES ('lake', 2, 1, ?)"
        database.execute(destination, (time.time(),))
        for id_ in (1, 2):
            setback = "INSERT INTO setbacks VALUES ('lake', ?, 'k', 'dead', ?, 1, 0, 100)"
            database.execute(setback, (id_, f"no to {PERSON}"))
        database.execute("INSERT INTO lanes VALUES ('lake', ?, 1, 0, 0, '')", (PERSON,))
    erased = {"events": 1, "setbacks": 1, "refusals": 0, "sent": {"lake": 0}, "mentions": 0, "came_since": 0}
    assert json.loads(pixel("forget", path, "--anonymous-id", PERSON, "--json")) == erased
    assert files_with(path, *TRACES) == []
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT id FROM setbacks").fetchall() == [(2,)]


def test_a_person_is_forgotten_while_a_collector_runs(path, pixel, make_event, start):
    """Nothing that is put meanwhile is lost or refused."""
    put(path, *(make_event(str(number), anonymousId=PERSON if number % 2 else "a") for number in range(6000)))
    code = (
        "import json, sys; from pixel_middleware.sinks import EventLog; log = EventLog(sys.argv[1]);"
        "event = json.loads(sys.argv[2])\n"
        "for number in range(400): log(event | {'messageId': str(number)})"
    )
    collector = start("-c", code, path, json.dumps(make_event("meanwhile")))
    until(lambda: "meanwhile" in names(path), "an event of the collector")
    assert json.loads(pixel("forget", path, "--anonymous-id", PERSON, "--json"))["events"] == 3000
    assert collector.wait() == 0
    assert files_with(path, *TRACES) == []
    assert len(names(path)) == 3000 + 400


def test_bytes_that_sqlite_left_behind_are_rewritten(path, pixel, make_event):
    put(path, make_event("theirs", anonymousId=PERSON), make_event("other"))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA secure_delete = OFF")
        database.execute("DELETE FROM events WHERE id = 1")
    assert files_with(path, *TRACES) == ["events.db"]
    assert pixel("forget", path, "--anonymous-id", PERSON).startswith("0 events")
    assert files_with(path, *TRACES) == []
    assert names(path) == ["other"]


def test_an_id_in_a_table_of_another_program_is_an_error(path, pixel, make_event):
    put(path, make_event("theirs", anonymousId=PERSON))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE mine AS SELECT ? AS id", (PERSON,))
    said = pixel("forget", path, "--anonymous-id", PERSON, fails=True)
    assert said == f"Error: {path} still contains the id, in a place that is not ours, like a table of your own\n"


def test_a_file_that_is_locked_is_not_rewritten(path, make_event):
    put(path, make_event())
    with closing(Store(path, lambda connection: None)) as store, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match=r"cannot use .*: database is locked"):
            erasure.empty_wal(store, rebuild=True)
        other.rollback()


def test_mentions_by_others_stay_and_are_counted(path, pixel, make_event):
    put(path, make_event("theirs", anonymousId="7"), make_event("other", properties={"total": "7"}))
    assert pixel("forget", path, "--anonymous-id", "7") == (
        "1 event, 0 setbacks and 0 refusals deleted\nThe text of the id also stands in 1 event of others, which stay\n"
    )
    assert names(path) == ["other"]
    assert files_with(path, '"anonymousId":"7"') == []


def test_a_reader_of_old_pages_is_waited_for_and_named(path, make_event, monkeypatch):
    put(path, make_event())
    with closing(Store(path, lambda connection: None)) as store, closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM events").fetchall()
        store.write(lambda connection: connection.execute("DELETE FROM events"))
        monkeypatch.setattr(erasure, "READERS_S", 0.4)
        with pytest.raises(StorageError, match=r"still stands in .*-wal, since a program has been reading"):
            erasure.empty_wal(store)
        reader.rollback()
        erasure.empty_wal(store)
        assert os.stat(f"{path}-wal").st_size == 0


def test_events_that_came_meanwhile_are_named(path, pixel, make_event, monkeypatch):
    put(path, make_event("theirs", anonymousId=PERSON))
    count = erasure._count

    def count_and_put(connection, ids, erased):
        count(connection, ids, erased)
        columns = "received_at, type, write_key, message_id, visitor, name, event"
        values = ("", "track", "k", "m", PERSON, "new", json.dumps({"anonymousId": PERSON}, ensure_ascii=False))
        connection.execute(f"INSERT INTO events ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    monkeypatch.setattr(erasure, "_count", count_and_put)
    said = pixel("forget", path, "--anonymous-id", PERSON).splitlines()
    assert said[1:] == ["1 event of this person came meanwhile: use the processor `suppress` first"]


def test_lines_of_a_person_are_taken_out(tmp_path, pixel, make_event):
    path = tmp_path / "events.jsonl"
    put(path, make_event("theirs", anonymousId=PERSON), make_event("other"), make_event("by", properties={"x": PERSON}))
    with path.open("ab") as lines:
        lines.write(f'{{"anonymousId":{json.dumps(PERSON, ensure_ascii=False)},"ev'.encode())
    path.chmod(0o640)
    command = ["forget", path, "--anonymous-id", PERSON, "--json"]
    assert json.loads(pixel(*command, "--dry-run"))["events"] == 2
    assert len(path.read_bytes().splitlines()) == 4
    assert json.loads(pixel(*command))["events"] == 2
    assert [json.loads(line)["event"] for line in path.read_text("utf-8").splitlines()] == ["other", "by"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in tmp_path.iterdir()] == ["events.jsonl"]


def test_lines_that_are_written_meanwhile_are_kept(tmp_path, make_event):
    path = tmp_path / "events.jsonl"
    put(path, *(make_event(str(number), anonymousId=PERSON if number % 2 else "a") for number in range(2000)))
    with closing(JSONLines(path)) as sink:
        stop = threading.Event()
        written = []

        def write():
            while not stop.is_set():
                sink(make_event("meanwhile"))
                written.append(1)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            until(lambda: written, "a line")
            assert erasure.forget_lines(str(path), "anonymousId", PERSON) == 1000
        finally:
            stop.set()
            writer.join()
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [line["event"] for line in lines] == [*map(str, range(0, 2000, 2)), *["meanwhile"] * len(written)]


def test_half_a_line_of_somebody_who_writes_is_left_to_the_end(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"a":1}\nhalf')

    def rotates(line):
        os.replace(path, tmp_path / "old")
        path.write_text("")
        return False

    with closing(JSONLines(path)) as sink:
        assert sink.take_out(lambda line: False) == 0
        assert path.read_text() == '{"a":1}\nhalf'
        with pytest.raises(OSError, match="rotated meanwhile"):
            sink.take_out(rotates)
    assert (tmp_path / "old").read_text() == '{"a":1}\nhalf'
    assert sorted(file.name for file in tmp_path.iterdir()) == ["events.jsonl", "old"]


def test_forget_says_how_to_ask_right(tmp_path, path, pixel, make_event):
    put(path, make_event())
    assert "give --anonymous-id or --user-id" in pixel("forget", path, fails=True)
    assert "give --anonymous-id or --user-id" in pixel("forget", path, "--user-id", "", fails=True)
    nowhere = tmp_path / "nowhere.jsonl"
    expected = f"Error: cannot change {nowhere}: No such file or directory\n"
    assert pixel("forget", nowhere, "--user-id", "7", "--dry-run", fails=True) == expected


def ago(days):
    return {"receivedAt": timestamp(datetime.now(UTC) - timedelta(days=days))}


@pytest.fixture
def aged(path, make_event):
    """A log with events of 100, 50 and 0 days; a destination has not had the second and has a setback of the first."""
    put(path, *(make_event(f"{days} days") | ago(days) for days in (100, 101, 50, 0)))
    with closing(sqlite3.connect(path)) as database, database:
        destination = "INSERT INTO destinations (name, position, epoch, claimed_at) VALUES ('lake', 2, 1, 0)"
        database.execute(destination)
        database.execute("INSERT INTO setbacks VALUES ('lake', 1, 'k', 'dead', 'no', 1, 0, 100)")
        for at in (time.time() - 100 * 86400, time.time()):
            values = (at, "rejected", "r", "", "", "", "", "", "")
            columns = "at, kind, reason, message, path, query, user_agent, network, cause"
            database.execute(f"INSERT INTO refusals ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    return path


def test_prune_leaves_what_a_destination_has_not_had(aged, pixel):
    first, second = pixel("prune", aged, "--older-than", "7w").splitlines()
    assert first.startswith("1 event received before 20")
    assert second == "2 events left: a destination has not had them (--undelivered deletes them too)"
    assert names(aged) == ["100 days", "50 days", "0 days"]
    with closing(sqlite3.connect(aged)) as database:
        assert database.execute("SELECT count(*) FROM refusals").fetchone() == (1,)


def test_prune_undelivered_takes_all_that_is_old(aged, pixel):
    first, second = pixel("prune", aged, "--older-than", "60d", "--undelivered").splitlines()
    assert first.startswith("2 events received before 20")
    assert second == "1 of them had not been delivered to every destination"
    assert names(aged) == ["50 days", "0 days"]
    assert pixel("prune", aged, "--older-than", "1000h", "--undelivered").startswith("1 event received")
    assert pixel("prune", aged, "--older-than", "1000h").startswith("0 events received")
    with closing(sqlite3.connect(aged)) as database:
        assert database.execute("SELECT count(*) FROM setbacks").fetchone() == (0,)


@pytest.mark.parametrize("age", ["90", "-1d", "soon", "99999999d"])
def test_prune_says_what_an_age_is(aged, pixel, age):
    assert "is no age like 12h, 90d or 6w" in pixel("prune", aged, f"--older-than={age}", fails=True)
    assert "is longer ago than there are dates" in pixel("prune", aged, "--older-than", "999999d", fails=True)


REQUEST = Request.blank("/pixel/v1/track")


def test_suppress_drops_those_who_asked(tmp_path, make_event):
    path = tmp_path / "suppressed.txt"
    path.write_text(f"{PERSON}\n\n 7 \n", "utf-8")
    drop = suppress(path)
    assert drop(make_event(anonymousId=PERSON), REQUEST) is None
    assert drop(make_event(userId="7"), REQUEST) is None
    event = make_event()
    assert drop(event, REQUEST) is event


def test_suppress_reads_a_file_again_that_changed(tmp_path, make_event, caplog):
    path = tmp_path / "suppressed.txt"
    path.write_text("a\n")
    drop = suppress(path)
    event = make_event()
    assert drop(event, REQUEST) is None
    path.write_text("other\n")
    assert drop(event, REQUEST) is event
    path.write_text("now a\na\n")
    assert drop(event, REQUEST) is None
    path.unlink()
    with caplog.at_level(logging.WARNING):
        assert [drop(event, REQUEST) for _ in range(3)] == [None] * 3
    assert [record.message for record in caplog.records] == [
        f"suppress cannot read {path} any more: [Errno 2] No such file or directory: '{path}'; what it said last holds"
    ]
    path.write_text("other\n")
    assert drop(event, REQUEST) is event


def test_suppress_needs_its_file_at_first(tmp_path):
    with pytest.raises(ConfigurationError, match=r"suppress cannot read .*nowhere"):
        suppress(tmp_path / "nowhere")
