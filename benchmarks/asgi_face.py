"""What the ASGI face costs the app that it wraps, and how long durable pixels hold up the event loop."""

import asyncio
import tempfile
import time
from pathlib import Path

from measure import Result, interleaved

from pixel_middleware.asgi import PixelMiddleware
from pixel_middleware.sinks import EventLog

CALLS = 20_000
ROUNDS = 15
PIXELS_A_SECOND = 2_000
SECONDS = 5
LONGEST_GAP_S = 0.005
PAGE = {"type": "http", "method": "GET", "path": "/a/page", "root_path": "", "query_string": b"", "headers": []}
PIXEL = PAGE | {
    "http_version": "1.1",
    "path": "/pixel/v1/track",
    "query_string": b"writeKey=k&anonymousId=a&event=Signup&properties.plan=pro",
    "client": ("192.0.2.1", 1),
    "server": ("127.0.0.1", 80),
}


class Bare:
    """The least that an ASGI middleware can be."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


async def page(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"page"})


async def nothing(message):
    pass


def results():
    yield pass_through()
    yield gap()


def pass_through():
    async def call(app):
        began = time.perf_counter()
        for _ in range(CALLS):
            await app(PAGE, None, nothing)
        return (time.perf_counter() - began) / CALLS

    apps = {"none": page, "bare": Bare(page), "ours": PixelMiddleware(page, print)}
    runs = {name: lambda app=app: asyncio.run(call(app)) for name, app in apps.items()}
    taken = interleaved(runs, ROUNDS)
    ours, bare = taken["ours"] - taken["none"], taken["bare"] - taken["none"]
    return Result("pass-through of the ASGI face", "a bare ASGI class", ours, bare, 2.0, "ns")


def gap():
    """How late a timer of the event loop is, for 99 of 100 times, while pixels go into an event log."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        log = EventLog(Path(folder, "events.db"))
        late = asyncio.run(lateness(PixelMiddleware(page, log)))
        log.close()
    p99 = sorted(late)[len(late) * 99 // 100]
    what = f"gap of the event loop, {PIXELS_A_SECOND:,} durable pixels/s, p99"
    return Result(what, f"{LONGEST_GAP_S * 1000:.0f} ms", p99, LONGEST_GAP_S, 1.0, "ms")


async def lateness(app):
    late = []

    async def watch():
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - due)

    watcher = asyncio.create_task(watch())
    pixels = set()
    began = time.perf_counter()
    for number in range(PIXELS_A_SECOND * SECONDS):
        pixels.add(asyncio.create_task(app(PIXEL, None, nothing)))
        wait = began + number / PIXELS_A_SECOND - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
    await asyncio.gather(*pixels)
    watcher.cancel()
    if app.stats()["accepted"] != PIXELS_A_SECOND * SECONDS:
        raise RuntimeError(app.stats())
    return late
