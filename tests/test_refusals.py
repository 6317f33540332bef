"""Refused requests are kept in the log's file: the newest, off the request's path."""

import sqlite3
import time
from contextlib import closing

import pytest
from processes import until

from pixel_middleware.events import Refusal
from pixel_middleware.sinks import EventLog, refusals


@pytest.fixture
def log(tmp_path):
    with closing(EventLog(tmp_path / "events.db")) as log:
        yield log


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
