"""Refused requests are kept in the log's file: the newest, off the request's path."""

import sqlite3
import time
from contextlib import closing

from processes import until

from pixel_middleware.events import Refusal
from pixel_middleware.sinks import EventLog, refusals


def kept(log, columns="reason"):
    return log.read(f"SELECT {columns} FROM refusals ORDER BY id")


def test_a_refused_request_is_kept_whole(log):
    refusal = Refusal(
        time.time(),
        "rejected",
        "missing_event",
        "event is missing",
        "/pixel/v1/track",
        "a=b",
        "Mozilla",
        "192.0.2.0",
        "",
    )
    log.refused(refusal)
    until(lambda: kept(log), "a row")
    columns = "at, kind, reason, message, path, query, user_agent, network, cause"
    assert kept(log, columns) == [refusal]


def test_the_newest_are_kept_and_a_flood_is_cut(log, monkeypatch):
    monkeypatch.setattr(refusals, "KEPT", 50)
    monkeypatch.setattr(refusals, "WRITE_EVERY_S", 0.05)
    for number in range(300):
        log.refused(Refusal(float(number), "rejected", str(number)))
        if number % 30 == 0:
            time.sleep(0.06)
    until(lambda: kept(log) and kept(log)[-1] == ("299",), "the newest")
    assert len(kept(log)) == 50


def test_what_was_collected_is_written_when_the_log_is_closed(tmp_path):
    log = EventLog(tmp_path / "events.db")
    log.refused(Refusal(1.0, "failed", "sink_failed"))
    log.close()
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
        assert connection.execute("SELECT reason FROM refusals").fetchall() == [("sink_failed",)]


def test_a_file_that_cannot_be_written_loses_refusals_and_says_so(log, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("pixel_middleware.sinks.store.WAIT_S", 0.0)
    with closing(sqlite3.connect(tmp_path / "events.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        log.refused(Refusal(1.0, "rejected", "lost"))
        until(lambda: "1 refused requests could not be kept" in caplog.text, "a line of the log")
        other.rollback()
    log.refused(Refusal(1.0, "rejected", "kept"))
    until(lambda: kept(log) == [("kept",)], "a row")


def test_the_middleware_hands_over_what_it_refuses_whole(make_client, events):
    handed = []
    client = make_client(refused=handed.append, trusted_proxies=1)
    headers = {"X-Forwarded-For": "198.51.100.77", "User-Agent": "Mozilla/5.0"}
    client.get("/pixel/v1/track?writeKey=k&anonymousId=a&x=%zz", headers=headers, status=400)
    client.get("/pixel/v1/track?writeKey=k&anonymousId=a&event=e", headers=headers)
    (refusal,) = handed
    assert refusal == Refusal(
        refusal.at,
        "rejected",
        "missing_event",
        "event is missing; add event=... with the name of what happened",
        "/pixel/v1/track",
        "writeKey=k&anonymousId=a&x=%zz",
        "Mozilla/5.0",
        "198.51.100.0",
        "",
    )


def test_of_a_failure_the_exception_is_told_and_of_a_drop_nothing_but_the_processor(make_client):
    handed = []

    def full(event):
        raise OSError("the disk is full")

    def forget(event, request):
        return None

    make_client(full, refused=handed.append).get("/pixel/v1/page?writeKey=k&anonymousId=a", status=503)
    make_client(processors=[forget], refused=handed.append).get("/pixel/v1/page?writeKey=k&anonymousId=a")
    failed, dropped = handed
    assert (failed.kind, failed.reason, failed.cause) == ("failed", "sink_failed", "OSError: the disk is full")
    assert dropped == Refusal(dropped.at, "dropped", cause=dropped.cause)
    assert dropped.cause.endswith("forget")


def test_who_is_told_of_refusals_cannot_change_an_answer(make_client, caplog):
    def careless(refusal):
        raise ZeroDivisionError

    make_client(refused=careless).get("/pixel/v1/track?writeKey=k&anonymousId=a", status=400)
    assert "refused= failed: ZeroDivisionError" in caplog.text


def test_keep_days_takes_old_ones(tmp_path):
    path = tmp_path / "events.db"
    with closing(EventLog(path)) as log:
        for at in (time.time() - 3 * 86400, time.time()):
            log.refused(Refusal(at, "rejected", str(at)))
        until(lambda: len(kept(log)) == 2, "two rows")
    with closing(EventLog(path, keep_days=2)) as log:
        assert kept(log) == [(str(at),)]
