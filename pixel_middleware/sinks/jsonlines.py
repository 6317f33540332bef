"""A sink that appends to a file of JSON Lines, on disk before it returns."""

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import IO, BinaryIO

from pixel_middleware.errors import StorageError
from pixel_middleware.events import Event, to_json
from pixel_middleware.runtime import forks
from pixel_middleware.runtime.group_commit import Busy, GroupCommit
from pixel_middleware.runtime.threads import native_lock, native_rlock
from pixel_middleware.runtime.tickets import Ticket

PROBE_BYTES = 65536  # left on the disk, or it counts as full


class JSONLines:
    """Appends each event as one line of JSON, flushed to disk (`fdatasync`) before the call returns.

    Threads share a flush, and any number of processes may append to one file, which is made with the mode 0600. It may
    be moved or truncated at any time, as log rotation does: the next event goes to `path` again. A line that
    a killed process left half-written stays half a line: the next record starts on a fresh one.

    Raises `StorageError` if the file cannot be opened, now, or an event not be written within 5 seconds, later; of a
    write that failed nothing stays in the file. Thread-safe, fork-safe. Not for NFS.

    New in 0.1.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = _File(os.path.abspath(os.fspath(path)))  # a daemon may change its directory
        self._lines: GroupCommit[bytes] = GroupCommit(self._file, self._file.path)
        try:
            self._file.open()
        except OSError as error:
            raise StorageError(f"cannot open {self._file.path}: {error.strerror}") from error
        self._file.close()

    def __call__(self, event: Event) -> None:
        """Return once the event is on disk."""
        self._lines.put(_line(event))

    def put_soon(self, event: Event, done: Callable[[Exception | None], object]) -> None:
        """See `EventLog.put_soon`."""
        self._lines.put_soon(_line(event), done)

    def probe(self) -> None:
        """Return if an event would be stored now. Raises `StorageError`, as a call would. Stores nothing."""
        self._lines.put(b"")
        disk = os.statvfs(self._file.path)
        if disk.f_bavail * disk.f_frsize < PROBE_BYTES:
            raise StorageError(f"the disk of {self._file.path} is full")

    def put_many(self, events: Iterable[Event]) -> None:
        """Return once all events are on disk, by one flush. Raises `StorageError`: none was stored."""
        self._lines.put(b"".join(map(_line, events)))

    def message_ids(self) -> set[str]:
        """The messageIds of all events in the file; half a line has none."""
        ids = set()
        for line in self.lines():
            with suppress(ValueError, LookupError, TypeError):
                ids.add(str(json.loads(line)["messageId"]))
        return ids - {""}

    def lines(self) -> Iterator[str]:
        """The lines of the file; one may be half a line."""
        with open(self._file.path, encoding="utf-8", errors="replace") as lines:  # a power cut may halve a letter
            yield from lines

    def take_out(self, is_meant: Callable[[bytes], bool]) -> int:
        """Replace the file by one without the lines for which `is_meant(line)`; how many those were.

        Whoever appends meanwhile waits only for the end of it, and loses nothing. Raises `OSError`; then the file is
        as it was. Not for a file that is rotated at the same time.
        """
        path = self._file.path
        with (
            open(path, "rb") as lines,
            tempfile.NamedTemporaryFile(dir=os.path.dirname(path) or ".", prefix=".forget-", delete=False) as kept,
        ):
            try:
                count = _copy(lines, kept, is_meant, whole=True)
                self._file.take_turn(wait=True)
                try:
                    if not os.path.samestat(os.fstat(lines.fileno()), os.stat(path)):
                        raise OSError(errno.EAGAIN, "it was rotated meanwhile; try again")
                    count += _copy(lines, kept, is_meant, whole=False)
                    kept.flush()
                    os.fchmod(kept.fileno(), os.fstat(lines.fileno()).st_mode & 0o777)
                    os.fsync(kept.fileno())
                    os.replace(kept.name, path)
                    _flush_directory_of(path)
                finally:
                    self._file.end_turn()
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(kept.name)
                raise
        return count

    def close(self) -> None:
        """Close the file; another event opens it again."""
        self._file.close()


class _File(forks.ForkAware):
    """The file at `path`, locked (`flock`) while it is written. A fork closes it: a copy of a lock would outlive us."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd: int | None = None
        self._locked_fd: int | None = None
        self._renew_locks()
        forks.watch(self)

    def open(self) -> int:
        """The descriptor of the open file, for who has the turn or nothing else. Raises `OSError`."""
        with self._using:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
                _flush_directory_of(self.path)  # the name of a new file is to survive a power cut too
            return self._fd

    def close(self) -> None:
        """Close it, when what is being written is written."""
        forks.notice(self)
        with self._using:
            self._close()

    def take_turn(self, wait: bool) -> bool:
        """Lock the file, against all threads and processes, and see that it still is the one at `path`."""
        forks.notice(self)
        if not self._turn.acquire(wait):
            return False
        try:
            while True:
                fd = self.open()
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                with self._using:
                    if self._fd != fd:  # a fork closed it while we waited
                        continue
                    with suppress(FileNotFoundError):
                        if os.path.samestat(os.fstat(fd), os.stat(self.path)):
                            self._locked_fd = fd
                            return True
                    self._close()
        except BlockingIOError:
            return False

    def has_turn(self) -> bool:
        """Whether this thread has the file."""
        forks.notice(self)
        return bool(self._turn._is_owned())

    def end_turn(self) -> None:
        """Unlock the file, if this thread has it."""
        if self._turn._is_owned():
            try:
                with self._using:
                    fd, self._locked_fd = self._fd, None
                    if fd is not None:
                        fcntl.flock(fd, fcntl.LOCK_UN)
            finally:
                self._turn.release()

    def commit(self, take: Callable[[], list[Ticket[bytes]]]) -> None:
        """Append the lines of the tickets. Raises `OSError`: none is in the file."""
        with self._using:
            fd = self._locked_fd
            if fd is None:
                raise Busy("a fork closed it")
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            data = b"\n" * torn + b"".join(ticket.record for ticket in take())
            try:
                written = os.write(fd, data)
                while written < len(data):  # a full disk takes a part first, and says so the next time
                    written += os.write(fd, data[written:])
                os.fdatasync(fd)
            except OSError:
                os.ftruncate(fd, size)
                raise

    def _close(self) -> None:
        fd, self._fd, self._locked_fd = self._fd, None, None
        if fd is not None:
            os.close(fd)

    def _renew_locks(self) -> None:
        self._turn = native_rlock()
        self._using = native_lock()  # never held while waiting for the file's lock, so that a fork need not

    def before_fork(self) -> None:
        """Close it, unless it is being written, which ends soon."""
        self._using.acquire()
        self._close()

    def after_fork_in_parent(self) -> None:
        """The next use opens it again."""
        self._using.release()

    def after_fork_in_child(self) -> None:
        """Close what a fork without hooks left open: a copy of our parent's lock must not outlive it."""
        self._renew_locks()
        self._close()


def _line(event: Event) -> bytes:
    return to_json(event).encode() + b"\n"


def _copy(lines: BinaryIO, to: IO[bytes], is_meant: Callable[[bytes], bool], *, whole: bool) -> int:
    """Copy lines but for those that are meant, and count these. With `whole`, stop before half a line."""
    count = 0
    while line := lines.readline():
        if whole and not line.endswith(b"\n"):
            lines.seek(-len(line), os.SEEK_CUR)  # somebody is writing it
            break
        if is_meant(line):
            count += 1
        else:
            to.write(line)
    return count


def _flush_directory_of(path: str) -> None:
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
