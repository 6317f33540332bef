"""Records that wait for a commit, each with somebody to tell of its end: a thread, or an event loop."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from pixel_middleware.errors import StorageError

T = TypeVar("T")

Done = Callable[[Exception | None], object]
"""Called with `None` once a record is stored, or with the error for which it is not."""


class Ticket(Generic[T]):
    """A record that waits for its commit, and what became of it."""

    loop: asyncio.AbstractEventLoop | None = None
    """Where `tell` is to be called, if that matters."""

    def __init__(self, record: T) -> None:
        self.record = record
        self.error: BaseException | None = None

    def failure(self) -> StorageError | None:
        """What to tell who waits, if it is not stored."""
        if self.error is None:
            return None
        failure = StorageError(str(self.error) or type(self.error).__name__)
        failure.__cause__ = self.error
        return failure

    def tell(self) -> None:
        """Tell who waits that the commit has ended."""


class ThreadTicket(Ticket[T]):
    """A thread waits for it."""

    def __init__(self, record: T) -> None:
        super().__init__(record)
        self.end = threading.Lock()  # released when it is done; gevent's own where it has replaced it
        self.end.acquire()

    def tell(self) -> None:
        """Let the thread go on."""
        self.end.release()


class LoopTicket(Ticket[T]):
    """`done` is called for it, once, in the event loop that ran when it was made."""

    loop: asyncio.AbstractEventLoop
    _alarm: asyncio.TimerHandle

    def __init__(self, record: T, done: Done) -> None:
        super().__init__(record)
        self.loop = asyncio.get_running_loop()
        self._done: Done | None = done

    def after(self, seconds: float, call: Callable[[Any], object], given: object) -> None:
        """Have `call(given)` called in the loop, unless `done` was until then."""
        self._alarm = self.loop.call_later(seconds, call, given)

    def tell(self) -> None:
        """Call `done` with what became of the record."""
        self.settle(self.failure())

    def settle(self, error: Exception | None) -> None:
        """Call `done`, unless that was done already."""
        done, self._done = self._done, None
        if done is not None:
            self._alarm.cancel()
            done(error)


def end(tickets: Iterable[Ticket[T]], error: BaseException | None) -> None:
    """Tell all who wait for these, which have all failed if there is an `error`: each thread, and each loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Ticket[T]]] = {}
    for ticket in tickets:
        ticket.error = ticket.error or error
        if ticket.loop is None:
            ticket.tell()
        else:
            by_loop.setdefault(ticket.loop, []).append(ticket)
    for loop, ended in by_loop.items():
        with suppress(RuntimeError):  # it is closed, and nobody waits in it any more
            loop.call_soon_threadsafe(_tell, loop, ended)


def _tell(loop: asyncio.AbstractEventLoop, tickets: list[Ticket[T]]) -> None:
    for ticket in tickets:
        try:
            ticket.tell()
        except Exception as error:  # the others are still to be told
            loop.call_exception_handler({"message": "what was to be done after a commit failed", "exception": error})
