"""The events that an outbox still has to send, as tables beside `events` in its SQLite file.

`events` waits in order; `held` waits for its lane to be tried again; `dead` will never be taken.
No threads here and no network.
"""

import json
import sqlite3
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from pixel_middleware.events import Event
from pixel_middleware.sinks.sqlite import COLUMNS, SQLite

_AS_EVENTS = """
        id INTEGER PRIMARY KEY,
        received_at TEXT NOT NULL,
        type TEXT NOT NULL,
        write_key TEXT NOT NULL,
        message_id TEXT NOT NULL,
        event TEXT NOT NULL
"""

TABLES = (
    f"CREATE TABLE IF NOT EXISTS held ({_AS_EVENTS}, lane TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS held_by_lane ON held (lane, id)",
    "CREATE TABLE IF NOT EXISTS holds (lane TEXT PRIMARY KEY, retry_at REAL NOT NULL, reason TEXT NOT NULL)",
    f"CREATE TABLE IF NOT EXISTS dead ({_AS_EVENTS}, reason TEXT NOT NULL, buried_at REAL NOT NULL)",
)

LONGEST_HOLD_S = 3600.0  # a hold that ends later than this was made before the clock was set back


class Waiting(NamedTuple):
    """An event and its place in the queue."""

    id: int
    event: Event


class Backlog:
    """What waits in the file of `store`. Every method is one transaction and raises `StorageError`."""

    def __init__(self, store: SQLite) -> None:
        self._store = store
        store.create(*TABLES)

    def head(self, limit: int) -> list[Waiting]:
        """The oldest events, in order."""
        return _as_waiting(self._store.read("SELECT id, event FROM events ORDER BY id LIMIT ?", limit))

    def head_of_lane(self, lane: str, limit: int) -> list[Waiting]:
        """The oldest events that are held in a lane, in order."""
        query = "SELECT id, event FROM held WHERE lane = ? ORDER BY id LIMIT ?"
        return _as_waiting(self._store.read(query, lane, limit))

    def holds(self) -> dict[str, str]:
        """The lanes that are on hold, and why."""
        return {str(lane): str(reason) for lane, reason in self._store.read("SELECT lane, reason FROM holds")}

    def lanes_to_retry(self) -> list[str]:
        """The lanes whose hold is over."""
        now = time.time()
        query = "SELECT lane FROM holds WHERE retry_at <= ? OR retry_at > ?"
        return [str(lane) for (lane,) in self._store.read(query, now, now + LONGEST_HOLD_S)]

    def done(self, sent: Sequence[Waiting]) -> None:
        """Forget what was delivered."""

        def forget(connection: sqlite3.Connection) -> None:
            _delete(connection, sent)

        self._store.transaction(forget)

    def set_aside(self, lane: str, waiting: Sequence[Waiting]) -> None:
        """Move events to their lane, behind those that are held there."""

        def move(connection: sqlite3.Connection) -> None:
            copy = f"INSERT INTO held (id, {COLUMNS}, lane) SELECT id, {COLUMNS}, ? FROM events WHERE id = ?"
            connection.executemany(copy, [(lane, one.id) for one in waiting])
            connection.executemany("DELETE FROM events WHERE id = ?", [(one.id,) for one in waiting])

        self._store.transaction(move)

    def hold(self, lane: str, seconds: float, reason: str) -> None:
        """Leave a lane alone for some time."""
        row = (lane, time.time() + min(seconds, LONGEST_HOLD_S), reason)
        self._store.transaction(lambda it: it.execute("INSERT OR REPLACE INTO holds VALUES (?, ?, ?)", row))

    def lift_hold(self, lane: str) -> None:
        """End a lane's hold, if nothing is held in it any more."""
        lift = "DELETE FROM holds WHERE lane = ? AND NOT EXISTS (SELECT 1 FROM held WHERE held.lane = holds.lane)"
        self._store.transaction(lambda it: it.execute(lift, (lane,)))

    def bury(self, one: Waiting, reason: str) -> None:
        """Move an event to the dead letters."""

        def move(connection: sqlite3.Connection) -> None:
            for table in ("events", "held"):
                copy = f"INSERT INTO dead SELECT id, {COLUMNS}, ?, ? FROM {table} WHERE id = ?"
                connection.execute(copy, (reason, time.time(), one.id))
            _delete(connection, [one])

        self._store.transaction(move)

    def requeue_dead(self) -> int:
        """Put all dead letters back at the end of the queue; how many there were."""

        def move(connection: sqlite3.Connection) -> int:
            connection.execute(f"INSERT INTO events ({COLUMNS}) SELECT {COLUMNS} FROM dead ORDER BY id")
            return connection.execute("DELETE FROM dead").rowcount

        return self._store.transaction(move)

    def dead(self, limit: int) -> list[dict[str, Any]]:
        """The newest dead letters: id, reason, buried_at (Unix time) and the event."""
        query = "SELECT id, reason, buried_at, event FROM dead ORDER BY id DESC LIMIT ?"
        names = ("id", "reason", "buried_at", "event")
        return [dict(zip(names, row, strict=True)) for row in self._store.read(query, limit)]

    def message_ids(self) -> set[str]:
        """The messageIds of all events that wait, are held or dead."""
        tables = " UNION ALL ".join(f"SELECT message_id FROM {table}" for table in ("events", "held", "dead"))
        return {str(message_id) for (message_id,) in self._store.read(tables)}

    def newest(self) -> int:
        """The id of the newest event there ever was; 0 before the first."""
        return self._number("SELECT seq FROM sqlite_sequence WHERE name = 'events'")

    def has_waiting_up_to(self, newest: int) -> bool:
        """Whether an event with this id or an older one is still to be sent."""
        query = "SELECT EXISTS (SELECT 1 FROM events WHERE id <= ?) OR EXISTS (SELECT 1 FROM held WHERE id <= ?)"
        return bool(self._number(query, newest, newest))

    def count_waiting(self) -> int:
        """How many events are still to be sent; at most a batch too many while one is under way."""
        # Ids have no gaps but in the batch under way, and a count of all rows reads the whole file.
        in_order = self._number("SELECT max(id) - min(id) + 1 FROM events")
        return in_order + self._number("SELECT count(*) FROM held")

    def count_dead(self) -> int:
        """How many dead letters there are."""
        return self._number("SELECT count(*) FROM dead")

    def oldest_received_at(self) -> str | None:
        """The `receivedAt` of the oldest event that is still to be sent."""
        in_order = "SELECT received_at FROM events WHERE id = (SELECT min(id) FROM events)"
        held = "SELECT received_at FROM held WHERE id = (SELECT min(id) FROM held)"
        ((oldest,),) = self._store.read(f"SELECT min(received_at) FROM ({in_order} UNION ALL {held})")
        return None if oldest is None else str(oldest)

    def _number(self, query: str, *parameters: object) -> int:
        rows = self._store.read(query, *parameters)
        return int(str(rows[0][0] or 0)) if rows else 0


def _as_waiting(rows: list[tuple[object, ...]]) -> list[Waiting]:
    return [Waiting(int(str(id_)), json.loads(str(event))) for id_, event in rows]


def _delete(connection: sqlite3.Connection, waiting: Sequence[Waiting]) -> None:
    ids = [(one.id,) for one in waiting]
    for table in ("events", "held"):
        connection.executemany(f"DELETE FROM {table} WHERE id = ?", ids)
