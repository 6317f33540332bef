"""A durable sink that forwards: events are on disk before the client reads 200, and sent when it can be.

from pixel_middleware import PixelMiddleware
from pixel_middleware.destinations import RudderStack
from pixel_middleware.sinks import Outbox

app = PixelMiddleware(app, Outbox("outbox.db", RudderStack("https://hosted.rudderlabs.com")))
"""

import atexit
import fcntl
import os
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TypedDict

from pixel_middleware import settings
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.events import Event
from pixel_middleware.runtime import forks
from pixel_middleware.sinks.backlog import Backlog
from pixel_middleware.sinks.courier import Courier, Sender
from pixel_middleware.sinks.sqlite import SQLite

POLL_S = 0.2  # how soon events of other processes are seen
ELECTION_S = 0.5  # how soon a dead courier is replaced
EXIT_S = 5.0  # how long an exit waits for the batch under way; nothing depends on it


class OutboxStats(TypedDict):
    """`waiting`, `oldest_age_s` and `dead` are the file's; `sent` and `retried` this process's own."""

    waiting: int
    oldest_age_s: float
    sent: int
    retried: int
    dead: int


class Outbox:
    """A sink that stores each event in the SQLite file at `path`, from where one thread sends it on.

    The first event starts a courier thread, in each process; one among all of them is elected, by a
    lock that the kernel frees when its holder dies. Delivery is at least once and in order, but for
    events that were set aside: a duplicate has the same `messageId`.

    Args:
        path: the file; one destination each.
        sender: delivers batches; see `courier.Sender`. Built by you, used in the courier's thread alone.
        max_bytes: bounds the file, dead letters included; what does not fit is refused (503).
        batch_size: how many events `sender.send` gets at most.
        retry_min_s, retry_max_s: the bounds of the wait after a failure; it doubles, with jitter.

    Raises `ConfigurationError`, or `StorageError` if the file cannot be used. Thread-safe, fork-safe.
    """

    _thread: threading.Thread | None

    def __init__(
        self,
        path: str | os.PathLike[str],
        sender: Sender,
        *,
        max_bytes: int | None = 1 << 30,
        batch_size: int = 500,
        retry_min_s: float = 0.5,
        retry_max_s: float = 30.0,
    ) -> None:
        if not callable(getattr(sender, "send", None)):
            raise ConfigurationError.must_be("sender", "an object with send(events)", sender)
        settings.as_number("batch_size", batch_size, least=1)
        if not 0 < retry_min_s <= retry_max_s:
            raise ConfigurationError.must_be(
                "retry_min_s", f"above 0 and at most retry_max_s, {retry_max_s}", retry_min_s
            )
        self._store = SQLite(path, max_bytes)
        self._backlog = Backlog(self._store)
        self._courier = Courier(
            self._backlog, sender, batch_size=batch_size, retry_min_s=retry_min_s, retry_max_s=retry_max_s
        )
        self._election: int | None = None
        self._start_afresh()
        forks.watch(self)
        atexit.register(self.close)

    def __call__(self, event: Event) -> None:
        """Return once the event is on disk. Raises `StorageError`: nothing was stored."""
        self._store(event)
        self.start()
        self._news.set()

    def put_many(self, events: Iterable[Event]) -> None:
        """Return once all events are on disk, by one commit. Raises `StorageError`: none was stored."""
        self._store.put_many(events)
        self.start()
        self._news.set()

    def message_ids(self) -> set[str]:
        """The messageIds of all events that wait or are dead; those that were sent are forgotten."""
        return self._backlog.message_ids()

    def start(self) -> None:
        """Start this process's courier, if it does not run; to send a backlog without waiting for an event."""
        if self._not_started.acquire(blocking=False):  # the first caller's, until close()
            self._stop.clear()
            self._thread = threading.Thread(target=self._work, name="pixel-courier", daemon=True)
            self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything that waits now is delivered or buried; whether it was, in `timeout_s` seconds."""
        self.start()
        self._news.set()
        newest = self._backlog.newest()
        deadline = time.monotonic() + timeout_s
        while self._backlog.has_waiting_up_to(newest):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def close(self, timeout_s: float = EXIT_S) -> None:
        """Stop the courier after its batch, and close the file. What waits is sent after the next start."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            self._news.set()
            thread.join(timeout_s)
            self._not_started.release()
        self._store.close()

    def stats(self) -> OutboxStats:
        """What waits, and what was done. Raises `StorageError`."""
        oldest = self._backlog.oldest_received_at()
        return OutboxStats(
            waiting=self._backlog.count_waiting(),
            oldest_age_s=_age_s(oldest),
            sent=self._courier.sent,
            retried=self._courier.retried,
            dead=self._backlog.count_dead(),
        )

    def _work(self) -> None:
        stop, news = self._stop, self._news
        while not self._is_elected():
            if stop.wait(ELECTION_S):
                return
        try:
            while not stop.is_set():
                news.clear()
                pause = self._courier.run_once()
                if pause is None:
                    news.wait(POLL_S)
                elif pause:
                    stop.wait(pause)
        finally:
            self._resign()

    def _is_elected(self) -> bool:
        fd = os.open(self._store.path + "-courier", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._election = fd
        return True

    def _resign(self) -> None:
        fd, self._election = self._election, None
        if fd is not None:
            os.close(fd)

    def _start_afresh(self) -> None:
        self._not_started = threading.Lock()
        self._stop = threading.Event()
        self._news = threading.Event()
        self._thread = None

    def before_fork(self) -> None:
        """Nothing to put away: the store does so itself."""

    def after_fork_in_parent(self) -> None:
        """Nothing was put away."""

    def after_fork_in_child(self) -> None:
        self._resign()  # a copy of the election's lock would outlive the elected parent
        self._start_afresh()


def _age_s(received_at: str | None) -> float:
    if received_at is None:
        return 0.0
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(received_at)).total_seconds())
