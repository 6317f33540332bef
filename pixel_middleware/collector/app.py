"""The collector's WSGI app: pixels, a page at `/` that shows them, and nothing else."""

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from pixel_middleware.events import Sink
from pixel_middleware.middleware import PixelMiddleware
from pixel_middleware.watch.live import LiveView

EXAMPLE = "/pixel/v1/track?writeKey=demo&anonymousId=me&event=Hello"
THIS_MACHINE = ("127.0.0.0/8", "::1")


def collecting_app(sink: Sink, allow: tuple[str, ...] = ()) -> LiveView:
    """An app that hands events to `sink`; `allow` are networks that may see the page. Raises `ConfigurationError`."""
    return LiveView(PixelMiddleware(_not_here, sink), "/", allow=[*THIS_MACHINE, *allow] if allow else None)


def _not_here(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body = f"This is a pixel collector. Try {EXAMPLE}\n".encode()
    start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
