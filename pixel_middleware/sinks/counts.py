"""How many requests became what, in the event log's file: the sum of all processes, now and before."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping

from pixel_middleware.errors import StorageError
from pixel_middleware.runtime import forks
from pixel_middleware.runtime.worker import Worker
from pixel_middleware.sinks.store import Store

WRITE_EVERY_S = 1.0
MOST_ROWS = 1000  # a processor may make up reasons without end
OTHERS = "others"
"""The reason of what would be a row too many."""

Cause = tuple[str, str]
"""An outcome and its reason."""

_ADD = (
    "INSERT INTO counts (outcome, reason, count) VALUES (?, ?, ?) "
    "ON CONFLICT (outcome, reason) DO UPDATE SET count = count + excluded.count"
)


class Counts(forks.ForkAware):
    """Adds what was counted since the last time to the file, once a second, in a thread of its own.

    Rows only grow while the file lives, whatever processes come, end and fork; a process that is killed takes the
    last second's with it. Thread-safe, fork-safe.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sources: list[tuple[Callable[[], Mapping[Cause, int]], dict[Cause, int]]] = []
        self._worker = Worker("pixel-counts", self._write, self._write)
        self.after_fork_in_child()
        forks.watch(self)

    def keep(self, totals: Callable[[], Mapping[Cause, int]]) -> Callable[[], object]:
        """Have the totals of this process written. Call what is returned when they have changed: it never waits."""
        self._sources.append((totals, {}))
        return lambda: self._worker.start(WRITE_EVERY_S)

    def stop(self, timeout_s: float) -> None:
        """Write what was counted, and end the thread."""
        self._worker.stop(timeout_s)

    def _write(self) -> float:
        forks.notice(self)
        now = [(dict(totals()), written) for totals, written in self._sources]
        added: Counter[Cause] = Counter()
        for counted, written in now:
            for cause, count in counted.items():
                added[cause] += count - written.get(cause, 0)
        news = {cause: count for cause, count in added.items() if count}

        def add(connection: sqlite3.Connection) -> None:
            known = set(connection.execute("SELECT outcome, reason FROM counts"))
            for (outcome, reason), count in news.items():
                if (outcome, reason) not in known and len(known) >= MOST_ROWS:
                    reason = OTHERS
                known.add((outcome, reason))
                connection.execute(_ADD, (outcome, reason, count))

        if news:
            try:
                self._store.write(add)
            except StorageError:  # said by the events that cannot be stored; these are tried again
                return WRITE_EVERY_S
            for counted, written in now:
                written.update(counted)
        return WRITE_EVERY_S

    def after_fork_in_child(self) -> None:
        """A child counts from 0."""
        self._sources = [(totals, {}) for totals, _ in self._sources]
