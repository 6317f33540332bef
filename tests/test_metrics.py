"""What a scraper reads, and what the log says of refusals."""

import logging
import os
import sys
import urllib.request
from contextlib import closing

import pytest
from processes import PATIENCE_S, until
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.parser import text_string_to_metric_families

from pixel_middleware import PixelMiddleware, Rejected, RetryLater, outcomes
from pixel_middleware.destinations import Destination
from pixel_middleware.sinks import EventLog
from pixel_middleware.watch.metrics import PixelCollector

PIXEL = "/pixel/v1/track?writeKey=k&anonymousId=a"


class Lake(Destination):
    """Takes what is called a, refuses what is called b, and knows no other."""

    def lane(self, event):
        return event["event"]

    def send(self, events):
        if events[0]["event"] == "b":
            raise Rejected("never: hunter2")
        if events[0]["event"] != "a":
            raise RetryLater("not now: hunter2", hold=True)


@pytest.fixture
def log(tmp_path):
    with closing(EventLog(tmp_path / "events.db", {"lake": Lake()})) as log:
        yield log


def scraped(base):
    """The samples, and the whole text, at `/metrics`."""
    with urllib.request.urlopen(f"{base}/metrics", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return samples, text


def test_a_scraper_reads_every_count(serve, log):
    registry = CollectorRegistry()
    app = PixelMiddleware(make_wsgi_app(registry), log)
    registry.register(PixelCollector(app, log))
    base = f"http://127.0.0.1:{serve(app)}"
    for query in ["&event=a", "&event=a", "&event=b", "&event=c", ""]:
        try:
            urllib.request.urlopen(f"{base}{PIXEL}{query}").close()
        except urllib.error.HTTPError as refused:
            refused.close()
    until(lambda: log.stats()["destinations"]["lake"]["lag"] == 0, "the courier")
    counted = until(lambda: log.counts() if sum(log.counts().values()) == 5 else None, "the counts")
    assert counted == {("accepted", ""): 4, ("rejected", "missing_event"): 1}
    samples, text = scraped(base)
    assert 0 <= samples.pop(("pixel_log_oldest_event_age_seconds", "lake")) < PATIENCE_S
    assert 0 <= samples.pop(("pixel_log_last_success_age_seconds", "lake")) < PATIENCE_S
    assert samples.pop(("pixel_log_bytes",)) == log.stats()["bytes"]
    assert samples == {
        ("pixel_requests_total", "accepted", ""): 4,
        ("pixel_requests_total", "rejected", "missing_event"): 1,
        ("pixel_log_readable",): 1,
        ("pixel_log_events",): 4,
        ("pixel_log_lag", "lake"): 0,
        ("pixel_log_held_events", "lake"): 1,
        ("pixel_log_dead_events", "lake"): 1,
        ("pixel_log_carries", "lake"): 1,
        ("pixel_log_sent_events_total", "lake"): 2,
        ("pixel_log_retries_total", "lake"): 1,
        ("pixel_log_given_up_events_total", "lake"): 0,
        ("pixel_log_trouble", "other", "lake"): 1,
    }
    assert "hunter2" not in text  # what a destination said stays in the log
    assert text.count("# HELP pixel_log_") == text.count("# TYPE pixel_log_") == 13


def test_a_destination_that_never_took_anything_has_no_age_of_success(tmp_path):
    with closing(EventLog(tmp_path / "events.db", {"lake": Lake()})) as log:
        app = PixelMiddleware(lambda environ, start_response: [], log)
        families = {family.name: family.samples for family in PixelCollector(app, log).collect()}
    assert families["pixel_log_last_success_age_seconds"] == []
    assert [sample.labels for sample in families["pixel_log_lag"]] == [{"destination": "lake"}]


def test_a_log_that_cannot_be_read_is_a_metric_too(serve, log, tmp_path):
    registry = CollectorRegistry()
    app = PixelMiddleware(make_wsgi_app(registry), print)
    registry.register(PixelCollector(app, log))
    log.close()
    (tmp_path / "events.db").unlink()
    samples, _ = scraped(f"http://127.0.0.1:{serve(app)}")
    assert samples == {("pixel_log_readable",): 0}


def test_a_middleware_alone_has_no_log_to_count():
    app = PixelMiddleware(lambda environ, start_response: [], print)
    (requests,) = PixelCollector(app).collect()
    assert [(sample.labels, sample.value) for sample in requests.samples] == [
        ({"outcome": "accepted", "reason": ""}, 0)
    ]


def test_refusals_are_logged_once_a_second_for_each_reason_and_without_the_payload(client, caplog, monkeypatch):
    caplog.set_level(logging.WARNING, "pixel_middleware")
    for _ in range(5):
        client.get(f"{PIXEL}&properties.secret=hunter2", status=400)
    client.get("/pixel/v1/elsewhere", status=404)
    monkeypatch.setattr(outcomes, "LOG_EVERY_S", 0.0)  # a second later
    client.get(PIXEL, status=400)
    assert [record.getMessage() for record in caplog.records] == [
        "pixels refused: reason=missing_event count=1 total=1",
        "pixels refused: reason=not_found count=1 total=1",
        "pixels refused: reason=missing_event count=5 total=6",
    ]
    last = caplog.records[-1]
    assert (last.pixel_reason, last.pixel_count, last.pixel_total) == ("missing_event", 5, 6)


def test_without_its_library_it_names_the_extra(run, tmp_path):
    (tmp_path / "prometheus_client.py").write_text("raise ModuleNotFoundError('gone', name='prometheus_client')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", "import pixel_middleware.watch.metrics"]
    done = run(command, env=environment)
    assert "pip install 'pixel-middleware[prometheus]'" in done.stderr
