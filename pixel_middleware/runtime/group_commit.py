"""Many records made durable by one commit, whether threads or event loops bring them.

A flush to disk costs the same for one record as for thirty. A record that comes alone is committed by its own thread;
those that come while a commit is under way wait, as do all of an event loop, and one thread commits for all of them. It
belongs to no request: whoever is interrupted while waiting owes nothing to the others.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from pixel_middleware.errors import StorageError
from pixel_middleware.runtime import forks, tickets
from pixel_middleware.runtime.threads import LONGEST_WAIT_S, Signal, native_lock, offload, threads_are_greenlets
from pixel_middleware.runtime.tickets import Done, LoopTicket, ThreadTicket, Ticket

T = TypeVar("T")

WAIT_S = 5.0  # for a turn; less than what servers and browsers wait for an answer
MOST_WAITING = 1024  # when a loop brings another one; threads that wait are as many as the server has
_END_S = 60.0  # for the end of a commit that has begun, which may have stored the record


class Busy(Exception):
    """The file cannot be had just now, and nothing was taken."""


class Shared(Protocol[T]):
    """A file that threads and processes write in turns."""

    def take_turn(self, wait: bool) -> bool:
        """Take the file for this thread, as `LockFile.take_turn`."""

    def has_turn(self) -> bool:
        """Whether this thread has it."""

    def end_turn(self) -> None:
        """Let the next one have it, if this thread has it."""

    def commit(self, take: Callable[[], list[Ticket[T]]]) -> None:
        """Begin, call `take` once for the tickets, and store them; a ticket that fails alone has its `error` set.

        Raises `Busy` before `take` was called, or what made them all fail.
        """


class GroupCommit(forks.ForkAware, Generic[T]):
    """Turns concurrent `put(record)` calls into few commits, in order of arrival. Thread-safe, fork-safe."""

    _waiting: list[Ticket[T]]
    _has_committer: bool

    def __init__(self, shared: Shared[T], name: str) -> None:
        self._shared = shared
        self._name = name
        self.after_fork_in_child()
        forks.watch(self)

    def put(self, record: T) -> None:
        """Return when `record` is committed. Raises `StorageError`: it is not stored."""
        forks.notice(self)
        ticket = ThreadTicket(record)
        if self._waiting or threads_are_greenlets() or not self._commit_alone(ticket):
            self._wait_in_line(ticket)
        if (failure := ticket.failure()) is not None:
            raise failure

    def put_soon(self, record: T, done: Done) -> None:
        """`put` for an event loop: return at once, and call `done(error)` in it, with `None` once it is committed.

        Raises `StorageError` if `MOST_WAITING` wait already, or there is no thread to be had to commit; then `done` is
        not called.
        """
        forks.notice(self)
        if len(self._waiting) >= MOST_WAITING:
            raise StorageError(f"{self._name}: {MOST_WAITING:,} wait for it already")
        ticket = LoopTicket(record, done)
        if not self._has_committer and not self._start_committer():
            raise StorageError(f"{self._name}: there is no thread to be had")
        ticket.after(WAIT_S, self._give_up, ticket)
        with self._line:
            self._waiting.append(ticket)
        self._news.set()

    def _give_up(self, ticket: LoopTicket[T]) -> None:
        """A loop's ticket has waited for `WAIT_S`."""
        if self._leave_line(ticket):
            ticket.settle(self._too_late())
        else:  # its commit has begun, and may store it
            ticket.after(_END_S, ticket.settle, self._no_end())

    def _commit_alone(self, ticket: ThreadTicket[T]) -> bool:
        """Commit in this thread, if the file is free; whether that was done."""
        if self._shared.has_turn():  # a signal handler that came in between
            return False
        try:
            return self._shared.take_turn(wait=False) and self._commit(lambda: [ticket])
        except OSError as error:
            raise StorageError(str(error)) from error
        finally:
            self._shared.end_turn()

    def _commit(self, take: Callable[[], list[Ticket[T]]]) -> bool:
        """Commit what `take` gives, in this thread, whose turn it is; whether the file could be had."""
        taken: list[Ticket[T]] = []

        def take_once() -> list[Ticket[T]]:
            taken.extend(take())
            return taken

        error: BaseException | None = None
        try:
            self._shared.commit(take_once)
        except Busy as busy:
            self._trouble = str(busy)
            return False
        except Exception as failure:
            error = failure
        except BaseException as interruption:  # of this thread; the others must not wait for ever
            error = interruption
            raise
        finally:
            tickets.end(taken, error)
        if error is not None and not taken:
            raise error
        return True

    def _wait_in_line(self, ticket: ThreadTicket[T]) -> None:
        deadline = time.monotonic() + WAIT_S
        if not self._has_committer and not self._start_committer():
            while not self._commit_alone(ticket):
                if time.monotonic() > deadline:
                    raise self._too_late()
                time.sleep(0.005)
            return
        with self._line:
            self._waiting.append(ticket)
        try:
            self._news.set()
            while not ticket.end.acquire(timeout=max(0.0, deadline - time.monotonic())):
                if self._leave_line(ticket):
                    raise self._too_late()
                # Its commit has begun, and may store it: only its end can tell.
                if not ticket.end.acquire(timeout=_END_S):
                    raise self._no_end()
                break
        except BaseException:
            self._leave_line(ticket)
            raise

    def _too_late(self) -> StorageError:
        return StorageError(f"{self._name} could not be had within {WAIT_S:g} s: {self._trouble or 'it is locked'}")

    def _no_end(self) -> StorageError:
        return StorageError(f"{self._name}: a commit has not ended for {_END_S:g} s")

    def _leave_line(self, ticket: Ticket[T]) -> bool:
        """Take a ticket back; whether it was still waiting, and so is not stored."""
        with self._line:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                return True
            return False

    def _take_all(self) -> list[Ticket[T]]:
        with self._line:
            taken, self._waiting = self._waiting, []
            return taken

    def _start_committer(self) -> bool:
        with self._line:
            if self._has_committer:
                return True
            self._news = Signal(threading.Lock())
            try:
                threading.Thread(target=self._work, args=(self._news,), name="pixel-commit", daemon=True).start()
            except RuntimeError:  # there is no thread to be had
                return False
            self._has_committer = True
            return True

    def _work(self, news: Signal) -> None:
        while True:
            news.wait(LONGEST_WAIT_S)
            while self._waiting:
                try:
                    offload(self._commit_waiting)
                except Exception as error:
                    tickets.end(self._take_all(), error)

    def _commit_waiting(self) -> None:
        try:
            self._shared.take_turn(wait=True)
            self._commit(self._take_all)
        finally:
            self._shared.end_turn()

    def after_fork_in_child(self) -> None:
        """Those who wait are the parent's threads, and so is who commits for them."""
        self._line = native_lock()  # never held while waiting for anything
        self._waiting = []
        self._has_committer = False
        self._trouble = ""
        self._news = Signal()
