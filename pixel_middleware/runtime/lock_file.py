"""A lock file whose bytes are locks among processes.

They are POSIX record locks: the kernel frees them when their holder dies, and no fork inherits them. But closing any
descriptor of the file drops all that the process holds, so a process has one object for a file.
"""

import fcntl
import os
import weakref
from contextlib import suppress
from typing import Any, ClassVar, Self

from pixel_middleware.runtime import forks
from pixel_middleware.runtime.threads import native_lock, native_rlock


class LockFile(forks.ForkAware):
    """Byte 0 is the turn to use the file that this one guards; other bytes are claims, each held by one owner.

    Get it by `at(path)`. The file is made (0600) when it is first needed. A lock file that was removed or replaced is
    noticed, and the locks are taken anew. Thread-safe; after a fork the child holds nothing.
    """

    _by_path: ClassVar["weakref.WeakValueDictionary[str, LockFile]"] = weakref.WeakValueDictionary()
    _finding: ClassVar[Any] = native_lock()

    _fd: int | None = None

    def __init__(self, path: str) -> None:
        self._path = path
        self.after_fork_in_child()
        forks.watch(self)

    @classmethod
    def at(cls, path: str) -> Self:
        """This process's one object for the lock file at `path`."""
        path = os.path.realpath(path)
        with cls._finding:
            found: Any = cls._by_path.get(path)
            if found is None:
                found = cls._by_path[path] = cls(path)
            return found  # type: ignore[no-any-return]

    def take_turn(self, wait: bool) -> bool:
        """Take byte 0, before all other threads and processes; whether it was had. Without `wait`, only if at once.

        It is not had by a thread that has it already: a signal handler that came in between. Who calls it must call
        `end_turn` in a `finally` around the call, since such a handler may raise anywhere. Raises `OSError` if the lock
        file cannot be opened.
        """
        forks.notice(self)
        turn = self._turn
        if wait:
            self._waiting.append(turn)
            try:
                turn.acquire()
            finally:
                self._waiting.pop()
        elif self._waiting or not turn.acquire(False):  # who asks again and again must not starve those who wait
            return False
        return self._lock(0, wait)

    def has_turn(self) -> bool:
        """Whether this thread has the turn."""
        forks.notice(self)
        return bool(self._turn._is_owned())

    def end_turn(self) -> None:
        """Let the next one have its turn, if this thread has it."""
        if self._turn._is_owned():
            try:
                if self._fd is not None:
                    fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, 0)
            finally:
                self._turn.release()

    def claim(self, byte: int, owner: object) -> bool:
        """Whether `owner` holds this byte now: it did already, or nobody does. Never waits. Raises `OSError`."""
        forks.notice(self)
        with self._claiming:
            if self._owners.get(byte, owner) is not owner or not self._lock(byte, wait=False):
                return False
            self._owners[byte] = owner
            return True

    def release(self, byte: int, owner: object) -> None:
        """Let go of a claim, if `owner` holds it."""
        with self._claiming:
            if self._owners.get(byte) is owner:
                del self._owners[byte]
                if self._fd is not None:  # pragma: no branch - or the file was deleted meanwhile
                    fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, byte)

    def close(self) -> None:
        """Close the file, unless somebody here holds a byte of it; the next use opens it again."""
        forks.notice(self)
        with self._claiming:
            if not self._owners and self._turn.acquire(False):
                with self._opening:
                    fd, self._fd = self._fd, None
                    if fd is not None:
                        os.close(fd)
                self._turn.release()

    def _lock(self, byte: int, wait: bool) -> bool:
        while True:
            with self._opening:
                if self._fd is None:
                    self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                    self._status = os.fstat(self._fd)
                fd = self._fd
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
            except (BlockingIOError, PermissionError):
                return False
            if self._is_at_path(fd):
                return True

    def _is_at_path(self, fd: int) -> bool:
        """Whether the file is still the one at the path; if not, it is closed, and all that it locked is free."""
        with suppress(FileNotFoundError):
            if os.path.samestat(self._status, os.stat(self._path)):
                return True
        with self._opening:
            if self._fd == fd:  # pragma: no branch - another thread may have been first
                os.close(fd)
                self._fd = None
        return False

    def after_fork_in_child(self) -> None:
        """The descriptor stays: what it locks is by process."""
        self._turn = native_rlock()
        self._waiting: list[object] = []
        self._claiming = native_lock()
        self._opening = native_lock()
        self._owners: dict[int, object] = {}

    def __del__(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
