"""What keeps events. Importing this needs no extra."""

from pixel_middleware.sinks.eventlog import DestinationStats, EventLog, LogStats
from pixel_middleware.sinks.jsonlines import JSONLines
from pixel_middleware.sinks.tee import tee

__all__ = ["DestinationStats", "EventLog", "JSONLines", "LogStats", "tee"]
