"""A durable sink: events are on disk before the client reads 200, ready for queries, and sent on to destinations.

from pixel_middleware import PixelMiddleware
from pixel_middleware.destinations import RudderStack
from pixel_middleware.sinks import EventLog

log = EventLog("events.db", {"rudderstack": RudderStack("https://hosted.rudderlabs.com")})
app = PixelMiddleware(app, log)

$ sqlite3 events.db "SELECT received_at, name, visitor, event ->> '$.context.page.url' FROM events"
"""

import atexit
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from pixel_middleware import checks
from pixel_middleware.destinations.base import Destination
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.events import Event, Refusal, columns_of, never_waits, timestamp, to_json
from pixel_middleware.runtime import forks
from pixel_middleware.runtime.group_commit import GroupCommit
from pixel_middleware.runtime.threads import offload
from pixel_middleware.runtime.tickets import Ticket
from pixel_middleware.sinks import interventions, kept_secrets
from pixel_middleware.sinks.carrier import Carrier
from pixel_middleware.sinks.counts import Cause, Counts
from pixel_middleware.sinks.refusals import Refusals
from pixel_middleware.sinks.retention import Retention
from pixel_middleware.sinks.stats import LogStats, stats
from pixel_middleware.sinks.store import Store

EXIT_S = 5.0  # how long an exit waits for the batches under way; nothing depends on it
PROBE_BYTES = 16384  # more than a usual event: it fails before all are refused

_INSERT = (
    "INSERT INTO events (received_at, type, write_key, message_id, visitor, name, event) VALUES (?, ?, ?, ?, ?, ?, ?)"
)

_Row = tuple[str, str, str, str, str, str, str]


class EventLog:
    """A sink that appends each event to the SQLite file at `path`, from where couriers send it to `destinations`.

    A call returns when the event is committed and flushed; threads share a commit, and any number of processes may
    share the file. Each destination, by its name, has a position in the log: one dead destination holds back no other.
    A destination that is seen for the first time starts at the end of the log; `rewind` sends it history too.

    Args:
        path: the file, on a local disk: not for NFS.
        destinations: where to send the events, by name.
        max_bytes: of the file. What every destination has goes when room is needed; an event is refused (503) if
            nothing may go. `None`: 1 GiB with destinations, and without them only the disk is a bound.
        keep_days: events older than this go, once they are delivered. `None`: they stay while there is room.
        batch_size: how many events a destination gets at once, at most.
        retry_min_s, retry_max_s: the bounds of the wait after a failure; it doubles, with jitter.

    Raises `ConfigurationError`, or `StorageError` if the file cannot be used. Thread-safe, fork-safe.

    New in 0.1.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        destinations: Mapping[str, Destination] | None = None,
        *,
        max_bytes: int | None = None,
        keep_days: float | None = None,
        batch_size: int = 500,
        retry_min_s: float = 0.5,
        retry_max_s: float = 30.0,
    ) -> None:
        destinations = _checked_destinations(destinations)
        if max_bytes is not None:
            checks.as_number("max_bytes", max_bytes, least=65536)
        if keep_days is not None:
            checks.as_days("keep_days", keep_days)
        checks.as_number("batch_size", batch_size, least=1)
        if not (
            checks.is_number(retry_min_s, 0) and checks.is_number(retry_max_s, 0) and 0 < retry_min_s <= retry_max_s
        ):
            raise ConfigurationError.must_be(
                "retry_min_s", f"above 0 and at most retry_max_s, {retry_max_s!r}", retry_min_s
            )
        self._store = Store(path, self._on_new_file)
        self._retention = Retention(self._store.path, max_bytes, keep_days, destinations)
        self._rows: GroupCommit[list[_Row]] = GroupCommit(_Rows(self._store, self._retention), self._store.path)
        self._carriers = {
            name: Carrier(
                self._store,
                self._retention,
                name,
                destination,
                batch_size=batch_size,
                retry_min_s=retry_min_s,
                retry_max_s=retry_max_s,
            )
            for name, destination in destinations.items()
        }
        self._refusals = Refusals(self._store)
        self._counts = Counts(self._store)
        try:
            self._store.write(self._retention.trim_old if self._retention.may_trim_old() else lambda connection: None)
            for carrier in self._carriers.values():
                if carrier.positions.needs_claim():
                    self._store.write(carrier.positions.claim)
        finally:  # or a process that forks at once would inherit them
            for carrier in self._carriers.values():
                carrier.positions.close()
            self._store.close()
        _live.add(self)

    def __call__(self, event: Event) -> None:
        """Return once the event is on disk. Raises `StorageError`, or what JSON cannot hold: it is not stored."""
        self._rows.put([_row(event)])
        self._wake()

    def put_soon(self, event: Event, done: Callable[[Exception | None], object]) -> None:
        """For an event loop, which is not held up: return at once, and have `done(error)` called in it.

        The error is `None` once the event is on disk, and what a call would have raised if it is not stored. Raises at
        once, and `done` is not called, for what JSON cannot hold, or `StorageError` if 1,024 events wait already.
        """

        def tell(error: Exception | None) -> None:
            if error is None:
                self._wake()
            done(error)

        self._rows.put_soon([_row(event)], tell)

    def put_many(self, events: Iterable[Event]) -> None:
        """Return once all events are on disk, by one commit. Raises like a call: none is stored."""
        self._rows.put([_row(event) for event in events])
        self._wake()

    def probe(self) -> None:
        """Return if an event of up to `PROBE_BYTES` would be stored now. Raises `StorageError`, as a call would."""

        def try_one(connection: sqlite3.Connection) -> None:
            # Nobody sees it: it is gone before the commit. Its id takes none of those that are counted up.
            connection.execute("INSERT INTO events VALUES (-1, '', '', '', '', '', '', ?)", (" " * PROBE_BYTES,))
            self._retention.make_room(connection, PROBE_BYTES)
            connection.execute("DELETE FROM events WHERE id = -1")

        offload(lambda: self._store.write(try_one))

    def start(self) -> None:
        """Have this process carry, if no other does: `PixelMiddleware` calls it, and so does the first event."""
        if self._carriers:
            forks.after_uwsgi_fork(self.start)
            for carrier in self._carriers.values():
                carrier.start()

    @never_waits
    def refused(self, refusal: Refusal) -> None:
        """Keep a request that was refused: for `PixelMiddleware(app, log, refused=log.refused)`.

        The newest 1,000 are kept, and at most 100 a second. They are written within a second, by a thread of their
        own; it costs the request next to nothing, and never fails.
        """
        self._refusals.add(refusal)

    def keep_counts(self, totals: Callable[[], Mapping[Cause, int]]) -> Callable[[], object]:
        """Add what a process counts to the file, within a second, off the request's path.

        `PixelMiddleware` does so if the log is its sink. `totals()` is how often there was which outcome and reason in
        this process; what is returned is to be called when that has changed.
        """
        return self._counts.keep(totals)

    def counts(self) -> dict[Cause, int]:
        """How many requests had which outcome and reason, in all processes since the file was made.

        Raises `StorageError`.
        """
        rows = self._store.read("SELECT outcome, reason, count FROM counts ORDER BY outcome, reason")
        return {(outcome, reason): count for outcome, reason, count in rows}

    def flush(self, timeout_s: float) -> bool:
        """Wait until what the log holds now is delivered to all destinations, or dead; whether it was, in that time."""
        self.start()
        deadline = time.monotonic() + timeout_s
        ((newest,),) = self._store.read("SELECT coalesce(max(id), 0) FROM events")
        is_behind = (
            "SELECT EXISTS (SELECT 1 FROM destinations WHERE name = ? AND position < ?) "
            "OR EXISTS (SELECT 1 FROM setbacks WHERE destination = ? AND state = 'held' AND id <= ?)"
        )
        while True:
            self._wake()
            if not any(self._store.read(is_behind, name, newest, name, newest)[0][0] for name in self._carriers):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)

    def rewind(self, name: str, since: datetime | str | None = None) -> int:
        """Send a destination the whole log again, or what it holds since a moment; how many events that are.

        `since` is compared with `receivedAt`: an aware datetime, or such a text. Raises `StorageError` if the file
        knows no destination of this name.
        """
        if isinstance(since, datetime):
            if since.tzinfo is None:
                raise ConfigurationError("since", "since must have a time zone; add tzinfo=UTC, or what it is in")
            since = timestamp(since.astimezone(UTC))
        count = offload(lambda: interventions.rewind(self._store, name, since))
        self._wake()
        return count

    def drop(self, name: str) -> None:
        """Forget a destination: it gets nothing more, and pins nothing. Raises `StorageError` if there is none such."""
        offload(lambda: interventions.drop(self._store, name))

    def read(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The rows of an SQL query of yours, which cannot write. Raises `StorageError`."""
        return self._store.read(query, *parameters)

    def secret(self, name: str) -> str:
        """A secret that the file keeps under this name; see `kept_secrets.secret`. Raises `StorageError`."""
        return offload(lambda: kept_secrets.secret(self._store, name))

    @property
    def file(self) -> Store:
        """The file, for who looks into it beside the log."""
        return self._store

    def message_ids(self) -> set[str]:
        """The messageIds of all events in the file."""
        return {message_id for (message_id,) in self._store.read("SELECT message_id FROM events")}

    def stats(self) -> LogStats:
        """What the log holds, and how its destinations are doing. Raises `StorageError`."""
        return stats(self._store, {name for name, carrier in self._carriers.items() if carrier.carries})

    def close(self, timeout_s: float = EXIT_S) -> None:
        """Stop carrying after the batches under way, and close the file. Another event opens it again."""
        deadline = time.monotonic() + timeout_s
        for carrier in self._carriers.values():
            carrier.stop(max(0.0, deadline - time.monotonic()))
        self._refusals.stop(max(0.0, deadline - time.monotonic()))
        self._counts.stop(max(0.0, deadline - time.monotonic()))
        self._store.close()

    def _on_new_file(self, connection: sqlite3.Connection) -> None:
        self._retention.start_over()
        for carrier in self._carriers.values():
            carrier.positions.claim(connection)

    def _wake(self) -> None:
        for carrier in self._carriers.values():
            carrier.start()
            carrier.wake()


class _Rows:
    """The table of events, as a group commit writes it: a record is a list of rows, stored all or none."""

    def __init__(self, store: Store, retention: Retention) -> None:
        self._store = store
        self._retention = retention
        self.take_turn = store.take_turn
        self.has_turn = store.has_turn
        self.end_turn = store.end_turn

    def commit(self, take: Callable[[], list[Ticket[list[_Row]]]]) -> None:
        def insert(connection: sqlite3.Connection) -> None:
            tickets = take()
            rows = [row for ticket in tickets for row in ticket.record]
            connection.executemany(_INSERT, rows)
            self._retention.make_room(connection, sum(len(row[6]) + 200 for row in rows))

        self._store.transact(insert, durable=True)


def _row(event: Event) -> _Row:
    """The columns of an event. Raises `TypeError` or `ValueError` for what cannot be stored."""
    row: _Row = (*columns_of(event), to_json(event))
    for column in row:
        if not isinstance(column, str):
            raise TypeError("receivedAt, type, writeKey, messageId, the ids and the name of an event must be text")
    if not row[-1].isascii():  # the JSON, which holds what the other columns do
        row[-1].encode()  # raises for half of a surrogate pair, before it fails the commit that others share
    return row


def _checked_destinations(given: Any) -> dict[str, Destination]:
    if not isinstance(given, Mapping | None):
        raise ConfigurationError.must_be(
            "destinations", 'a mapping of names to destinations, like {"lake": Kafka(...)}', given
        )
    for name, destination in (given or {}).items():
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 100:
            raise ConfigurationError.must_be("a destination's name", "text of 1 to 100 printable characters", name)
        if not isinstance(destination, Destination):
            raise ConfigurationError.must_be(
                "destinations", f"of the class Destination, {name!r} too", type(destination).__name__
            )
        rate = destination.max_per_second
        if rate is not None and not (checks.is_number(rate, 0) and rate > 0):
            raise ConfigurationError.must_be("max_per_second", "None or a number of events, above 0", rate)
    return dict(given or {})


_live: "weakref.WeakSet[EventLog]" = weakref.WeakSet()

atexit.register(lambda: [*map(EventLog.close, list(_live))])
