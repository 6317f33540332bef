"""One destination's thread in one process, and the election among all processes that have it."""

import time
from contextlib import suppress

from pixel_middleware.destinations.base import Destination
from pixel_middleware.errors import StorageError
from pixel_middleware.runtime import forks, reloaders
from pixel_middleware.runtime.worker import Worker
from pixel_middleware.sinks.courier import Courier
from pixel_middleware.sinks.positions import Positions
from pixel_middleware.sinks.retention import Retention
from pixel_middleware.sinks.store import Store

POLL_S = 0.2  # how soon events of other processes are seen
ELECTION_S = 0.5  # how soon a dead carrier is replaced
CHILD_WAIT_S = 0.2  # of a forked child: many only run another program
LEAVE_S = 5.0  # how long a process that forks leaves the carrying to its children, once a minute
_LOOK_S = 60.0  # how often a carrier looks into the file that has not changed


class Carrier(forks.ForkAware):
    """Carries to one destination for as long as its claim to the file's name for it holds. Thread-safe."""

    def __init__(
        self,
        store: Store,
        retention: Retention,
        name: str,
        destination: Destination,
        *,
        batch_size: int,
        retry_min_s: float,
        retry_max_s: float,
    ) -> None:
        self.name = name
        self.positions = Positions(store, retention, name)
        self._is_idle = False
        self._mark: tuple[int, ...] | None = None
        self._look_at = 0.0
        self.carries = False
        """Whether this process is the one that sends."""
        self._store = store
        self._destination = destination
        self._worker = Worker(f"pixel-courier-{name}", self._work, self._leave)
        self._courier = Courier(
            name,
            destination,
            self.positions,
            batch_size=batch_size,
            retry_min_s=retry_min_s,
            retry_max_s=retry_max_s,
            stopping=lambda: self._worker.is_stopping,
        )
        self._is_started = False
        self._has_children = False
        self._left_at = float("-inf")
        forks.watch(self)

    def start(self) -> bool:
        """See that the thread runs; `False` if there is no thread to be had now."""
        forks.notice(self)
        self._is_started = True
        return self._worker.start()

    def wake(self) -> None:
        """There is news: end the wait for it."""
        if self._is_idle:
            self._is_idle = False
            self._worker.wake()

    def stop(self, timeout_s: float) -> bool:
        """End the thread after its batch; whether it ended within `timeout_s` seconds."""
        forks.notice(self)
        self._is_started = False
        return self._worker.stop(timeout_s)

    def _work(self) -> float:
        now = time.monotonic()
        if reloaders.is_parent() or now - self._left_at < LEAVE_S or not self._store.claim(self.name, self):
            self._resign()
            return LEAVE_S if self._has_children else ELECTION_S
        if not self.carries:
            self._courier.forget()
            self._rest()
            self.carries = True
        mark = self._store.change_mark()
        if self._is_idle and mark == self._mark and now < self._look_at:
            return POLL_S
        self._is_idle = False
        pause = self._courier.round()
        # A write within the same tick of the clock as the one that the mark tells of would not show.
        is_old = not mark or time.time_ns() - max(mark) > 100_000_000
        self._mark = mark if is_old else None
        self._look_at = now + (_LOOK_S if pause is None else pause)
        # A longer wait, for the end of a hold say, must not keep from what comes meanwhile.
        self._is_idle = pause is None or pause > POLL_S
        return POLL_S if pause is None else min(pause, POLL_S)

    def _rest(self) -> None:
        self._is_idle = False
        self._mark = None
        self._look_at = 0.0

    def _resign(self) -> None:
        if self.carries:
            with suppress(StorageError):  # what was delivered is delivered again, by who carries next
                self._courier.finish()
            self.carries = False
        self._store.release(self.name, self)

    def _leave(self) -> None:
        self._resign()
        self.positions.close()
        self._destination.close()

    def after_fork_in_parent(self) -> None:
        """A master that forks workers leaves the carrying to them."""
        self._has_children = True
        if time.monotonic() - self._left_at > 60.0:
            self._left_at = time.monotonic()
            self._worker.wake()

    def after_fork_in_child(self) -> None:
        """The thread is the parent's: have one here, if it had."""
        self.carries = self._has_children = False
        self._left_at = float("-inf")
        self._courier.forget()
        self._rest()
        if self._is_started:
            self._worker.start(CHILD_WAIT_S)
