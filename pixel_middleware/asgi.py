"""The ASGI face, for Starlette, FastAPI, Quart, Litestar: answers what the WSGI face answers, byte for byte.

    from pixel_middleware.asgi import PixelMiddleware

    app = PixelMiddleware(app, log)                     # around any ASGI app
    app.add_middleware(PixelMiddleware, sink=log)       # or as Starlette and FastAPI have it

All that is no pixel, WebSockets and lifespan too, reaches the app with the objects that the server gave.
"""

import io
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from wsgiref.types import WSGIEnvironment

from pixel_middleware import checks
from pixel_middleware.async_endpoint import AnySink, AsyncEndpoint
from pixel_middleware.events import Processor, Refusal
from pixel_middleware.middleware import ResponseMode, WriteKeys
from pixel_middleware.outcomes import Stats

if TYPE_CHECKING:
    from pixel_middleware.sinks import EventLog

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class PixelMiddleware:
    """Makes `app` a pixel endpoint that hands each event to `sink`; every other request passes through.

    Args:
        app: the ASGI app to wrap.
        sink: takes one event. An `async def` is awaited in the event loop; what else is callable runs in a thread, so
            that a slow disk holds up no other request. Its `start()` is called once, unless that is an `async def`.
            Processors and `write_keys` run in the thread too, with the context variables of the request. No thread
            is needed for a sink with a `put_soon`, such as an event log, unless they, or `refused`, may wait.

    The options are those of `pixel_middleware.PixelMiddleware`. What a mount took from the path (`root_path`) is no
    part of `prefix`. Raises `ConfigurationError` for a wrong option.

    New in 0.1.
    """

    def __init__(
        self,
        app: ASGIApp,
        sink: AnySink,
        *,
        prefix: str = "/pixel/v1",
        response: ResponseMode = "auto",
        write_keys: WriteKeys | None = None,
        require_anonymous_id: bool = True,
        processors: Iterable[Processor] = (),
        trusted_proxies: int = 0,
        amp: bool = False,
        beacons: bool = False,
        max_query_bytes: int = 32768,
        max_params: int = 1000,
        max_depth: int = 32,
        max_event_bytes: int = 65536,
        refused: Callable[[Refusal], object] | None = None,
    ) -> None:
        self.app: ASGIApp = checks.as_asgi_app("app", app)
        self._endpoint = AsyncEndpoint(
            sink,
            prefix=prefix,
            response=response,
            write_keys=write_keys,
            require_anonymous_id=require_anonymous_id,
            processors=processors,
            trusted_proxies=trusted_proxies,
            amp=amp,
            beacons=beacons,
            max_query_bytes=max_query_bytes,
            max_params=max_params,
            max_depth=max_depth,
            max_event_bytes=max_event_bytes,
            refused=refused,
        )
        self._below = self._endpoint.below.encode("latin-1").decode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if (
            scope["type"] != "http"
            or self._below not in scope["path"]
            or not path_below_mount(scope).startswith(self._below)
        ):
            await self.app(scope, receive, send)
            return
        answer = await self._endpoint.answer(environ_of(scope))
        await send_answer(send, scope, answer.status, answer.headers, answer.body)

    def stats(self) -> Stats:
        """A snapshot of what became of the pixel requests that this process has answered."""
        return self._endpoint.stats()

    def counts(self) -> dict[tuple[str, str], int]:
        """How many requests had which outcome and reason, in this process."""
        return self._endpoint.counts()

    def keep_counts(self, log: "EventLog") -> None:
        """Keep these counts in the file of `log` too, where `log.counts()` is the sum of all processes.

        Nothing to do if `log` is the sink.
        """
        self._endpoint.keep_counts(log)


async def send_answer(send: Send, scope: Scope, status: str, headers: Iterable[tuple[str, str]], body: bytes) -> None:
    """Send a whole answer, in the words of WSGI, to the request of `scope`."""
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    with suppress(OSError):  # the client has left, which ASGI 2.4 says so; its event is kept
        await send({"type": "http.response.start", "status": int(status[:3]), "headers": raw})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def path_below_mount(scope: Scope) -> str:
    """The path without what a mount, or a server's `--root-path`, took of it; servers differ in whether they did."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def environ_of(scope: Scope) -> WSGIEnvironment:
    """The WSGI environ of an http scope, with an empty body."""
    server, port = scope.get("server") or ("localhost", 80)
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": scope.get("root_path", "").rstrip("/").encode().decode("latin-1"),
        "PATH_INFO": path_below_mount(scope).encode().decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": server,
        "SERVER_PORT": str(port or 80),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": (scope.get("client") or ("", 0))[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for raw_name, raw_value in scope["headers"]:
        # As WSGI servers do: `X_Forwarded_For` would overwrite what the proxy says in `X-Forwarded-For`. No length of
        # a body, since none is read.
        if b"_" in raw_name or raw_name.lower() == b"content-length":
            continue
        key = raw_name.decode("latin-1").upper().replace("-", "_")
        key = key if key == "CONTENT_TYPE" else f"HTTP_{key}"
        value = raw_value.decode("latin-1")
        if key in environ:
            value = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{value}"
        environ[key] = value
    return environ
