"""RudderStack's Pixel API as a WSGI middleware: see `PixelMiddleware`."""

from pixel_middleware.errors import BadPixel, ConfigurationError, PixelError
from pixel_middleware.events import Event, PageEvent, TrackEvent
from pixel_middleware.middleware import PixelMiddleware, Processor, Sink, Stats

__all__ = [
    "BadPixel",
    "ConfigurationError",
    "Event",
    "PageEvent",
    "PixelError",
    "PixelMiddleware",
    "Processor",
    "Sink",
    "Stats",
    "TrackEvent",
]
