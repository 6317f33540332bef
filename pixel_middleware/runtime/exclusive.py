"""A file or connection that threads use in turns, no fork carries over, and no gevent hub waits for."""

import _thread
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from pixel_middleware.runtime import forks

T = TypeVar("T")


class Exclusive:
    """Runs work on one resource, one at a time.

    `close` closes the resource, and is called before a fork: the next work opens it again, in
    whichever process that is. Thread-safe.
    """

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self._turn = _native_lock()
        forks.watch(self)

    def run(self, work: Callable[[], T]) -> T:
        """The result of `work()`, which has the resource to itself and may block."""
        pool = _gevent_threadpool()
        if pool is None:
            return self._take_turn(work)
        result: T = pool.apply(self._take_turn, (work,))
        return result

    def close(self) -> None:
        """Close the resource, when the work under way is done."""
        self.run(self._close)

    def _take_turn(self, work: Callable[[], T]) -> T:
        with self._turn:
            return work()

    def before_fork(self) -> None:
        self._turn.acquire()
        self._close()

    def after_fork_in_parent(self) -> None:
        self._turn.release()

    def after_fork_in_child(self) -> None:
        self._turn = _native_lock()


def _native_lock() -> Any:
    # Under gevent the work runs in real threads, so only a real lock keeps them apart.
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original("_thread", "allocate_lock")() if monkey else _thread.allocate_lock()


def _gevent_threadpool() -> Any:
    """The hub's pool of real threads where threads are greenlets, and else `None`."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return None
    import gevent

    return gevent.get_hub().threadpool
