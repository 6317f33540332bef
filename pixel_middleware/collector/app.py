"""The collector's WSGI app: pixels, a page at `/` that shows them, and nothing else."""

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from pixel_middleware.events import Sink
from pixel_middleware.middleware import PixelMiddleware
from pixel_middleware.sinks.eventlog import EventLog
from pixel_middleware.watch.live import LiveView

EXAMPLE = "/pixel/v1/track?writeKey=demo&anonymousId=me&event=Hello"


def collecting_app(sink: Sink, allow: tuple[str, ...] = (), log: EventLog | None = None) -> LiveView:
    """An app that hands events to `sink`. The page is for who has its token, which `log` keeps, or is in `allow`.

    Raises `ConfigurationError`, or `StorageError` if the log cannot be used.
    """
    return LiveView(PixelMiddleware(_not_here, sink), "/", log=log, allow=allow or None)


def _not_here(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body = f"This is a pixel collector. Try {EXAMPLE}\n".encode()
    start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
