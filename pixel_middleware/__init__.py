"""RudderStack's Pixel API as a WSGI middleware: see `PixelMiddleware`."""

import importlib
from typing import Any

from pixel_middleware.errors import (
    BadPixel,
    ConfigurationError,
    PixelError,
    Rejected,
    RetryLater,
    StorageError,
    UnsendableEvent,
)
from pixel_middleware.events import Event, PageEvent, Processor, Refusal, Sink, TrackEvent
from pixel_middleware.middleware import PixelMiddleware
from pixel_middleware.outcomes import Stats
from pixel_middleware.source import Source
from pixel_middleware.wire.urls import pixel_tag, pixel_url

__all__ = [
    "BadPixel",
    "ConfigurationError",
    "Event",
    "PageEvent",
    "PixelError",
    "PixelMiddleware",
    "Processor",
    "Refusal",
    "Rejected",
    "RetryLater",
    "Sink",
    "Source",
    "Stats",
    "StorageError",
    "TrackEvent",
    "UnsendableEvent",
    "pixel_tag",
    "pixel_url",
]


def includeme(config: Any) -> None:
    """Pyramid's `config.include("pixel_middleware")`: see `pixel_middleware.frameworks.pyramid`."""
    importlib.import_module("pixel_middleware.frameworks.pyramid").includeme(config)
