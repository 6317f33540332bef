"""The collector's WSGI app: pixels, `/` with what arrives, `/health` and `/metrics`."""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from pixel_middleware.collector.config import Config, load
from pixel_middleware.middleware import PixelMiddleware
from pixel_middleware.sinks import EventLog
from pixel_middleware.sinks.files import sink_to
from pixel_middleware.watch.health import health
from pixel_middleware.watch.live import LiveView
from pixel_middleware.wire.answers import Answer, page

AGE_S = 1.0  # of an answer about our state, at most: a flood of questions must not become a flood of work


class Collector:
    """Answers pixels, and hands their events to the file that `config` names.

    `/health` and `/metrics` are for anybody; the live view at `/` is for who has its token, by default the file's.
    Raises `ConfigurationError`, or `StorageError` if the file cannot be used. Thread-safe.
    """

    def __init__(self, config: Config, live_token: str | None = None) -> None:
        self.made = made = config.made()
        values = made.values
        self.sink = sink_to(
            values["output"], made.destinations, max_bytes=values["max_bytes"], keep_days=values["keep_days"]
        )
        self.log = self.sink if isinstance(self.sink, EventLog) else None
        refused = None if self.log is None else self.log.refused
        self.pixels = PixelMiddleware(_not_here(values["prefix"]), self.sink, refused=refused, **made.options)
        self.live_token: str | None = None
        self._app: WSGIApplication = self.pixels
        if values["live"]:
            view = LiveView(self.pixels, "/", live_token=live_token, log=self.log, allow=values["allow"] or None)
            self._app, self.live_token = view, view.live_token
        self._own = {"/health": _Page(self._health), "/metrics": _Page(_metrics(self.pixels, self.log))}
        self.pages = {*self._own, *(view.paths if values["live"] else ())}
        """The paths that are no pixel's, whatever the prefix is."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI entry point."""
        own = self._own.get(environ.get("PATH_INFO", ""))
        if own is not None:
            return own.answer(environ)(environ, start_response)
        return self._app(environ, start_response)

    def _health(self) -> Answer:
        is_usable, told = health(self.sink)
        body = json.dumps(told).encode() + b"\n"
        return page("200 OK" if is_usable else "503 Service Unavailable", "application/json", body)


def create_app(config: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> Collector:
    """The collector as a WSGI app, for any server.

    `config` is a file, or options; by default the file that `PIXEL_CONFIG` names, if any. `PIXEL_<OPTION>` of the
    environment overrides a file. Raises `ConfigurationError`, or `StorageError` if the output cannot be used.

    New in 0.1.
    """
    return Collector(loaded(config))


def loaded(config: str | os.PathLike[str] | Mapping[str, Any] | None) -> Config:
    """The configuration that an app is made with."""
    return load(flags=config) if isinstance(config, Mapping) else load(config)


class _Page:
    """A page about our state, made anew when it is asked for and older than `AGE_S`."""

    def __init__(self, make: Callable[[], Answer]) -> None:
        self._make = make
        self._made: tuple[float, Answer] | None = None

    def answer(self, environ: WSGIEnvironment) -> Answer:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return page("405 Method Not Allowed", "text/plain", b"use GET\n", ("Allow", "GET, HEAD"))
        made = self._made
        if made is None or time.monotonic() - made[0] > AGE_S:
            answer = self._make()
            made = self._made = (time.monotonic(), answer)
        return made[1]


def _metrics(pixels: PixelMiddleware, log: EventLog | None) -> Callable[[], Answer]:
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

        from pixel_middleware.watch.metrics import PixelCollector
    except ModuleNotFoundError:
        body = b"metrics need prometheus-client: pip install 'pixel-middleware[prometheus]'\n"
        return lambda: page("501 Not Implemented", "text/plain", body)
    registry = CollectorRegistry()
    registry.register(PixelCollector(pixels, log))
    return lambda: page("200 OK", CONTENT_TYPE_LATEST, generate_latest(registry))


def example(prefix: str, write_key: str = "demo") -> str:
    """The path of a pixel to try."""
    return f"{prefix}/track?writeKey={quote(write_key)}&anonymousId=me&event=Hello"


def _not_here(prefix: str) -> WSGIApplication:
    body = f"This is a pixel collector. Try {example(prefix)}\n".encode()
    return page("404 Not Found", "text/plain; charset=utf-8", body)
