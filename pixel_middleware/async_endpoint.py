"""The whole decision for event loops: the loop works as long as nothing waits, and threads do where something may."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, copy_context
from typing import Any
from wsgiref.types import WSGIEnvironment

from pixel_middleware import checks
from pixel_middleware.endpoint import Endpoint, start
from pixel_middleware.events import Event
from pixel_middleware.outcomes import Stats
from pixel_middleware.runtime.pool import NoThread, Pool
from pixel_middleware.runtime.threads import threads_are_greenlets
from pixel_middleware.runtime.tickets import Done
from pixel_middleware.wire.answers import Answer

AnySink = Callable[[Event], object]
"""A `Sink`, or an `async def` of one event: accepted once it has been awaited."""

QUICK_BYTES = 4096  # of a query that an event loop maps itself: half a millisecond at worst
THREADS = 32  # a sink that is durable shares one flush among all that wait for it, so that many threads cost little


class AsyncEndpoint:
    """An `Endpoint` that works in an event loop, or in the threads of `pool`, and takes `async def` sinks as well.

    Raises `ConfigurationError`.
    """

    def __init__(self, sink: AnySink, pool: Pool | None = None, **options: Any) -> None:
        checks.as_sink("sink", sink, may_await=True)
        self._endpoint = Endpoint(_awaiting(sink), **options)
        if callable(getattr(sink, "keep_counts", None)):
            self.keep_counts(sink)
        self.below = self._endpoint.below
        self._pool = pool or Pool(THREADS)
        self._put_soon = None if self._endpoint.may_wait or threads_are_greenlets() else _put_soon_of(sink)
        start(sink)

    async def answer(self, environ: WSGIEnvironment) -> Answer:
        """See `Endpoint.answer`. If it is cancelled, as when the client leaves, the event is still kept."""
        if self._put_soon is None or len(environ.get("QUERY_STRING", "")) > QUICK_BYTES:
            context = copy_context()
            context.run(_loop.set, asyncio.get_running_loop())
            try:
                return await self._pool.run(context.run, self._endpoint.answer, environ)
            except NoThread as error:
                return self._endpoint.fail(environ, error)
        taken = self._endpoint.decide(environ)
        if isinstance(taken, Answer):
            return taken
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def settle(error: Exception | None) -> None:
            if answer.cancelled():
                self._endpoint.settle(environ, taken, error)  # it is counted all the same
                return
            try:
                answer.set_result(self._endpoint.settle(environ, taken, error))
            except Exception as failure:  # its client must not wait for ever
                answer.set_exception(failure)

        try:
            self._put_soon(taken.event, settle)
        except Exception as error:
            return self._endpoint.settle(environ, taken, error)
        return await answer

    def stats(self) -> Stats:
        """What became of the pixel requests that this process has answered."""
        return self._endpoint.stats()

    def counts(self) -> dict[tuple[str, str], int]:
        """See `Endpoint.counts`."""
        return self._endpoint.counts()

    def keep_counts(self, log: Any) -> None:
        """See `Endpoint.keep_counts`."""
        self._endpoint.keep_counts(log)


def _put_soon_of(sink: AnySink) -> Callable[[Event, Done], object] | None:
    """The sink's `put_soon`, if there is one that does what a call does: a subclass may have a call of its own."""
    # Asked of the classes: a mock has whatever it is asked for.
    kind = next(kind for kind in type(sink).__mro__ if vars(kind).keys() & {"put_soon", "__call__"})
    return sink.put_soon if "put_soon" in vars(kind) else None  # type: ignore[attr-defined]


_loop: ContextVar[asyncio.AbstractEventLoop] = ContextVar("_loop")
"""In a thread of ours, the event loop that waits for it."""


def _awaiting(sink: AnySink) -> AnySink:
    """`sink`, called from a thread; what is to be awaited of it is awaited in the event loop meanwhile."""

    async def wait_for(work: Awaitable[object]) -> object:
        return await work

    def hand_over(event: Event) -> object:
        returned = sink(event)
        if returned is None or not inspect.isawaitable(returned):
            return returned
        return asyncio.run_coroutine_threadsafe(wait_for(returned), _loop.get()).result()

    return hand_over
