"""What librdkafka is told, what it says of failures, and what that means."""

import logging
import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pixel_middleware.destinations.base import Record, Undelivered
from pixel_middleware.errors import RetryLater

_log = logging.getLogger("pixel_middleware.kafka")

DEFAULTS: dict[str, Any] = {
    "acks": "all",
    "enable.idempotence": True,  # a retry of librdkafka's own makes no duplicate, and keeps the order
    "partitioner": "murmur2_random",  # Java's: a key has the same partition whoever sends it
    "compression.type": "lz4",
    "linger.ms": 50,  # the end of a batch does not wait for it
    "message.timeout.ms": 30_000,  # a broker that died is replaced after 9 s or so
    "topic.metadata.propagation.max.ms": 2000,  # how long a topic may seem missing to a producer that knew it
    "delivery.report.only.error": True,
}
"""librdkafka's options where the user gave none; `client.id` is `pixel-middleware-` and the host's name."""

_OTHER_NAMES = {
    "request.required.acks": "acks",
    "compression.codec": "compression.type",
    "queue.buffering.max.ms": "linger.ms",
    "delivery.timeout.ms": "message.timeout.ms",
}
"""Options that librdkafka knows by two names: the default must not stand beside what the user gave."""

LOG_EVERY_S = 60.0
WRONG_TOPIC_RETRY_S = 5.0  # at first: not every broker knows at once of a topic that was just made
_TIMEOUTS = ("_MSG_TIMED_OUT", "_TIMED_OUT", "_PURGE_QUEUE", "_PURGE_INFLIGHT", "_TRANSPORT", "REQUEST_TIMED_OUT")
REFUSED = (
    *("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "INVALID_RECORD", "INVALID_TIMESTAMP", "POLICY_VIOLATION"),
    "_INVALID_DIFFERENT_RECORD",  # the others of a record batch, where the broker said which one was at fault
)
WRONG_TOPIC = {
    "UNKNOWN_TOPIC_OR_PART": "topic_missing",
    "_UNKNOWN_TOPIC": "topic_missing",
    "_UNKNOWN_PARTITION": "topic_missing",
    "TOPIC_EXCEPTION": "topic_missing",
    "TOPIC_AUTHORIZATION_FAILED": "authorization",
}
_TROUBLES = {
    "_AUTHENTICATION": ("authentication", "the brokers refuse user and password"),
    "_SSL": ("tls", "no TLS with the brokers"),
    "_RESOLVE": ("resolve", "a broker's name does not resolve"),
    "_ALL_BROKERS_DOWN": ("all_brokers_down", "no broker can be reached"),
}
"""What librdkafka calls the causes of an outage, our words for them; the more telling one first."""

_HARMLESS = ("GETPID",)  # "Failed to acquire idempotence PID ... retrying", once after a broker's start
_AFTER = re.compile(r" \(after \d+ms in state \w+[^)]*\)")  # differs each time, where a reason should stay the same


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a user gave, and `DEFAULTS` for the others."""
    given_by_another_name = {_OTHER_NAMES.get(name) for name in config}
    defaults = DEFAULTS | {"client.id": f"pixel-middleware-{socket.gethostname()}"}
    return {name: value for name, value in defaults.items() if name not in given_by_another_name} | dict(config)


class Batch:
    """Records under way, and what failed of them: error, topic, value."""

    def __init__(self, records: Sequence[Record], undelivered: Undelivered | None = None) -> None:
        self.records = records
        self.undelivered = Undelivered() if undelivered is None else undelivered
        self.producer: Any = None
        self.is_lost = False  # the producer is gone, and did not say what became of them
        self.failures: list[tuple[Any, str, bytes]] = []

    def report(self, error: Any, message: Any) -> None:
        """Called by librdkafka, for each message that failed."""
        if error is not None:
            self.failures.append((error, message.topic(), message.value()))


class Troubles:
    """What librdkafka says while it tries again by itself: each message only ever says that it timed out."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def note(self, error: Any) -> None:
        """Called by librdkafka."""
        self._texts[error.name()] = _AFTER.sub("", error.str())

    def clear(self) -> None:
        """All is well again."""
        self._texts.clear()

    def meaning(self, reason: Any, topic: str) -> RetryLater:
        """What an error means that is no event's fault, and does not end the producer."""
        if reason.name() in WRONG_TOPIC:
            message = f"topic {topic!r}: {said(reason)}"
            return RetryLater(message, after=WRONG_TOPIC_RETRY_S, hold=True, cause=WRONG_TOPIC[reason.name()])
        for name, (cause, text) in _TROUBLES.items():
            if name in self._texts:
                detail = self._texts[name]
                if cause == "all_brokers_down":  # whose own text only counts them
                    detail = self._texts.get("_TRANSPORT", detail)
                return RetryLater(f"{text}: {detail}", cause=cause)
        if reason.name() in _TIMEOUTS:
            return RetryLater(f"the brokers did not acknowledge in time ({reason.name()})", cause="timeout")
        return RetryLater(said(reason))


class OneAMinute:
    """Takes librdkafka's log lines as a logger would, and passes on one a minute of each kind: it repeats itself."""

    def __init__(self) -> None:
        self._logged_at: dict[str, float] = {}

    def log(self, level: int, message: str, *args: Any) -> None:
        """Pass on a line, as a warning at most: librdkafka tries again by itself."""
        kind, now = args[0], time.monotonic()
        if now - self._logged_at.get(kind, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged_at[kind] = now
            _log.log(logging.INFO if kind in _HARMLESS else min(level, logging.WARNING), message, *args)


def is_outage(error: Any) -> bool:
    """Whether an error speaks of the brokers, and not of one event or topic."""
    return error.name() not in REFUSED and error.name() not in WRONG_TOPIC


def said(error: Any) -> str:
    """An error in one line, with its name."""
    return f"{error.name()}: {error.str()}"
