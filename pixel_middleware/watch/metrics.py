"""Counts for Prometheus (extra `[prometheus]`).

    from prometheus_client import REGISTRY
    from pixel_middleware.watch.metrics import PixelCollector

    app = PixelMiddleware(app, log)
    REGISTRY.register(PixelCollector(app, log))

With a log, all numbers are the file's, whichever process is asked: `pixel_requests_total{outcome, reason}` is the
sum of all workers, a second old at most. Without one, it counts the requests of this process.
"""

from collections.abc import Iterator, Mapping

from pixel_middleware.errors import StorageError
from pixel_middleware.middleware import PixelMiddleware
from pixel_middleware.runtime.extras import needed_by
from pixel_middleware.sinks.eventlog import EventLog
from pixel_middleware.sinks.stats import LogStats

with needed_by("PixelCollector", "prometheus-client", extra="prometheus"):
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector


class PixelCollector(Collector):
    """What `stats()` of a middleware, and of its event log if it has one, say when Prometheus asks.

    New in 0.1.
    """

    def __init__(self, middleware: PixelMiddleware, log: EventLog | None = None) -> None:
        self._middleware = middleware
        self._log = log
        if log is not None:
            middleware.keep_counts(log)

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment; of a log that cannot be read, that alone. Never an error's text."""
        if self._log is None:
            yield _requests(self._middleware.counts())
            return
        try:
            counts, stats = self._log.counts(), self._log.stats()
        except StorageError:
            yield GaugeMetricFamily("pixel_log_readable", "Whether the file of the log can be read.", 0)
            return
        yield _requests(counts)
        yield GaugeMetricFamily("pixel_log_readable", "Whether the file of the log can be read.", 1)
        yield from _of_log(stats)


def _requests(counts: Mapping[tuple[str, str], int]) -> CounterMetricFamily:
    requests = CounterMetricFamily(
        "pixel_requests", "Pixel requests by what became of them.", labels=["outcome", "reason"]
    )
    for cause, count in counts.items():
        requests.add_metric(cause, count)
    return requests


_GAUGES = (
    ("lag", "pixel_log_lag", "Events that a destination is behind the newest."),
    ("oldest_age_s", "pixel_log_oldest_event_age_seconds", "How long the oldest undelivered event has waited."),
    ("held", "pixel_log_held_events", "Events that failed, or whose lane is on hold, and that are tried again."),
    ("dead", "pixel_log_dead_events", "Events that a destination refused for good."),
    ("last_success_age_s", "pixel_log_last_success_age_seconds", "How long ago a destination last took something."),
    ("carries", "pixel_log_carries", "Whether this process is the one that sends."),
)
_COUNTERS = (
    ("sent", "pixel_log_sent_events", "Events that were delivered."),
    ("retried", "pixel_log_retries", "Requests and rounds that failed for now."),
    ("given_up", "pixel_log_given_up_events", "Setbacks that were deleted since they took too much room."),
)


def _of_log(stats: LogStats) -> Iterator[Metric]:
    yield GaugeMetricFamily("pixel_log_events", "Events in the log.", stats["events"])
    yield GaugeMetricFamily("pixel_log_bytes", "Bytes in use in the file of the log.", stats["bytes"])
    for family, rows in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
        for key, name, help_ in rows:
            metric = family(name, help_, labels=["destination"])
            for destination, of_one in stats["destinations"].items():
                value: float | None = of_one[key]  # type: ignore[literal-required]
                if value is not None:  # it never took anything
                    metric.add_metric([destination], value)
            yield metric
    trouble = GaugeMetricFamily(
        "pixel_log_trouble",
        "What has kept a destination from taking events, until now.",
        labels=["destination", "cause"],
    )
    for destination, of_one in stats["destinations"].items():
        if of_one["cause"]:
            trouble.add_metric([destination, of_one["cause"]], 1)
    yield trouble
