"""Sinks that store, and senders that an `Outbox` forwards with.

Importing this needs no extra; a sender asks for its own when it is built.
"""

from pixel_middleware.sinks.jsonlines import JSONLines
from pixel_middleware.sinks.kafka import Kafka
from pixel_middleware.sinks.outbox import Outbox, OutboxStats
from pixel_middleware.sinks.rudderstack import RudderStack
from pixel_middleware.sinks.sqlite import SQLite
from pixel_middleware.sinks.tee import tee

__all__ = ["JSONLines", "Kafka", "Outbox", "OutboxStats", "RudderStack", "SQLite", "tee"]
