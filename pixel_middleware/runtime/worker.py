"""A supervised thread: it does its work again and again, whatever that raises, until it is stopped."""

import logging
import time
from collections.abc import Callable

from pixel_middleware.runtime import forks
from pixel_middleware.runtime.threads import Signal, native_lock, start_native

_log = logging.getLogger("pixel_middleware")

AFTER_AN_ERROR_S = 1.0
_LOG_EVERY_S = 60.0


class Worker(forks.ForkAware):
    """Calls `work()` in a real thread of its own, which waits as many seconds as that returns before the next call.

    Nothing ends it but `stop`: what `work` raises is logged, once a minute, and tried again. A fork leaves it behind
    in the parent; the child may `start` its own. Thread-safe.
    """

    _run: "_Run | None"
    _last: "_Run | None"

    def __init__(self, name: str, work: Callable[[], float], at_end: Callable[[], object]) -> None:
        self._name = name
        self._work = work
        self._at_end = at_end
        self.after_fork_in_child()
        forks.watch(self)

    def start(self, first_wait_s: float = 0.0) -> bool:
        """See that the thread runs; `False` if there is no thread to be had now. Costs next to nothing if it runs."""
        forks.notice(self)
        if self._run is not None:
            return True
        with self._lock:
            if self._run is None:  # pragma: no branch - another thread may have been first
                run = _Run(self._last)
                try:
                    start_native(lambda: self._go_on(run, first_wait_s), self._name)
                except RuntimeError:
                    return False
                self._run = self._last = run
            return True

    def wake(self) -> None:
        """End the wait before the next call."""
        run = self._run
        if run is not None:
            run.signal.set()

    def stop(self, timeout_s: float) -> bool:
        """Let the call under way end, and the thread with it; whether it did within `timeout_s` seconds."""
        forks.notice(self)
        with self._lock:
            run, self._run = self._run, None
        if run is None:
            return True
        run.is_stopped = True
        run.signal.set()
        return run.end.wait(timeout_s)

    @property
    def is_stopping(self) -> bool:
        """Whether nobody waits for more of its work."""
        return self._run is None

    def _go_on(self, run: "_Run", first_wait_s: float) -> None:
        logged_at = -_LOG_EVERY_S
        pause = first_wait_s
        while run.before is not None and not run.is_stopped:  # a thread that was stopped, and hangs in its last call
            run.signal.wait(AFTER_AN_ERROR_S)
            run.before = None if run.before.has_ended else run.before
        while not run.is_stopped:
            if pause > 0:
                run.signal.wait(pause)
                if run.is_stopped:
                    break
            try:
                pause = self._work()
            except BaseException as error:
                pause = AFTER_AN_ERROR_S
                if time.monotonic() - logged_at >= _LOG_EVERY_S:
                    logged_at = time.monotonic()
                    _log.error("%s: %s: %s; it goes on", self._name, type(error).__name__, error)
        try:
            self._at_end()
        finally:
            run.has_ended = True
            run.end.set()

    def after_fork_in_child(self) -> None:
        """The thread is the parent's."""
        self._lock = native_lock()
        self._run = self._last = None


class _Run:
    """One thread's life; a worker that is stopped and started again has another."""

    has_ended: bool

    def __init__(self, before: "_Run | None") -> None:
        self.before = None if before is None or before.has_ended else before
        self.has_ended = False
        self.signal = Signal()
        self.end = Signal()
        self.is_stopped = False
