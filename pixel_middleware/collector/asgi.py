"""The collector as an ASGI app: a pixel that waits for the disk holds no thread, and all that wait share a flush."""

import os
from collections.abc import Mapping
from typing import Any
from wsgiref.types import WSGIEnvironment

from webob import Request

from pixel_middleware.asgi import Receive, Scope, Send, environ_of, send_answer
from pixel_middleware.async_endpoint import AsyncEndpoint
from pixel_middleware.collector.app import Collector, loaded
from pixel_middleware.collector.config import Config
from pixel_middleware.runtime.pool import NoThread, Pool
from pixel_middleware.wire.answers import RETRY_AFTER_S, page


class AsyncCollector:
    """Answers as a `Collector` does: its pixels in the event loop, its pages in threads of their own.

    Raises what that does.
    """

    def __init__(self, config: Config, live_token: str | None = None) -> None:
        self._collector = Collector(config, live_token)
        made, log = self._collector.made, self._collector.log
        most = made.values["threads"]
        self._pages = Pool(most)
        self._pixels: AsyncEndpoint | None = None
        if log is not None:  # the live view of JSON Lines shows what the collector itself has answered
            self._pixels = AsyncEndpoint(log, Pool(most), refused=log.refused, **made.options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["type"] == "http":
            environ = environ_of(scope)
            path = environ["PATH_INFO"]
            if self._pixels is not None and path.startswith(self._pixels.below) and path not in self._collector.pages:
                answer = await self._pixels.answer(environ)
                await send_answer(send, scope, answer.status, answer.headers, answer.body)
            else:
                await send_answer(send, scope, *await self._ask(environ))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif scope["type"] == "lifespan":
            while (event := (await receive())["type"]) != "lifespan.shutdown":
                await send({"type": f"{event}.complete"})
            await send({"type": "lifespan.shutdown.complete"})

    async def _ask(self, environ: WSGIEnvironment) -> tuple[str, list[tuple[str, str]], bytes]:
        try:
            status, headers, body = await self._pages.run(Request(environ).call_application, self._collector)
        except NoThread as error:
            busy = page("503 Service Unavailable", "text/plain", f"{error}\n".encode(), ("Retry-After", RETRY_AFTER_S))
            return busy.status, busy.headers, busy.body
        return status, headers, b"".join(body)


def create_asgi_app(config: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> AsyncCollector:
    """The collector as an ASGI app, for granian, uvicorn and hypercorn; otherwise as `create_app`.

    New in 0.1.
    """
    return AsyncCollector(loaded(config))
