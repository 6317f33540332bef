"""What keeps events. Importing this needs no extra."""

from pixel_middleware.sinks.eventlog import EventLog
from pixel_middleware.sinks.jsonlines import JSONLines
from pixel_middleware.sinks.stats import DestinationStats, LogStats
from pixel_middleware.sinks.tee import tee

__all__ = ["DestinationStats", "EventLog", "JSONLines", "LogStats", "tee"]
