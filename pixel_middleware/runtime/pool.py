"""Threads for an event loop, for what may wait."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from pixel_middleware.runtime import forks
from pixel_middleware.runtime.group_commit import WAIT_S

T = TypeVar("T")


class NoThread(Exception):
    """There was no thread for some work, and it was not begun."""


class Pool(forks.ForkAware):
    """At most so many threads; what is more waits for one of them, for `WAIT_S` at most. Fork-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.after_fork_in_child()
        forks.watch(self)

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """The result of `work(*given)`, from a thread. Raises `NoThread`.

        Who is cancelled meanwhile has it done all the same, even if it had not begun.
        """
        forks.notice(self)
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        turn = [None]  # taken by who begins the work, or by who gives it up: never by both

        def has_turn() -> bool:
            with suppress(IndexError):
                turn.pop()
                return True
            return False

        def do() -> None:
            if has_turn():
                outcome: tuple[Callable[[Any], object], Any]
                try:
                    outcome = result.set_result, work(*given)
                except BaseException as error:
                    outcome = result.set_exception, error
                with suppress(RuntimeError):  # the loop is closed, and nobody waits in it any more
                    loop.call_soon_threadsafe(settle, *outcome)

        def settle(by: Callable[[Any], object], what: Any) -> None:
            if not result.cancelled():
                by(what)

        def give_up(why: str) -> None:
            if has_turn():
                result.set_exception(NoThread(why))

        alarm = loop.call_later(WAIT_S, give_up, f"none of {self._most} threads was free within {WAIT_S:g} s")
        try:
            self._executor.submit(do)
        except RuntimeError as error:  # it is in the queue all the same
            give_up(str(error))
        try:
            return await result
        finally:
            alarm.cancel()

    def after_fork_in_child(self) -> None:
        """The threads are the parent's: have others."""
        self._executor = ThreadPoolExecutor(self._most, thread_name_prefix="pixel-requests")
