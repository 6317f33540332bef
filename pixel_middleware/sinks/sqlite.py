"""A sink that stores events in an SQLite file, on disk before it returns.

$ sqlite3 events.db "SELECT received_at, type, event ->> 'anonymousId' FROM events"
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

from pixel_middleware import settings
from pixel_middleware.errors import StorageError
from pixel_middleware.events import Event, to_json
from pixel_middleware.runtime.exclusive import Exclusive
from pixel_middleware.runtime.group_commit import GroupCommit

T = TypeVar("T")

COLUMNS = "received_at, type, write_key, message_id, event"

SCHEMA = """
    CREATE TABLE IF NOT EXISTS events (
        -- AUTOINCREMENT: SQLite may otherwise give the id of a deleted event to a new one
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        received_at TEXT NOT NULL,
        type TEXT NOT NULL,
        write_key TEXT NOT NULL,
        message_id TEXT NOT NULL,
        event TEXT NOT NULL
    )
"""

BUSY_TIMEOUT_S = 5  # for programs that lock the file themselves; our own processes queue at the flock

_Row = tuple[str, str, str, str, str]


class SQLite:
    """Stores each event as a row of the table `events`; committed and flushed before the call returns.

    Threads share a commit, and any number of processes may share the file (`path` + `-lock` is how they
    take turns). `max_bytes` bounds the file: an event that does not fit is refused, not another
    one dropped. Raises `StorageError` if the file cannot be opened or is broken, now, or an event not be
    stored, later. Thread-safe. Not for NFS. Do not move or delete the file while it is in use.
    """

    _connection: sqlite3.Connection | None = None

    def __init__(self, path: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        if max_bytes is not None:
            settings.as_number("max_bytes", max_bytes, least=1)
        self.path = os.fspath(path)
        self._max_bytes = max_bytes
        self._file = Exclusive(self._close)
        self._rows = GroupCommit(self._insert)
        self.create(SCHEMA)

    def __call__(self, event: Event) -> None:
        """Return once the event is on disk."""
        self._rows.put(_row(event))

    def put_many(self, events: Iterable[Event]) -> None:
        """Return once all events are on disk, by one commit. Raises `StorageError`: none was stored."""
        self._insert([_row(event) for event in events])

    def message_ids(self) -> set[str]:
        """The messageIds of all events in the file."""
        return {str(message_id) for (message_id,) in self.read("SELECT message_id FROM events")}

    def create(self, *statements: str) -> None:
        """Run statements of a schema, and close the file again. Raises `StorageError`."""

        def create(connection: sqlite3.Connection) -> None:
            for statement in statements:
                connection.execute(statement)

        try:
            self.transaction(create)
        finally:
            self.close()

    def transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work(connection)`, all of it committed and on disk, or none. Raises `StorageError`."""
        try:
            return self._file.run(lambda: self._transact(work))
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"cannot use {self.path}: {error}") from error

    def read(self, query: str, *parameters: object) -> list[tuple[object, ...]]:
        """The rows of a query. Raises `StorageError`."""
        try:
            return self._file.run(lambda: self._open().execute(query, parameters).fetchall())
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"cannot read {self.path}: {error}") from error

    def close(self) -> None:
        """Close the file; another event opens it again."""
        self._file.close()

    def __del__(self) -> None:
        # A bare connection would warn that it was never closed; a sink that is dropped has nothing to lose.
        self._close()

    def _insert(self, rows: list[_Row]) -> None:
        insert = f"INSERT INTO events ({COLUMNS}) VALUES (?, ?, ?, ?, ?)"
        self.transaction(lambda connection: connection.executemany(insert, rows))

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        # The flock comes first: SQLite's own wait for a busy file polls, and is unfair by seconds.
        with _locked(self.path + "-lock"):
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                return work(connection)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        # Threads use it in turns, so SQLite's check for one thread only is off.
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # NORMAL loses commits at a power cut
            if self._max_bytes is not None:
                with closing(connection.execute("PRAGMA page_size")) as page_size:
                    pages = self._max_bytes // page_size.fetchone()[0]
                connection.execute(f"PRAGMA max_page_count = {max(pages, 1)}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _row(event: Event) -> _Row:
    return (event["receivedAt"], event["type"], event["writeKey"], event["messageId"], to_json(event))


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold the lock file against other processes; the kernel frees it when its holder dies."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
