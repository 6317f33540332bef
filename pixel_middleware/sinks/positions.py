"""How far each destination of an event log has come, in the log's file: positions, setbacks and lanes.

A destination's position is an id: all events up to it are delivered, or are its setbacks. Transactions and reads alone;
what becomes of events is decided in `courier`.
"""

import os
import sqlite3
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from pixel_middleware.destinations.base import Record
from pixel_middleware.sinks.reader import Reader
from pixel_middleware.sinks.retention import UNCLAIMED_S, Retention
from pixel_middleware.sinks.store import Store

COLUMNS = "id, received_at, type, write_key, message_id, visitor, name, event"

MOST_LANES = 10_000  # rows a destination
OTHERS = "\0others"  # the lane of all that are too many to have a row each
LATEST_HOLD_S = 3600.0  # a hold that ends later than this was made before the clock was set back

_E = ", ".join(f"e.{column}" for column in COLUMNS.split(", "))
_HELD = f"SELECT {_E} FROM setbacks s JOIN events e ON e.id = s.id WHERE s.destination = ? AND s.state = 'held'"

_DEAD = (
    f"SELECT s.lane, s.reason, {_E} FROM setbacks s JOIN events e ON e.id = s.id "
    "WHERE s.destination = ? AND +s.state = 'dead'"  # the plus: by id, where the index by lane would have to be sorted
)

Statement = tuple[str, tuple[Any, ...]]


@dataclass
class Lane:
    """What is known of one lane of a destination."""

    accepted: bool = False
    """Whether an event of it was ever taken."""
    retry_at: float = 0.0
    """When it is tried next, if it is on hold (Unix time)."""
    hold_s: float = 0.0
    """How long the hold is, or the one before it; 0: it is not on hold."""
    reason: str = ""


class Positions:
    """The rows of one destination in the file of `store`. Every method raises `StorageError`."""

    def __init__(self, store: Store, retention: Retention, name: str) -> None:
        self._store = store
        self._reader = Reader(store.path)
        self._retention = retention
        self._name = name
        self.file: tuple[int, int] | None = None
        """The file that the position was read from; a copy of it has the same epoch."""

    def claim(self, connection: sqlite3.Connection) -> None:
        """See that the destination has a row: a new one starts at the end of the log."""
        row = connection.execute("SELECT claimed_at FROM destinations WHERE name = ?", (self._name,)).fetchone()
        if row is None:
            insert = "INSERT INTO destinations (name, position, epoch, claimed_at) VALUES (?, ?, ?, ?)"
            # A random epoch: no position of another file, or of a row that was dropped, can be taken for its own.
            epoch = int.from_bytes(os.urandom(6))
            connection.execute(insert, (self._name, last_id(connection), epoch, time.time()))
        elif not 0 <= time.time() - row[0] < UNCLAIMED_S / 100:
            update = "UPDATE destinations SET claimed_at = ? WHERE name = ?"
            connection.execute(update, (time.time(), self._name))

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._reader.close()

    def needs_claim(self) -> bool:
        """Whether `claim` would write: a restart on a full disk must work."""
        rows = self._reader.read("SELECT claimed_at FROM destinations WHERE name = ?", self._name)
        return not rows or not 0 <= time.time() - rows[0][0] < UNCLAIMED_S / 100

    def position_and_epoch(self) -> tuple[int, int] | None:
        """Where the destination is, and what changes when somebody else moves it; `None` if it was dropped."""
        rows = self._reader.read("SELECT position, epoch FROM destinations WHERE name = ?", self._name)
        self.file = self._reader.identity
        return (rows[0][0], rows[0][1]) if rows else None

    def lanes(self) -> dict[str, Lane]:
        """All lanes that matter: accepted once, or on hold."""
        query = "SELECT lane, accepted, retry_at, hold_s, reason FROM lanes WHERE destination = ?"
        return {
            lane: Lane(bool(accepted), retry_at, hold_s, reason)
            for lane, accepted, retry_at, hold_s, reason in self._reader.read(query, self._name)
        }

    def head(self, after: int, limit: int) -> list[Record]:
        """The oldest events behind the position `after`, in order."""
        return self._records(f"SELECT {COLUMNS} FROM events WHERE id > ? ORDER BY id LIMIT ?", after, limit)

    def newest(self, after: int, limit: int) -> list[Record]:
        """The newest events, newest first, of those behind the position `after`."""
        return self._records(f"SELECT {COLUMNS} FROM events WHERE id > ? ORDER BY id DESC LIMIT ?", after, limit)

    def held_in(self, lane: str, limit: int) -> list[Record]:
        """The oldest events that wait for this lane, in order."""
        query = f"{_HELD} AND s.attempts = 0 AND s.lane = ? ORDER BY s.id LIMIT ?"
        return self._records(query, self._name, lane, limit)

    def longest_held_in(self, lane: str, limit: int) -> list[Record]:
        """The events that wait for this lane and were not tried for the longest time."""
        which = (
            "SELECT id FROM setbacks WHERE destination = ? AND state = 'held' AND lane = ? AND attempts = 0 "
            "ORDER BY retry_at, id LIMIT ?"
        )
        return self._records(f"SELECT {COLUMNS} FROM events WHERE id IN ({which}) ORDER BY id", self._name, lane, limit)

    def suspects(self, due_at: float, limit: int) -> list[tuple[Record, str, int]]:
        """Events that failed alone and are to be tried again by `due_at`, each with its lane and its failures."""
        query = (
            f"SELECT s.lane, s.attempts, {_E} FROM setbacks s JOIN events e ON e.id = s.id WHERE s.destination = ? "
            "AND s.state = 'held' AND s.attempts > 0 AND (s.retry_at <= ? OR s.retry_at > ?) ORDER BY s.retry_at "
            "LIMIT ?"
        )
        rows = self._reader.read(query, self._name, due_at, due_at + LATEST_HOLD_S, limit)
        return [(Record(*row[2:]), row[0], row[1]) for row in rows]

    def next_suspect_at(self) -> float | None:
        """When the next of them is due."""
        query = "SELECT min(retry_at) FROM setbacks WHERE destination = ? AND state = 'held' AND attempts > 0"
        due: float | None = self._reader.read(query, self._name)[0][0]
        return due

    def save(self, position: int, before: int, epoch: int, sums: dict[str, Any], statements: list[Statement]) -> bool:
        """Write all at once; `False`, and nothing, if the position is not `before`, of that epoch and file, any more.

        The epoch does not tell an older copy of the file: one that was put in its place a moment ago may still be read
        with the write-ahead log of the file that was there.
        """

        def write(connection: sqlite3.Connection) -> bool:
            if self._store.identity != self.file:
                return False
            row = {"position": position, "before": before, "epoch": epoch, "name": self._name} | sums
            if connection.execute(_SAVE, row).rowcount == 0:
                return False
            for statement, parameters in statements:
                connection.execute(statement, parameters)
            if statements:
                self._retention.give_up(connection, self._name)
            self._retention.trim_ahead(connection)
            return True

        return self._store.write(write)

    # Statements for `save`.

    def set_back(self, record: Record, lane: str, state: str, reason: str, attempts: int, retry_at: float) -> Statement:
        """An event becomes a setback, or is one in another way now."""
        values = (self._name, record.id, lane, state, reason, attempts, retry_at, len(record.text) + 200)
        return "INSERT OR REPLACE INTO setbacks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values

    def resolve(self, record: Record) -> Statement:
        """An event is a setback no more: it is delivered."""
        return "DELETE FROM setbacks WHERE destination = ? AND id = ?", (self._name, record.id)

    def set_lane(self, name: str, lane: Lane) -> Statement:
        """What is known of a lane."""
        values = (self._name, name, lane.accepted, lane.retry_at, lane.hold_s, lane.reason)
        return "INSERT OR REPLACE INTO lanes VALUES (?, ?, ?, ?, ?, ?)", values

    def forget_lane(self, name: str) -> Statement:
        """A lane that matters no more."""
        return "DELETE FROM lanes WHERE destination = ? AND lane = ?", (self._name, name)

    def move_held(self, lane: str, to: str) -> Statement:
        """The events that wait for one lane wait for another."""
        update = "UPDATE setbacks SET lane = ? WHERE destination = ? AND state = 'held' AND lane = ?"
        return update, (to, self._name, lane)

    def _records(self, query: str, *parameters: object) -> list[Record]:
        return [Record(*row) for row in self._reader.read(query, *parameters)]


_SAVE = """
    UPDATE destinations SET
        position = :position,
        carrier = :carrier,
        beat_at = :beat_at,
        claimed_at = :beat_at,
        sent = sent + :sent,
        retried = retried + :retried,
        last_success_at = coalesce(:last_success_at, last_success_at),
        last_error = coalesce(:last_error, last_error),
        last_cause = coalesce(:last_cause, last_cause),
        last_error_at = coalesce(:last_error_at, last_error_at)
    WHERE name = :name AND epoch = :epoch AND position = :before
"""


def dead_letters(store: Store, name: str, *, after: int = 0, limit: int) -> list[tuple[Record, str, str]]:
    """A destination's dead letters behind the id `after`, in order, each with its lane and the reason."""
    rows = store.read(f"{_DEAD} AND s.id > ? ORDER BY s.id LIMIT ?", name, after, limit)
    return [(Record(*row[2:]), row[0], row[1]) for row in rows]


def newest_dead_letters(store: Store, name: str, *, limit: int) -> list[tuple[Record, str, str]]:
    """The newest of them, in order."""
    rows = store.read(f"{_DEAD} ORDER BY s.id DESC LIMIT ?", name, limit)
    return [(Record(*row[2:]), row[0], row[1]) for row in reversed(rows)]


class Hold(NamedTuple):
    """A lane on hold, and why."""

    destination: str
    lane: str
    """The lane; `OTHERS` for all that are too many to be told apart."""
    events: int
    """How many events wait for it."""
    oldest_received_at: str | None
    """When the first of them came."""
    retry_at: float
    """When it is tried next (Unix time)."""
    reason: str


def longest_holds(store: Store, limit: int) -> list[Hold]:
    """The lanes on hold, of all destinations, whose events wait longest."""
    waiting = "FROM setbacks s WHERE s.destination = l.destination AND s.state = 'held' AND s.lane = l.lane"
    first = f"SELECT *, (SELECT min(id) {waiting}) AS oldest FROM lanes l WHERE hold_s > 0"
    query = (
        f"SELECT destination, lane, (SELECT count(*) {waiting}), (SELECT received_at FROM events WHERE id = oldest), "
        f"retry_at, reason FROM ({first} ORDER BY oldest IS NULL, oldest LIMIT ?) l"
    )
    return [Hold(*row) for row in store.read(query, limit)]


def count_holds(store: Store) -> int:
    """How many lanes are on hold, of all destinations."""
    return int(store.read("SELECT count(*) FROM lanes WHERE hold_s > 0")[0][0])


def carrier(store: Store, name: str) -> tuple[int, float] | None:
    """The process that carries to a destination now, and how many seconds ago it wrote; `None` if there is none."""
    if not store.is_claimed(name):
        return None
    rows = store.read("SELECT carrier, beat_at FROM destinations WHERE name = ?", name)
    return (rows[0][0], max(0.0, time.time() - rows[0][1])) if rows else None


def last_errors(store: Store) -> dict[str, tuple[str, bool]]:
    """What went wrong last with each destination, as who carries wrote it, and whether nothing was taken since."""
    columns = "name, last_error, last_error != '' AND last_error_at >= coalesce(last_success_at, 0)"
    return {name: (text, bool(lasts)) for name, text, lasts in store.read(f"SELECT {columns} FROM destinations")}


def count_left(store: Store, name: str, newest: int) -> int:
    """How many events up to the id `newest` a destination is still to get."""
    query = (
        "SELECT max(0, ? - position) + (SELECT count(*) FROM setbacks WHERE destination = name AND state = 'held' "
        "AND id <= min(position, ?)) FROM destinations WHERE name = ?"
    )
    rows = store.read(query, newest, newest, name)
    return int(rows[0][0]) if rows else 0


def newest_id(store: Store) -> int:
    """The id of the newest event that the log ever had."""
    return store.look(last_id)


def names(store: Store) -> list[str]:
    """The destinations that the file knows."""
    return [name for (name,) in store.read("SELECT name FROM destinations ORDER BY name")]


def last_id(connection: sqlite3.Connection) -> int:
    """The id of the newest event that the log ever had."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return 0 if row is None else int(row[0])
