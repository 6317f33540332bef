"""Counts for Prometheus (extra `[prometheus]`).

    from prometheus_client import REGISTRY
    from pixel_middleware.watch.metrics import PixelCollector

    app = PixelMiddleware(app, outbox)
    REGISTRY.register(PixelCollector(app, outbox))

`pixel_requests_total{outcome, reason}` counts requests of this process. The outbox's `pixel_outbox_waiting_events`,
`pixel_outbox_oldest_event_age_seconds` and `pixel_outbox_dead_events` are its file's, whichever process is asked.
"""

from collections.abc import Iterator

from pixel_middleware.middleware import PixelMiddleware
from pixel_middleware.runtime.extras import needed_by
from pixel_middleware.sinks.outbox import Outbox

with needed_by("PixelCollector", "prometheus-client", extra="prometheus"):
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector


class PixelCollector(Collector):
    """What `stats()` of a middleware, and of its outbox if it has one, say when Prometheus asks."""

    def __init__(self, middleware: PixelMiddleware, outbox: Outbox | None = None) -> None:
        self._middleware = middleware
        self._outbox = outbox

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment."""
        yield self._requests()
        if self._outbox is not None:
            yield from _of_outbox(self._outbox)

    def _requests(self) -> Metric:
        requests = CounterMetricFamily("pixel_requests", "Pixel requests by what became of them.", labels=_LABELS)
        stats = self._middleware.stats()
        requests.add_metric(["accepted", ""], stats["accepted"])
        requests.add_metric(["dropped", ""], stats["dropped"])
        requests.add_metric(["failed", ""], stats["failed"])
        for reason, count in stats["rejected"].items():
            requests.add_metric(["rejected", reason], count)
        return requests


_LABELS = ["outcome", "reason"]


def _of_outbox(outbox: Outbox) -> Iterator[Metric]:
    stats = outbox.stats()
    yield GaugeMetricFamily("pixel_outbox_waiting_events", "Events that are still to be sent.", stats["waiting"])
    yield GaugeMetricFamily("pixel_outbox_dead_events", "Events that were refused for good.", stats["dead"])
    yield GaugeMetricFamily(
        "pixel_outbox_oldest_event_age_seconds", "How long the oldest of them waits.", stats["oldest_age_s"]
    )
    yield CounterMetricFamily("pixel_outbox_sent_events", "Events that this process sent.", stats["sent"])
    yield CounterMetricFamily("pixel_outbox_retries", "Rounds of this process that failed.", stats["retried"])
