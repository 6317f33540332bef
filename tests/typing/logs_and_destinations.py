"""The event log, destinations of a user's, and what happens on a server."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, assert_type

from pixel_middleware import Event, Rejected, RetryLater, Source, StorageError
from pixel_middleware.destinations import Destination, Kafka, RudderStack, Webhook
from pixel_middleware.sinks import DestinationStats, EventLog, LogStats


class Warehouse(Destination):
    def send(self, events: Sequence[Event]) -> None:
        for event in events:
            assert_type(event["writeKey"], str)
        if len(events) > 100:
            raise RetryLater("busy", after=5, events=events[100:])
        raise Rejected("no such table", events=events[:1])

    def lane(self, event: Event) -> str:
        return event["writeKey"]


class Wrong(Destination):
    def send(self, events: str) -> None:  # type: ignore[override]
        pass

    def lane(self, event: Event) -> int:  # type: ignore[override]
        return 1


log = EventLog(
    "events.db",
    {
        "rudderstack": RudderStack("https://hosted.rudderlabs.com"),
        "lake": Kafka("events", {"bootstrap.servers": "kafka:9092"}, key=lambda event: event["writeKey"]),
        "hook": Webhook("https://example.com/hook", "s3cret", {"Authorization": "Bearer t"}),
        "warehouse": Warehouse(),
    },
    max_bytes=1 << 30,
    keep_days=30,
)
stats = log.stats()
assert_type(stats, LogStats)
assert_type(stats["destinations"]["lake"], DestinationStats)
assert_type(stats["destinations"]["lake"]["last_success_age_s"], float | None)
assert_type(log.rewind("lake", since=datetime.now(UTC)), int)
assert_type(log.flush(5), bool)
assert_type(log.read("SELECT name FROM events"), list[tuple[Any, ...]])

EventLog("events.db", [Warehouse()])  # type: ignore[arg-type]
EventLog("events.db", {"hook": "https://example.com/hook"})  # type: ignore[dict-item]
EventLog("events.db", {}, 1 << 30)  # type: ignore[call-arg]
stats["destinations"]["lake"]["behind"]  # type: ignore[typeddict-item]
log.flush()  # type: ignore[call-arg]

source = Source(log, write_key="k")
try:
    event = source.track("Paid", anonymous_id="a", properties={"total": 9.5}, at=datetime.now(UTC))
except StorageError:
    raise
assert_type(event, Event)
source.page(user_id="u")

Source(log)  # type: ignore[call-arg]
source.track("Paid", nonsense=3)  # type: ignore[call-arg]
source.track(anonymous_id="a")  # type: ignore[call-arg]
source.page(user_id="u", at="2026-01-02")  # type: ignore[arg-type]
