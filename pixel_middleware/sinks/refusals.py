"""The newest requests that were refused, in the event log's file: whichever process refused them, anybody can look."""

import logging
import sqlite3
from collections import deque

from pixel_middleware.errors import StorageError
from pixel_middleware.events import Refusal
from pixel_middleware.runtime.worker import Worker
from pixel_middleware.sinks.store import Store

_log = logging.getLogger("pixel_middleware")

KEPT = 1000  # rows, each with a whole query
MOST_A_SECOND = 100
WRITE_EVERY_S = 1.0

_COLUMNS = ", ".join(Refusal._fields)

_INSERT = f"INSERT INTO refusals ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Refusals:
    """Collects refusals, and writes them once a second in a thread of its own. Thread-safe, fork-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._collected: deque[Refusal] = deque(maxlen=MOST_A_SECOND)
        self._worker = Worker("pixel-refusals", self._write, self._write)

    def add(self, refusal: Refusal) -> None:
        """Have it written within a second. Never fails, and never waits."""
        self._collected.append(refusal)
        self._worker.start(WRITE_EVERY_S)

    def stop(self, timeout_s: float) -> None:
        """Write what was collected, and end the thread."""
        self._worker.stop(timeout_s)

    def _write(self) -> float:
        collected = []
        while self._collected:
            collected.append(self._collected.popleft())

        def insert(connection: sqlite3.Connection) -> None:
            connection.executemany(_INSERT, collected)
            connection.execute("DELETE FROM refusals WHERE id <= (SELECT max(id) FROM refusals) - ?", (KEPT,))

        if collected:
            try:
                self._store.write(insert)
            except StorageError as error:  # the events come first: these are lost
                _log.warning("%d refused requests could not be kept: %s", len(collected), error)
        return WRITE_EVERY_S


def newest(store: Store, limit: int) -> list[Refusal]:
    """So many of the newest, the oldest of them first. Raises `StorageError`."""
    rows = store.read(f"SELECT {_COLUMNS} FROM refusals ORDER BY id DESC LIMIT ?", limit)
    return [Refusal(*row) for row in reversed(rows)]


def after(store: Store, id_: int, limit: int) -> list[tuple[int, Refusal]]:
    """The next after this id, each with its own. Raises `StorageError`."""
    rows = store.read(f"SELECT id, {_COLUMNS} FROM refusals WHERE id > ? ORDER BY id LIMIT ?", id_, limit)
    return [(row[0], Refusal(*row[1:])) for row in rows]
