"""Counts of requests in the log's file: the sum of all processes, which never goes back."""

import sqlite3
from contextlib import closing

import asgi_driver
import pytest
import webtest
from processes import until

from pixel_middleware import BadPixel, PixelMiddleware, asgi
from pixel_middleware.sinks import EventLog, counts, tee

PIXEL = "/pixel/v1/track?writeKey=k&anonymousId=a"


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(counts, "WRITE_EVERY_S", 0.01)


def host(environ, start_response):
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b""]


class Client(webtest.TestApp):
    def get(self, url):
        return super().get(url, expect_errors=True)


def client_of(log, sink=None, **options):
    pixels = PixelMiddleware(host, sink or log, **options)
    client = Client(pixels, lint=True)
    client.pixels = pixels
    return client


def whimsical(event, request):
    """Drops, fails, or refuses for a reason that the event names."""
    match event["event"].partition(" "):
        case ("drop", _, _):
            return None
        case ("fail", _, _):
            raise ZeroDivisionError
        case ("refuse", _, reason):
            raise BadPixel(reason, "no")
    return event


def test_every_outcome_is_counted_by_its_reason(log, often):
    client = client_of(log, processors=[whimsical])
    for query in [
        "&event=a",
        "&event=b",
        "&event=drop",
        "&event=fail",
        "&event=fail",
        "",
        "&event=refuse+no_such_plan",
    ]:
        client.get(PIXEL + query)
    expected = {
        ("accepted", ""): 2,
        ("dropped", "whimsical"): 1,
        ("failed", "ZeroDivisionError"): 2,
        ("rejected", "missing_event"): 1,
        ("rejected", "no_such_plan"): 1,
    }
    until(lambda: log.counts() == expected, "the counts")
    assert client.pixels.counts() == expected


def test_counts_go_on_after_a_restart_and_with_several_processes(tmp_path, in_child):
    path = tmp_path / "events.db"

    def collect():
        with closing(EventLog(path)) as log:
            client_of(log).get(f"{PIXEL}&event=e")

    for _ in range(3):
        in_child(collect)
    with closing(EventLog(path)) as log:
        assert log.counts() == {("accepted", ""): 3}


def test_a_fork_counts_what_it_answers_itself_and_only_that(log, in_child, often):
    client = client_of(log)
    client.get(f"{PIXEL}&event=e")

    def answer_one():
        assert client.pixels.stats()["accepted"] == 0
        client.get(f"{PIXEL}&event=e")
        assert client.pixels.counts() == {("accepted", ""): 1}
        log.close()

    in_child(answer_one)
    in_child(answer_one)
    client.get(f"{PIXEL}&event=e")
    until(lambda: log.counts() == {("accepted", ""): 4}, "the counts")
    assert client.pixels.stats()["accepted"] == 2


def test_made_up_reasons_take_a_bounded_number_of_rows(log, monkeypatch):
    monkeypatch.setattr(counts, "MOST_ROWS", 3)
    client = client_of(log, processors=[whimsical])
    for number in range(6):
        client.get(f"{PIXEL}&event=refuse+{'a' * (number + 1)}")
    log.close()
    kept = log.counts()
    assert (sum(kept.values()), kept["rejected", counts.OTHERS], len(kept)) == (6, 3, 4)


def test_what_cannot_be_written_now_is_written_later(log, tmp_path, often, monkeypatch):
    client = client_of(log)
    client.get(f"{PIXEL}&event=e")
    until(log.counts, "the first count")
    failed = []
    write = log._store.write

    def note_failure(*arguments, **options):
        try:
            return write(*arguments, **options)
        except Exception as error:
            failed.append(error)
            raise

    monkeypatch.setattr(log._store, "write", note_failure)
    monkeypatch.setattr("pixel_middleware.sinks.store.WAIT_S", 0.0)
    with closing(sqlite3.connect(tmp_path / "events.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        client.get(PIXEL)
        until(lambda: failed, "a failure")
        other.rollback()
    until(lambda: log.counts() == {("accepted", ""): 1, ("rejected", "missing_event"): 1}, "both")


def test_a_log_behind_another_sink_can_be_asked_to_keep_them(log, often):
    client = client_of(log, sink=tee(log, [].append))
    client.pixels.keep_counts(log)
    client.pixels.keep_counts(log)  # once is enough
    client.get(f"{PIXEL}&event=e")
    until(lambda: log.counts() == {("accepted", ""): 1}, "the count")


def test_the_asgi_face_counts_too(log, often):
    app = asgi.PixelMiddleware(asgi_driver.as_asgi(host), log)
    webtest.TestApp(asgi_driver.as_wsgi(app)).get(f"{PIXEL}&event=e")
    app.keep_counts(log)
    until(lambda: log.counts() == {("accepted", ""): 1}, "the count")
    assert app.counts() == {("accepted", ""): 1}
