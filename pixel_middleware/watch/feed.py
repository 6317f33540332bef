"""The latest requests, page by page: those that a process answered, or those that an event log's file has."""

import hashlib
import heapq
import os
import re
import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple
from wsgiref.types import WSGIEnvironment

from pixel_middleware.outcomes import Outcome
from pixel_middleware.runtime import forks
from pixel_middleware.runtime.threads import offload
from pixel_middleware.sinks import refusals
from pixel_middleware.sinks.eventlog import EventLog
from pixel_middleware.watch.entries import Entry, Wanted, of_event, of_refusal, of_stored

CHART_S = 60  # how many seconds the chart shows
MOST_KEPT = 4 << 20  # bytes of all entries of a process
MOST_SENT = 56 << 10  # bytes of the entries in one answer, which is 64 KiB at most: a socket takes that from a worker
# at once, whether the viewer reads or not
MOST_READ = 20  # rows in memory at once, of 64 KiB at most
MOST_COUNTED = 20_000  # rows that a file is asked for at once, for the chart: some 20 ms

_CURSOR = re.compile(r"([0-9a-f]{1,40})-([0-9]{1,15})-([0-9]{1,15})")


class Cursor(NamedTuple):
    """Where a page begins: after these, by their numbers."""

    run: str
    """Of a process, or of a file; after a reset, another one."""
    event: int
    refusal: int = 0
    """Always 0 in a process, which numbers all requests alike."""

    @classmethod
    def read(cls, text: str) -> "Cursor | None":
        """A cursor of its text; `None` if it is none."""
        match = _CURSOR.fullmatch(text)
        return match and cls(match[1], int(match[2]), int(match[3]))

    def __str__(self) -> str:
        """For a URL."""
        return f"{self.run}-{self.event}-{self.refusal}"


class Page(NamedTuple):
    """Entries, the oldest first, each as a JSON object."""

    entries: list[bytes]
    cursor: Cursor
    """Where the next page begins."""
    is_start: bool
    """Whether it is the first of all: the cursor that was given is of another run, or none was."""
    has_more: bool
    """Whether the next page is there already."""


class ProcessFeed(forks.ForkAware):
    """The latest `size` requests that this process has answered, in 4 MiB at most. Thread-safe, fork-safe."""

    source = "process"

    def __init__(self, size: int) -> None:
        self.after_fork_in_child()
        self._size = size
        self._entries: deque[tuple[int, Entry]] = deque()
        self._last = 0
        self.reset()
        forks.watch(self)

    def reset(self) -> None:
        """Forget all."""
        with self._lock:
            self._made = secrets.token_hex(8)
            self._entries.clear()
            self._bytes = self._total = 0
            self._seconds: dict[int, dict[str, int]] = {}

    def add(self, outcome: Outcome, environ: WSGIEnvironment) -> None:
        """Never fails: the sink may have the event, so that its client must read 200."""
        now = time.time()
        entry = of_event(now, outcome.event) if outcome.describe is None else of_refusal(outcome.describe(environ))
        with self._lock:
            self._last += 1
            self._total += 1
            self._entries.append((self._last, entry))
            self._bytes += len(entry.line)
            while self._bytes > MOST_KEPT or len(self._entries) > self._size:
                self._bytes -= len(self._entries.popleft()[1].line)
            _count(self._seconds, int(now), outcome.name)
            _forget_far(self._seconds, int(now))

    def mark(self) -> object:
        """Differs from an earlier one if something may have come since."""
        return self._last

    def since(self, after: Cursor | None, wanted: Wanted) -> Page:
        """The next page; the first one if there is no cursor, or another run's."""
        with self._lock:
            run = f"{self._made}{os.getpid():x}"  # numbers begin anew in each process, forked ones too
            is_start = after is None or after.run != run
            last = 0 if after is None or is_start else after.event
            page: list[bytes] = []
            size = 0
            has_more = False
            for number, entry in self._entries:
                if number > last and wanted.matches(entry):
                    size += len(entry.line) + 32
                    if size > MOST_SENT:
                        has_more = True
                        break
                    page.append(b'{"id":"request-%d",%s' % (number, entry.line))
                last = max(last, number)
            return Page(page, Cursor(run, last), is_start, has_more)

    def overview(self) -> dict[str, Any]:
        """How many there were, in all and in each of the last seconds."""
        with self._lock:
            return {"total": self._total, "seconds": {second: dict(each) for second, each in self._seconds.items()}}

    def after_fork_in_child(self) -> None:
        """A thread of the parent may have had the lock."""
        self._lock = threading.Lock()


class LogFeed(forks.ForkAware):
    """The latest events and refusals in the file of `log`, `size` of each: whichever process answered them.

    All methods but `add` raise `StorageError`. Thread-safe, fork-safe.
    """

    source = "log"

    def __init__(self, log: EventLog, size: int) -> None:
        self._log = log
        self._store = log.file
        self._size = size
        self._run = ""
        self._counted: int | None = None
        self._seconds: dict[int, dict[str, int]] = {}
        self.after_fork_in_child()
        forks.watch(self)

    def reset(self) -> None:
        """Show no more of what the file has now, in any process. The events and refusals stay in the file."""

        def move(connection: sqlite3.Connection) -> None:
            values = (secrets.token_hex(8), *_newest(connection.execute(_NEWEST).fetchall()))
            connection.execute("INSERT OR REPLACE INTO feed VALUES (1, ?, ?, ?)", values)

        offload(lambda: self._store.write(move))

    def add(self, outcome: Outcome, environ: WSGIEnvironment) -> None:
        """An event is in the file; see that a refusal will be, within a second. Never fails."""
        if outcome.describe is not None and outcome.told != self._log.refused:
            self._log.refused(outcome.describe(environ))

    def mark(self) -> object:
        """Differs from an earlier one if something may have come since."""
        return self._store.change_mark()

    def since(self, after: Cursor | None, wanted: Wanted) -> Page:
        """The next page; the first one if there is no cursor, or another run's."""
        hidden, newest = self._bounds()
        is_start = (
            after is None or after.run != newest.run or after.event > newest.event or after.refusal > newest.refusal
        )
        begin = hidden if after is None or is_start else after
        # Who is too far behind goes on where the latest begin.
        event = max(begin.event, newest.event - self._size)
        refusal = max(begin.refusal, newest.refusal - self._size)
        page: list[bytes] = []
        size = 0
        rows = heapq.merge(
            self._events(event, newest.event, wanted), self._refusals(refusal), key=lambda row: row[2].at
        )
        for kind, id_, entry in rows:
            if wanted.matches(entry):
                size += len(entry.line) + 32
                if size > MOST_SENT:
                    return Page(page, Cursor(newest.run, event, refusal), is_start, True)
                page.append(b'{"id":"%s-%d",%s' % (kind.encode(), id_, entry.line))
            event, refusal = (id_, refusal) if kind == "event" else (event, id_)
        return Page(page, Cursor(newest.run, max(event, newest.event), refusal), is_start, False)

    def overview(self) -> dict[str, Any]:
        """How many there are, and how many came in each of the last seconds; of refusals, what was kept."""
        hidden, newest = self._bounds()
        query = "SELECT (SELECT min(id) FROM events WHERE id > ?), (SELECT count(*) FROM refusals WHERE id > ?)"
        ((oldest, refused),) = self._store.read(query, hidden.event, hidden.refusal)
        now = int(time.time())
        with self._lock:
            seconds = self._accepted(hidden, newest, now)
        query = "SELECT CAST(at AS INTEGER), kind, count(*) FROM refusals WHERE id > ? AND at > ? GROUP BY 1, 2"
        for second, kind, count in self._store.read(query, hidden.refusal, now - CHART_S):
            _count(seconds, second, kind, count)
        total = 0 if oldest is None else newest.event - oldest + 1
        return {"total": total + refused, "seconds": seconds}

    def after_fork_in_child(self) -> None:
        """A thread of the parent may have had the lock."""
        self._lock = threading.Lock()

    def _accepted(self, hidden: Cursor, newest: Cursor, now: int) -> dict[int, dict[str, int]]:
        """The events of the last seconds: each row is read once, by each process that is looked at."""
        if self._run != newest.run:
            self._run, self._counted, self._seconds = newest.run, None, {}
        counted = hidden.event if self._counted is None else self._counted
        first = max(counted, newest.event - MOST_COUNTED)
        if self._counted is not None and first > counted:  # more than can be looked at: they came just now
            _count(self._seconds, now, "accepted", first - counted)
        query = "SELECT unixepoch(received_at), count(*) FROM events WHERE id > ? AND id <= ? GROUP BY 1"
        for second, count in self._store.read(query, first, newest.event):
            if second is not None:
                _count(self._seconds, second, "accepted", count)
        self._counted = newest.event
        _forget_far(self._seconds, now)
        return {second: dict(counts) for second, counts in self._seconds.items()}

    def _bounds(self) -> tuple[Cursor, Cursor]:
        """What is not shown since a reset, and the newest."""
        reset = "SELECT generation, event, refusal FROM feed"
        ((generation, event, refusal),) = self._store.read(reset) or [("", 0, 0)]
        run = hashlib.sha256(f"{self._store.identity_at_path()} {generation}".encode()).hexdigest()[:16]
        return Cursor(run, event, refusal), Cursor(run, *_newest(self._store.read(_NEWEST)))

    def _events(self, after: int, up_to: int, wanted: Wanted) -> Iterator[tuple[str, int, Entry]]:
        query = "SELECT id, received_at, substr(event, 1, 65537), name FROM events WHERE id > ? AND id <= ? ORDER BY id"
        while wanted.reason is None and (rows := self._store.read(f"{query} LIMIT {MOST_READ}", after, up_to)):
            for after, *columns in rows:
                yield "event", after, of_stored(*columns)

    def _refusals(self, after: int) -> Iterator[tuple[str, int, Entry]]:
        while rows := refusals.after(self._store, after, MOST_READ):
            for after, refusal in rows:
                yield "refusal", after, of_refusal(refusal)


_NEWEST = "SELECT name, seq FROM sqlite_sequence"  # which knows them also when they are deleted


def _newest(rows: list[tuple[str, int]]) -> tuple[int, int]:
    ids = dict(rows)
    return ids.get("events", 0), ids.get("refusals", 0)


def _count(seconds: dict[int, dict[str, int]], second: int, outcome: str, count: int = 1) -> None:
    counts = seconds.setdefault(second, {})
    counts[outcome] = counts.get(outcome, 0) + count


def _forget_far(seconds: dict[int, dict[str, int]], now: int) -> None:
    for far in [each for each in seconds if abs(now - each) >= CHART_S]:  # some logs have events of years to come
        del seconds[far]
