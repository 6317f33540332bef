"""What keeps events. Importing this needs no extra."""

from pixel_middleware.sinks.jsonlines import JSONLines
from pixel_middleware.sinks.outbox import Outbox, OutboxStats
from pixel_middleware.sinks.sqlite import SQLite
from pixel_middleware.sinks.tee import tee

__all__ = ["JSONLines", "Outbox", "OutboxStats", "SQLite", "tee"]
