"""A sink that appends to a file of JSON Lines, on disk before it returns."""

import fcntl
import json
import os
from collections.abc import Iterable

from pixel_middleware.errors import StorageError
from pixel_middleware.events import Event, to_json
from pixel_middleware.runtime.exclusive import Exclusive
from pixel_middleware.runtime.group_commit import GroupCommit


class JSONLines:
    """Appends each event as one line of JSON, flushed to disk (`fdatasync`) before the call returns.

    Threads share a flush, and any number of processes may append to one file. The file may be moved
    or truncated at any time, as log rotation does: the next event goes to `path` again. A line that
    a killed process left half-written stays half a line: the next record starts on a fresh one.

    Raises `StorageError` if the file cannot be opened, now, or an event not be written, later; of a
    write that failed nothing stays in the file. Thread-safe. Not for NFS.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._fd: int | None = None
        self._file = Exclusive(self._close)
        self._lines = GroupCommit(self._append)
        try:
            self._file.run(self._open)
        except OSError as error:
            raise StorageError(f"cannot open {self._path}: {error.strerror}") from error
        self._file.close()

    def __call__(self, event: Event) -> None:
        """Return once the event is on disk."""
        self._lines.put(_line(event))

    def put_many(self, events: Iterable[Event]) -> None:
        """Return once all events are on disk, by one flush. Raises `StorageError`: none was stored."""
        try:
            self._append([_line(event) for event in events])
        except OSError as error:
            raise StorageError(str(error)) from error

    def message_ids(self) -> set[str]:
        """The messageIds of all events in the file; half a line has none."""
        with open(self._path, encoding="utf-8") as lines:
            return {message_id for line in lines if (message_id := _message_id(line))}

    def close(self) -> None:
        """Close the file; another event opens it again."""
        self._file.close()

    def _append(self, lines: list[bytes]) -> None:
        self._file.run(lambda: self._append_in_turn(lines))

    def _append_in_turn(self, lines: list[bytes]) -> None:
        fd = self._locked()
        try:
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            self._write(fd, b"\n" * torn + b"".join(lines), size)
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def _write(self, fd: int, data: bytes, size: int) -> None:
        try:
            written = os.write(fd, data)
            while written < len(data):  # a full disk takes a part first, and says so the next time
                written += os.write(fd, data[written:])
            os.fdatasync(fd)
        except OSError:
            os.ftruncate(fd, size)
            raise

    def _locked(self) -> int:
        """The open file, locked against other processes, and still the one at `path`."""
        while True:
            fd = self._open() if self._fd is None else self._fd
            fcntl.flock(fd, fcntl.LOCK_EX)
            if self._is_at_path(fd):
                return fd
            self._close()

    def _is_at_path(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _open(self) -> int:
        self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        _flush_directory_of(self._path)  # the name of a new file is to survive a power cut too
        return self._fd

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _line(event: Event) -> bytes:
    return to_json(event).encode() + b"\n"


def _message_id(line: str) -> str:
    try:
        return str(json.loads(line)["messageId"])
    except (ValueError, LookupError, TypeError):
        return ""


def _flush_directory_of(path: str) -> None:
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
