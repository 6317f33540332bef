"""Sends to Apache Kafka, or whatever speaks its protocol (extra `[kafka]`): see docs/how-to/scale.md."""

import ctypes
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from pixel_middleware.destinations.base import Record, RecordDestination, Undelivered
from pixel_middleware.destinations.librdkafka import (
    REFUSED,
    WRONG_TOPIC,
    Batch,
    OneAMinute,
    Troubles,
    is_outage,
    said,
    with_defaults,
)
from pixel_middleware.errors import ConfigurationError, RetryLater
from pixel_middleware.events import Event
from pixel_middleware.runtime.extras import needed_by

SCHEMA_VERSION = "1"
"""The header `schemaVersion`: raised when the shape of an event changes."""

METADATA_TIMEOUT_S = 5.0
_GRACE_S = 5.0  # librdkafka looks for messages that timed out once a second
_SLICE_S = 0.2  # how long a failure may wait until it is looked at
_MOST_TOPICS = 10_000
_MOST_OF_A_REASON = 1000


class Kafka(RecordDestination):
    """Sends events to a topic, each as its JSON; a lane is a topic.

    Headers: `content-type`, `schemaVersion`, `type`, `messageId`, `writeKey`. Timestamp: the event's `receivedAt`.

    Args:
        topic: its name, or a callable `(event) -> name`. A topic that does not exist holds its own events alone.
        config: librdkafka's options, by its own names; `bootstrap.servers` is needed, `DEFAULTS` fills in.
        key: a callable `(event) -> str`; events of one key stay in order. By default `anonymousId`, else `userId`.
        dead_letters: a topic for what can never be delivered, with the reason in the header `reason`.
        max_per_second: events a second, see `Destination`.

    Raises `ConfigurationError` for options that librdkafka does not take. The producer is built by the first batch, in
    the process that sends it, and again after a fatal error and in a forked child.

    New in 0.1.
    """

    def __init__(
        self,
        topic: str | Callable[[Event], str],
        config: Mapping[str, Any],
        *,
        key: Callable[[Event], str] | None = None,
        dead_letters: str | None = None,
        max_per_second: float | None = None,
    ) -> None:
        if not callable(topic) and not (isinstance(topic, str) and topic):
            raise ConfigurationError.must_be("topic", "the name of a topic, or a callable (event) -> name", topic)
        if not isinstance(config, Mapping) or not config.get("bootstrap.servers"):
            least = 'librdkafka\'s options, with "bootstrap.servers" at least'
            raise ConfigurationError.must_be("config", least, type(config))
        if key is not None and not callable(key):
            raise ConfigurationError.must_be("key", "a callable (event) -> str", key)
        if dead_letters is not None and not (isinstance(dead_letters, str) and dead_letters):
            raise ConfigurationError.must_be("dead_letters", "the name of a topic", dead_letters)
        with needed_by("Kafka", "confluent-kafka", extra="kafka"):
            import confluent_kafka
        self._library = confluent_kafka
        self._topic = topic
        self._key = key
        self._dead_letters = dead_letters
        self.max_per_second = max_per_second
        self._config = with_defaults(config)
        self._timeout_s = float(config.get("delivery.timeout.ms", self._config.get("message.timeout.ms", 0))) / 1000
        self._producer: Any = None
        self._pid = 0
        self._topics: set[str] = set()
        self._under_way: list[Batch] = []
        self._troubles = Troubles()
        self._lines = OneAMinute()
        # Checked without its brokers: a producer that knows any connects to them, and this one sends nothing.
        unconnected = {"bootstrap.servers", "metadata.broker.list"}
        checked = {name: value for name, value in self._config.items() if name not in unconnected}
        try:
            self._library.Producer(checked | {"log_level": 0}, logger=self._lines)
        except (self._library.KafkaException, TypeError, ValueError) as error:
            reason = error.args[0]
            what = f"options librdkafka takes ({reason.str() if hasattr(reason, 'str') else reason})"
            raise ConfigurationError.must_be("config", what, sorted(self._config)) from error  # no values: secrets

    def __str__(self) -> str:
        """Where it sends to, without secrets."""
        topic = "topics by event" if callable(self._topic) else f"topic {self._topic}"
        return f"Kafka, {topic}, at {self._config['bootstrap.servers']}"

    def lane_of(self, record: Record) -> str:
        """The topic: one that does not exist must not hold back the others."""
        try:
            return self._topic(record.event) if callable(self._topic) else self._topic
        except Exception:
            return ""  # `begin` says why

    def begin(self, records: Sequence[Record]) -> Callable[[], Any]:
        """Hand all records to the producer; what is returned waits for the brokers, and raises what failed."""
        batch = Batch(records)
        self._produce_all(batch)

        def end() -> None:
            self._wait(batch)
            self._deliver_apart([record for record, _ in self._sort_out(batch)], batch.undelivered)
            batch.undelivered.raise_if_any()

        return end

    def deliver(self, records: Sequence[Record]) -> None:
        """Return once the brokers have acknowledged all. Raises `RetryLater` or `Rejected`, by name."""
        self.begin(records)()

    def bury(self, record: Record, reason: str) -> None:
        """Put a dead letter on the topic for them, if there is one. Raises `RetryLater`."""
        if self._dead_letters is None:
            return
        batch = Batch([record])
        self._produce_all(batch, self._dead_letters, [("reason", reason[:_MOST_OF_A_REASON])])
        self._wait(batch)
        refused = self._sort_out(batch) + batch.undelivered.take_rejected()
        for _, why in refused:
            self._lines.log(logging.WARNING, "dead letter topic %s refused an event: %s", self._dead_letters, why)
        batch.undelivered.raise_if_any()

    def close(self) -> None:
        """Let go of the producer, and of what it has not delivered."""
        producer, self._producer = self._producer, None
        # One that was built before a fork stays as it is, for ever: its threads are not here, and its end would hang.
        if producer is None or self._pid != os.getpid():
            return
        is_lost = True
        with suppress(self._library.KafkaException):  # it may have failed for good
            producer.purge()
            is_lost = producer.flush(_GRACE_S) > 0
        for batch in self._under_way:
            batch.producer, batch.is_lost = None, is_lost
        self._under_way.clear()
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(producer))

    def _produce_all(self, batch: Batch, topic: str | None = None, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Hand a batch to the producer. What cannot be handed over is noted."""
        if self._producer is None or self._pid != os.getpid():
            config = self._config | {"error_cb": self._troubles.note}
            self._producer, self._pid = self._library.Producer(config, logger=self._lines), os.getpid()
            self._topics.clear()
            self._under_way.clear()
            # Only `close` may end it, not the end of a process that was forked meanwhile.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._producer))
        producer = batch.producer = self._producer
        self._under_way.append(batch)
        topic_of = self._topic if topic is None else topic
        for number, record in enumerate(batch.records):
            try:
                topic = topic_of(record.event) if callable(topic_of) else topic_of
                if topic not in self._topics:
                    self._look_for(topic)
                message = {
                    "topic": topic,
                    "value": record.text,
                    "key": record.visitor if self._key is None else self._key(record.event),
                    "timestamp": milliseconds(record.received_at),
                    "headers": [
                        *_SAME_HEADERS,
                        ("type", record.type),
                        ("messageId", record.message_id),
                        ("writeKey", record.write_key),
                        *headers,
                    ],
                    "on_delivery": batch.report,
                }
                try:
                    producer.produce(**message)
                except BufferError:  # librdkafka's own queue is full
                    producer.flush(self._timeout_s)
                    producer.produce(**message)
            except self._library.KafkaException as error:  # by librdkafka itself, so it is about this one
                reason = error.args[0]
                if reason.name() in REFUSED:
                    limit = self._config.get("message.max.bytes", 1_000_000)
                    batch.undelivered.reject(record, f"{said(reason)} (message.max.bytes is {limit})")
                    continue
                trouble = self._judge(reason, topic or "")
            except BufferError:
                trouble = RetryLater("librdkafka's queue is full, and does not empty", cause="timeout")
            except Exception as error:  # of a callable, or of what it returned
                batch.undelivered.reject(record, f"{type(error).__name__}: {error}")
                continue
            else:
                continue
            if trouble.hold:
                batch.undelivered.retry([record], trouble)
            else:
                batch.undelivered.retry(batch.records[number:], trouble)
                return

    def _look_for(self, topic: str) -> None:
        """Ask the brokers for a topic before the first event: they answer at once, where an event would time out."""
        try:
            error = self._producer.list_topics(topic, METADATA_TIMEOUT_S).topics[topic].error
        except self._library.KafkaException:
            self._producer.poll(0)  # brings what `Troubles` is told
            raise
        if error is not None and error.name() in WRONG_TOPIC:
            raise self._library.KafkaException(error)
        if len(self._topics) >= _MOST_TOPICS:
            self._topics.clear()
        self._topics.add(topic)

    def _wait(self, batch: Batch) -> None:
        """Return when all is acknowledged or has failed: an outage fails what is still under way, too."""
        end = time.monotonic() + self._timeout_s + _GRACE_S
        try:
            while batch.producer is not None and batch.producer.flush(_SLICE_S):
                if time.monotonic() > end or any(is_outage(error) for error, _, _ in batch.failures):
                    break
            if any(is_outage(error) for error, _, _ in batch.failures) or time.monotonic() > end:
                # Younger events must not overtake those that failed; and some brokers never take this producer again.
                self.close()
        except self._library.KafkaException as error:  # from now on, all that this producer is asked raises
            batch.undelivered.retry(batch.records, self._judge(error.args[0]))
        if batch.is_lost:
            lost = RetryLater("the producer ended while these events were under way")
            batch.undelivered.retry(batch.records, lost)
        if batch in self._under_way:
            self._under_way.remove(batch)

    def _sort_out(self, batch: Batch) -> list[tuple[Record, str]]:
        """Note what failed. Returns what brokers refused: each may be at fault, or another of its record batch."""
        if not batch.failures:
            self._troubles.clear()
            return []
        refused = []
        by_value = {record.text.encode(): record for record in batch.records}
        for error, topic, value in batch.failures:
            if error.name() in REFUSED:
                refused.append((by_value[value], said(error)))
            else:
                batch.undelivered.retry([by_value[value]], self._judge(error, topic))
        return refused

    def _deliver_apart(self, refused: Sequence[Record], undelivered: Undelivered) -> None:
        """Deliver again what was refused, in halves, until the events at fault are alone, and rejected."""
        middle = (len(refused) + 1) // 2
        for half in filter(None, (refused[:middle], refused[middle:])):
            if undelivered.outage is not None:
                undelivered.retry(half, undelivered.outage)
                continue
            batch = Batch(half, undelivered)
            self._produce_all(batch)
            self._wait(batch)
            again = self._sort_out(batch)
            if again and len(half) == 1:
                undelivered.reject(*again[0])
            else:
                self._deliver_apart([record for record, _ in again], undelivered)

    def _judge(self, reason: Any, topic: str = "") -> RetryLater:
        """What an error that is no event's fault means."""
        if reason.fatal() or reason.name() == "_FATAL":
            self.close()
            return RetryLater(f"the producer failed for good, and is built anew: {reason.str()}")
        if reason.name() in WRONG_TOPIC:
            self._topics.clear()
        return self._troubles.meaning(reason, topic)


_SAME_HEADERS = (("content-type", "application/json"), ("schemaVersion", SCHEMA_VERSION))


def milliseconds(received_at: str) -> int:
    """A `receivedAt` as Kafka's timestamp; 0, which is the moment of sending, if it is none."""
    try:
        return round(datetime.fromisoformat(f"{received_at[:23]}+00:00").timestamp() * 1000)
    except ValueError:
        return 0
