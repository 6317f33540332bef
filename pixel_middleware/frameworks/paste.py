"""The middleware, and the live view of a log's file, in the ini file of a Paste deployment, as `pserve` reads it.

[filter:pixels]
use = egg:pixel-middleware
output = %(here)s/events.db
write_keys = key-of-the-shop key-of-the-blog
filter-with = live

[filter:live]
use = egg:pixel-middleware#live
log = %(here)s/events.db

[app:main]
filter-with = pixels
"""

from collections.abc import Mapping
from wsgiref.types import WSGIApplication

from pixel_middleware.errors import ConfigurationError
from pixel_middleware.frameworks.options import sink_and_options
from pixel_middleware.middleware import PixelMiddleware
from pixel_middleware.sinks import EventLog
from pixel_middleware.watch.live import LiveView


def filter_app_factory(app: WSGIApplication, global_conf: Mapping[str, str], **local_conf: str) -> PixelMiddleware:
    """`PixelMiddleware(app, ...)` with the sink and the options of an ini section; see `sink_and_options`."""
    make_sink, options = sink_and_options(local_conf)
    return PixelMiddleware(app, make_sink(), **options)


def live_filter_factory(
    app: WSGIApplication,
    global_conf: Mapping[str, str],
    log: str = "",
    path: str = "/pixel/live",
    size: str = "1000",
    allow: str = "",
    prefix: str | None = None,
    **unknown: str,
) -> LiveView:
    """`LiveView(app, path, size, log=EventLog(log), allow=[...], prefix=prefix)`, around the app with the pixels.

    `log` is the file of the event log; `allow` has networks with spaces or commas between. The file keeps the token:
    `pixel-middleware log FILE live` prints it. Raises `ConfigurationError`, or `StorageError` if the file cannot be
    used.
    """
    if unknown:
        raise ConfigurationError(
            min(unknown), f"unknown option {min(unknown)!r}; the live view takes log, path, size, allow and prefix"
        )
    if not log:
        raise ConfigurationError("log", "set log to the file of the event log that is to be shown, as output has it")
    if not size.isdecimal():
        raise ConfigurationError.must_be("size", "a whole number", size)
    networks = allow.replace(",", " ").split()
    return LiveView(app, path, int(size), log=EventLog(log), allow=networks or None, prefix=prefix)
