"""Connections to the SQLite file of an event log, and the one that reads."""

import os
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

from pixel_middleware.errors import StorageError
from pixel_middleware.runtime import forks
from pixel_middleware.runtime.threads import native_lock

T = TypeVar("T")

_BUSY_S = 0.25  # how long SQLite asks for a file that another program has locked, before we look who still waits

creating = native_lock()  # a file is made by hand: no connection to it may be opened here before that is closed


class Reader(forks.ForkAware):
    """Reads what is committed in the file at `path`, over a connection of its own. Thread-safe.

    Who reads without a pause has one alone: threads that wait for a lock that another takes again and again starve.
    """

    _connection: sqlite3.Connection | None = None
    _wal_inode: tuple[int, int] | None = None
    identity: tuple[int, int] | None = None
    """Device and inode of the file that was read last."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._reading = native_lock()
        forks.watch(self)

    def read(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The rows of a query. Raises `StorageError`."""
        forks.notice(self)
        with self._reading:
            try:
                return self._opened().execute(query, parameters).fetchall()
            except (sqlite3.Error, OSError) as error:
                raise self._closed_by(error) from error

    def look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work(connection)`, which cannot write, and sees all of one moment. Raises `StorageError`."""
        forks.notice(self)
        with self._reading:
            try:
                connection = self._opened()
                connection.execute("BEGIN")
                try:
                    return work(connection)
                finally:
                    connection.execute("ROLLBACK")
            except (sqlite3.Error, OSError) as error:
                raise self._closed_by(error) from error

    def close(self) -> None:
        """Close the connection; the next read opens it again."""
        forks.notice(self)
        with self._reading:
            self._close()

    def _opened(self) -> sqlite3.Connection:
        # A write-ahead log stays for as long as it is open here, unless its file was moved: then it is another's.
        at_path = identity_of(self._path), identity_of(self._path + "-wal")
        if self._connection is not None and at_path != (self.identity, self._wal_inode):
            self._close()
        if self._connection is None:
            self.identity = at_path[0]
            self._connection = connect(self._path)
            self._connection.execute("PRAGMA query_only = ON")
            self._connection.execute("PRAGMA user_version").fetchall()  # opens the write-ahead log
            self._wal_inode = identity_of(self._path + "-wal")
        return self._connection

    def _closed_by(self, error: Exception) -> StorageError:
        """Close the connection, which may have a write-ahead log open that was another file's; the error to raise."""
        self._close()
        return StorageError(f"cannot read {self._path}: {error}")

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __del__(self) -> None:
        self._close()

    def before_fork(self) -> None:
        """As the store's own."""
        self._reading.acquire()
        self._close()

    def after_fork_in_parent(self) -> None:
        """The next read opens it again."""
        self._reading.release()

    def after_fork_in_child(self) -> None:
        """As the store's own."""
        abandoned.append(self._connection)
        self._connection = None
        self._reading = native_lock()


abandoned: list[sqlite3.Connection | None] = []
"""Connections that a fork without hooks left open: they must not be closed in this process."""


def connect(path: str) -> sqlite3.Connection:
    """Open the file, which must be there. Raises `sqlite3.Error`."""
    with creating:
        # Threads use it in turns, so SQLite's check for one thread only is off.
        return sqlite3.connect(
            f"file:{quote(path)}?mode=rw",
            uri=True,
            timeout=_BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )


def identity_of(path: str) -> tuple[int, int] | None:
    """Device and inode of what is at the path, if anything is."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
