"""An ASGI app with a stream, an upload, a WebSocket and a lifespan, wrapped; events go to the file `EVENTS`."""

import asyncio
import os

from pixel_middleware.asgi import PixelMiddleware
from pixel_middleware.sinks import JSONLines

state = {"lifespan": b"not started"}
sink = JSONLines(os.environ["EVENTS"])


async def lifespan(receive, send):
    while (await receive())["type"] == "lifespan.startup":
        state["lifespan"] = b"started"
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def echo_websocket(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def body_length(receive):
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    return str(length).encode()


async def host(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    if scope["type"] == "websocket":
        return await echo_websocket(receive, send)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    if scope["path"] == "/stream":
        pixels = app.stats()["accepted"]
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while app.stats()["accepted"] == pixels:
            await asyncio.sleep(0.01)
        body = b"second"
    else:
        body = state["lifespan"] if scope["path"] == "/lifespan" else await body_length(receive)
    await send({"type": "http.response.body", "body": body})


app = PixelMiddleware(host, sink)
