"""A sender that forwards to Apache Kafka, or whatever speaks its protocol (extra `[kafka]`).

from pixel_middleware.destinations import Kafka
from pixel_middleware.sinks import Outbox

sink = Outbox("outbox.db", Kafka("events", {"bootstrap.servers": "kafka-1:9092,kafka-2:9092"}), batch_size=2000)
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pixel_middleware.destinations.base import Destination
from pixel_middleware.errors import ConfigurationError, PixelError, Rejected, RetryLater
from pixel_middleware.events import Event, to_json
from pixel_middleware.runtime.extras import needed_by

_log = logging.getLogger("pixel_middleware")

DEFAULTS: dict[str, Any] = {
    "acks": "all",
    "enable.idempotence": True,  # a retry of librdkafka's own makes no duplicate, and keeps the order
    "compression.type": "lz4",
    "linger.ms": 5,
    "message.timeout.ms": 10_000,  # the outbox tries again; and a fork waits for the batch under way
}
"""librdkafka's options where the user gave none."""

WRONG_TOPIC_RETRY_S = 60.0
_GRACE_S = 5.0  # librdkafka looks for messages that timed out once a second
_TOO_LARGE = ("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "INVALID_RECORD", "INVALID_MSG")
_WRONG_TOPIC = (
    *("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"),
    *("TOPIC_EXCEPTION", "TOPIC_AUTHORIZATION_FAILED"),
)


def visitor(event: Event) -> str:
    """The default key: a visitor's events go to one partition, and so stay in order."""
    return event.get("anonymousId") or event.get("userId", "")


class Kafka(Destination):
    """Sends events to a topic, each as its JSON, with the headers `type`, `messageId` and `writeKey`.

    Args:
        topic: its name, or a callable `(event) -> name`. A topic that does not exist sets its events aside.
        config: librdkafka's options, by its own names; `bootstrap.servers` is needed, `DEFAULTS` fills in.
        key: a callable `(event) -> str`; events of one key stay in order.

    Raises `ConfigurationError` for options that librdkafka does not take. The producer is built by the first
    `send`, in the process and real thread that sends; a fork closes it, and so does a fatal error.
    """

    def __init__(
        self,
        topic: str | Callable[[Event], str],
        config: Mapping[str, Any],
        *,
        key: Callable[[Event], str] = visitor,
    ) -> None:
        if not callable(topic) and not (isinstance(topic, str) and topic):
            raise ConfigurationError.must_be("topic", "the name of a topic, or a callable (event) -> name", topic)
        if not isinstance(config, Mapping) or not config.get("bootstrap.servers"):
            raise ConfigurationError.must_be(
                "config", 'librdkafka\'s options, with "bootstrap.servers" at least', type(config)
            )
        if not callable(key):
            raise ConfigurationError.must_be("key", "a callable (event) -> str", key)
        with needed_by("Kafka", "confluent-kafka", extra="kafka"):
            import confluent_kafka
        self._library = confluent_kafka
        self._topic = topic if callable(topic) else lambda event: topic
        self._key = key
        self._config = DEFAULTS | dict(config)
        self._producer: Any = None
        self._check_config()

    def lane(self, event: Event) -> str:
        """The topic: one that does not exist must not hold back the others."""
        try:
            return self._topic(event)
        except Exception:
            return ""  # `send` says why

    def send(self, events: Sequence[Event]) -> None:
        """Return once the brokers have acknowledged all events. Raises `RetryLater` or `Rejected`."""
        self._send(events)

    def _send(self, events: Sequence[Event]) -> None:
        failures: list[tuple[Event, PixelError]] = []
        for event in events:
            try:
                self._produce(event, failures)
            except BufferError as error:
                self._close()
                raise RetryLater("librdkafka's queue is full, and does not empty") from error
            except Exception as error:
                failures.append((event, self._judge(error)))
        self._wait_for_all()
        self._raise_for(failures)

    def _produce(self, event: Event, failures: list[tuple[Event, PixelError]]) -> None:
        headers = {"type": event["type"], "messageId": event["messageId"], "writeKey": event["writeKey"]}
        message = {
            "topic": self._topic(event),
            "key": self._key(event).encode(),
            "value": to_json(event).encode(),
            "headers": {name: value.encode() for name, value in headers.items()},
        }
        if self._producer is None:
            self._producer = self._library.Producer(self._config, logger=_log)

        def report(error: Any, _message: Any) -> None:
            if error is not None:
                failures.append((event, self._judge(self._library.KafkaException(error))))

        try:
            self._producer.produce(**message, on_delivery=report)
        except BufferError:  # librdkafka's own queue is full
            self._producer.flush(self._timeout_s())
            self._producer.produce(**message, on_delivery=report)

    def _wait_for_all(self) -> None:
        if self._producer is None:
            return
        try:
            left = self._producer.flush(self._timeout_s() + _GRACE_S)
        except self._library.KafkaException as error:  # from now on, all that this producer is asked raises
            self._close()
            raise self._judge(error) from error
        if left:
            self._close()
            raise RetryLater("the brokers did not answer in time")

    def _judge(self, error: Exception) -> PixelError:
        """What an error means for its event."""
        if not isinstance(error, self._library.KafkaException):
            return Rejected(f"{type(error).__name__}: {error}")  # the event's topic, key or JSON could not be made
        reason = error.args[0]
        if reason.fatal() or reason.name() == "_FATAL":
            return RetryLater(f"the producer failed for good, and is built anew: {reason.str()}")
        if reason.name() in _TOO_LARGE:
            return Rejected(f"{reason.name()}: {reason.str()}")
        if reason.name() in _WRONG_TOPIC:
            return RetryLater(f"{reason.name()}: {reason.str()}", after=WRONG_TOPIC_RETRY_S, hold=True)
        return RetryLater(f"{reason.name()}: {reason.str()}")

    def _raise_for(self, failures: list[tuple[Event, PixelError]]) -> None:
        for _, error in failures:
            if isinstance(error, RetryLater):
                self._close()  # of no use any more if the error was fatal, and cheap to build anew if not
                raise error
        if failures:
            raise Rejected(str(failures[0][1]), events=[event for event, _ in failures])

    def _timeout_s(self) -> float:
        return float(self._config["message.timeout.ms"]) / 1000

    def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(self._library.KafkaException):  # it may have failed for good
                producer.purge()
                producer.flush(1)

    def _check_config(self) -> None:
        try:
            self._library.Producer(self._config, logger=_log)
        except (self._library.KafkaException, TypeError, ValueError) as error:
            reason = error.args[0]
            said = reason.str() if hasattr(reason, "str") else str(reason)
            # The names alone: passwords are among the values.
            raise ConfigurationError.must_be(
                "config", f"options librdkafka takes ({said})", sorted(self._config)
            ) from error
