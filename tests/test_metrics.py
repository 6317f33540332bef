"""What a scraper reads, and what the log says of refusals."""

import logging
import os
import sys
import urllib.request

import pytest
from processes import PATIENCE_S
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.parser import text_string_to_metric_families

from pixel_middleware import PixelMiddleware, Rejected, outcomes
from pixel_middleware.sinks import Outbox
from pixel_middleware.watch.metrics import PixelCollector

PIXEL = "/pixel/v1/track?writeKey=k&anonymousId=a"


class Refusing:
    def send(self, events):
        raise Rejected("never")


@pytest.fixture
def outbox(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", Refusing())
    yield outbox
    outbox.close()


def test_a_scraper_reads_every_count(serve, outbox):
    registry = CollectorRegistry()
    app = PixelMiddleware(make_wsgi_app(registry), outbox)
    registry.register(PixelCollector(app, outbox))
    base = f"http://127.0.0.1:{serve(app)}"
    for query in ["&event=e", "&event=e", ""]:
        try:
            urllib.request.urlopen(f"{base}{PIXEL}{query}").close()
        except urllib.error.HTTPError as refused:
            refused.close()
    assert outbox.flush(PATIENCE_S)
    with urllib.request.urlopen(f"{base}/metrics") as answer:
        text = answer.read().decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples == {
        ("pixel_requests_total", "accepted", ""): 2,
        ("pixel_requests_total", "dropped", ""): 0,
        ("pixel_requests_total", "failed", ""): 0,
        ("pixel_requests_total", "rejected", "missing_event"): 1,
        ("pixel_outbox_waiting_events",): 0,
        ("pixel_outbox_dead_events",): 2,
        ("pixel_outbox_oldest_event_age_seconds",): 0,
        ("pixel_outbox_sent_events_total",): 0,
        ("pixel_outbox_retries_total",): 0,
    }


def test_a_middleware_alone_has_no_outbox_to_count():
    app = PixelMiddleware(lambda environ, start_response: [], print)
    assert [family.name for family in PixelCollector(app).collect()] == ["pixel_requests"]


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
