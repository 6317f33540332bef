"""Locks and threads of the operating system, also where gevent puts greenlets in their place."""

import _thread
import contextlib
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST_WAIT_S = 3600.0


def native_lock() -> Any:
    """A lock that keeps real threads apart: gevent's own would keep greenlets apart, and its pool works in threads."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original("_thread", "allocate_lock")() if monkey else _thread.allocate_lock()


def native_rlock() -> Any:
    """A lock that knows the real thread that holds it: whoever cleans up may ask whether there is anything to do."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original("_thread", "RLock")() if monkey else _thread.RLock()


def threads_are_greenlets() -> bool:
    """Whether gevent has replaced the threads of this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def offload(work: Callable[[], T]) -> T:
    """The result of `work()`, which may block: where threads are greenlets, the others go on meanwhile."""
    if not threads_are_greenlets():
        return work()
    import gevent

    result: T = gevent.get_hub().threadpool.apply(work)
    return result


def start_native(work: Callable[[], object], name: str) -> None:
    """Run `work()` in a real thread, which no exit waits for. Raises `RuntimeError` if there is no thread to be had."""
    if not threads_are_greenlets():
        threading.Thread(target=work, name=name, daemon=True).start()
        return
    import gevent.monkey

    gevent.monkey.get_original("_thread", "start_new_thread")(work, ())


class Signal:
    """Wakes one thread. Setting it twice before it is waited for wakes once. Thread-safe.

    It is for real threads, or, with `lock=threading.Lock()`, for whatever threads are here.
    """

    def __init__(self, lock: Any = None) -> None:
        self._lock = lock or native_lock()
        self._lock.acquire()

    def set(self) -> None:
        """Wake who waits, or who waits next."""
        if self._lock.locked():  # it is not set yet
            with contextlib.suppress(RuntimeError):  # somebody else has set it meanwhile
                self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Return when the signal is set, which resets it, or after `seconds`, an hour at most; whether it was set."""
        return bool(self._lock.acquire(True, max(0.0, min(seconds, LONGEST_WAIT_S))))
