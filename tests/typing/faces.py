"""The ASGI face: its app and its sink may be coroutine functions."""

from collections.abc import Iterable
from typing import assert_type
from wsgiref.types import StartResponse, WSGIEnvironment

from pixel_middleware import Event, Stats
from pixel_middleware.asgi import ASGIApp, PixelMiddleware
from pixel_middleware.sinks import EventLog


async def sink(event: Event) -> None: ...


def wrap(app: ASGIApp) -> ASGIApp:
    wrapped = PixelMiddleware(app, sink, beacons=True)
    assert_type(wrapped.stats(), Stats)
    return PixelMiddleware(wrapped, EventLog("events.db"), prefix="/other")


def wsgi_host(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return []


PixelMiddleware(wsgi_host, sink)  # type: ignore[arg-type]
PixelMiddleware(wrap, sink)  # type: ignore[arg-type]
