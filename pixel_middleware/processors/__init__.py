"""Processors: what may happen to an event before its sink sees it.

    from pixel_middleware.processors import anonymize_ip, convert, honor_gpc

    PixelMiddleware(app, sink, processors=[honor_gpc, anonymize_ip, convert({"properties.total": float})])

They run in the order given, and a processor of yours is any callable `(event, request) -> event`, or `None` to drop
the event. What needs an extra is imported by its own path: `processors.opens` (`[bots]`) and `processors.schema`
(`[schema]`).
"""

from pixel_middleware.processors.convert import convert
from pixel_middleware.processors.privacy import anonymize_ip, drop_ip, honor_dnt, honor_gpc
from pixel_middleware.processors.signed import verify_signature
from pixel_middleware.processors.suppression import suppress
from pixel_middleware.processors.visitors import daily_visitor

__all__ = [
    "anonymize_ip",
    "convert",
    "daily_visitor",
    "drop_ip",
    "honor_dnt",
    "honor_gpc",
    "suppress",
    "verify_signature",
]
