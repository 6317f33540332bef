"""The SQLite file of an event log, which threads, processes and forks use in turns.

Nothing here or elsewhere may open the file by hand: closing any descriptor of it drops all locks that SQLite holds for
this process, and then another process may take the log that is still to be written back for nobody's (measured: 2,704
acknowledged events lost).
"""

import os
import sqlite3
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from pixel_middleware.errors import StorageError
from pixel_middleware.runtime import forks
from pixel_middleware.runtime.group_commit import WAIT_S, Busy
from pixel_middleware.runtime.lock_file import LockFile
from pixel_middleware.runtime.threads import native_lock
from pixel_middleware.sinks import schema
from pixel_middleware.sinks.reader import Reader, abandoned, connect, creating, identity_of

T = TypeVar("T")

_WAL_BYTES = 16 << 20  # what the write-ahead log is cut to after it had to grow


class Store(forks.ForkAware):
    """The file at `path`: transactions one at a time, and reads that never wait for them.

    The connections are closed before a fork, and opened again by the next use. `on_new_file(connection)` is called
    in the transaction that makes the tables. All methods raise `StorageError`. Thread-safe. Not for NFS.
    """

    _writer: sqlite3.Connection | None = None
    _wal_inode: tuple[int, int] | None = None

    def __init__(self, path: str | os.PathLike[str], on_new_file: Callable[[sqlite3.Connection], object]) -> None:
        self.path = os.path.abspath(os.fspath(path))  # a daemon may change its directory
        self.identity: tuple[int, int] | None = None
        """Device and inode of the file that the writer has open, or had last."""
        self._on_new_file = on_new_file
        self._is_durable: bool | None = True
        self._writing = native_lock()  # never held while waiting for a turn, so that a fork waits for a commit at most
        if os.path.exists(self.path):  # is it ours? Ask before anything is made beside it.
            try:
                connection = connect(self.path)
                try:
                    schema.version_of(connection)
                finally:
                    connection.close()
            except (sqlite3.Error, StorageError) as error:
                raise StorageError(f"cannot use {self.path}: {error}") from error
        self._lock_file = LockFile.at(self.path + "-lock")
        self._reader = Reader(self.path)
        self.read = self._reader.read
        self.look = self._reader.look
        forks.watch(self)

    # The turn: among this process's threads, and among processes.

    def take_turn(self, wait: bool) -> bool:
        """Take the turn to write; whether it was had. Without `wait`, only if at once."""
        return self._lock_file.take_turn(wait)

    def has_turn(self) -> bool:
        """Whether this thread has the turn."""
        return self._lock_file.has_turn()

    def end_turn(self) -> None:
        """Let the next one have its turn, if this thread has it."""
        self._lock_file.end_turn()

    def claim(self, name: str, owner: object) -> bool:
        """Whether `owner` is, or becomes now, the one among all processes to do what `name` says."""
        return self._lock_file.claim(_byte_of(name), owner)

    def release(self, name: str, owner: object) -> None:
        """End a claim."""
        self._lock_file.release(_byte_of(name), owner)

    def is_claimed(self, name: str) -> bool:
        """Whether anybody, in this process or another, does now what `name` says."""
        if not os.path.exists(self.path + "-lock"):
            return False
        nobody = object()
        was_free = self.claim(name, nobody)
        self.release(name, nobody)
        return not was_free

    def transact(self, work: Callable[[sqlite3.Connection], T], *, durable: bool) -> T:
        """The result of `work(connection)`, committed; on disk, if `durable`. For who has the turn.

        Raises `Busy`, before `work` is called, if another program has locked the file; else what `work` raises, and
        `sqlite3.Error`, with nothing stored.
        """
        forks.notice(self)
        with self._writing:
            connection = self._opened()
            if durable != self._is_durable:
                self._is_durable = None  # a signal handler may raise before it is known again
                # NORMAL leaves the flush to the next durable commit: a power cut may undo it, a crash of ours not.
                connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._is_durable = durable
            try:
                _begin(connection)  # in here: a signal handler may raise as soon as it has begun
                result = work(connection)
                if self.identity_at_path() != self.identity:
                    raise FileNotFoundError
                connection.execute("COMMIT")
                if self._wal_inode is None:
                    self._wal_inode = identity_of(self.path + "-wal")
            except BaseException as error:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                if self.identity_at_path() != self.identity:
                    self._leave_lost_file()
                    if isinstance(error, FileNotFoundError):  # whoever noticed first
                        message = f"{self.path} was moved or deleted; the next event makes a new file"
                        raise StorageError(message) from error
                raise
            return result

    def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        """Take a turn for `transact`: `work` may be called only once."""
        deadline = time.monotonic() + WAIT_S
        try:
            while True:
                if self.has_turn():
                    raise StorageError(f"cannot use {self.path}: this thread is using it")
                try:
                    self.take_turn(wait=True)
                    return self.transact(work, durable=durable)
                except Busy as busy:
                    if time.monotonic() > deadline:
                        raise StorageError(f"cannot use {self.path}: {busy}") from busy
                finally:
                    self.end_turn()
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"cannot use {self.path}: {error}") from error

    def empty_wal(self, *, rebuild: bool = False) -> bool:
        """Write the write-ahead log back and cut it to nothing; whether no reader of old pages was in the way.

        With `rebuild`, all pages are written anew first (VACUUM), so that none holds a byte of what was deleted: it
        takes as much disk as the file again, and all who write wait for it. Raises `StorageError`.
        """
        forks.notice(self)
        try:
            self.take_turn(wait=True)
            try:
                with self._writing:
                    connection = self._opened()
                    if rebuild:
                        connection.execute("VACUUM")
                    return not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                self.end_turn()
        except (sqlite3.Error, OSError, Busy) as error:
            raise StorageError(f"cannot use {self.path}: {error}") from error

    def change_mark(self) -> tuple[int, ...]:
        """Differs from an earlier one if another process may have written since. Costs two calls of the system."""
        marks: list[int] = []
        for path in (self.path, self.path + "-wal"):
            with suppress(OSError):
                status = os.stat(path)
                marks += [status.st_ino, status.st_size, status.st_mtime_ns]
        return tuple(marks)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        forks.notice(self)
        with self._writing:
            self._close_writer()
        self._reader.close()
        self._lock_file.close()

    def __del__(self) -> None:
        # A bare connection would warn that it was never closed.
        self._close_writer()

    def _opened(self) -> sqlite3.Connection:
        if self._writer is not None:
            return self._writer
        with creating, suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            self._unlink_wal()  # of a file that was deleted
        identity = self.identity_at_path()
        connection = connect(self.path)
        try:
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            connection.execute("PRAGMA synchronous = FULL")  # NORMAL loses commits at a power cut
            connection.execute("PRAGMA secure_delete = ON")  # as Debian's SQLite does anyway: deleted bytes are zeroed
            version = schema.version_of(connection)
            if version < schema.VERSION:
                _begin(connection)
                version = schema.version_of(connection)  # another process may have been first
                schema.upgrade(connection, version)
                if version == 0:
                    self._on_new_file(connection)
                connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")
            self.identity, self._is_durable = identity, True
        except sqlite3.OperationalError as error:
            connection.close()
            raise _busy_or(error) from error
        except BaseException:
            connection.close()
            raise
        self._writer = connection
        return connection

    def identity_at_path(self) -> tuple[int, int] | None:
        """Device and inode of the file that is at the path now, if any."""
        return identity_of(self.path)

    def _leave_lost_file(self) -> None:
        """Leave a file that is not at the path any more, and nothing beside it that the next would take for its own."""
        wal_inode = self._wal_inode
        self._close_writer()
        if wal_inode is not None and wal_inode == identity_of(self.path + "-wal"):  # no other's, who was first
            self._unlink_wal()

    def _unlink_wal(self) -> None:
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(self.path + suffix)

    def _close_writer(self) -> None:
        connection, self._writer, self._wal_inode = self._writer, None, None
        if connection is not None:
            if self.identity_at_path() != self.identity:
                # SQLite writes nothing back when it closes a file that is not where it was, and what is only in the
                # write-ahead log would go with that, when the next file is made.
                with suppress(sqlite3.Error):
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            connection.close()

    def before_fork(self) -> None:
        """SQLite's connections do not survive a fork, nor does what it knows of their locks."""
        self._writing.acquire()
        self._close_writer()

    def after_fork_in_parent(self) -> None:
        """Go on; the next use opens the file again."""
        self._writing.release()

    def after_fork_in_child(self) -> None:
        """Whatever a fork without hooks left open is the parent's: it must not be closed here."""
        abandoned.append(self._writer)
        self._writer = None
        self._writing = native_lock()


def _begin(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        raise _busy_or(error) from error


def _busy_or(error: sqlite3.OperationalError) -> Exception:
    return Busy(str(error)) if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) else error


def _byte_of(name: str) -> int:
    return 1 + zlib.crc32(name.encode())
