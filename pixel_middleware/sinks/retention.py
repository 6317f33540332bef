"""How much an event log keeps: what may go, and when room is refused.

An event may go when every destination has it behind it and it is nobody's setback; the oldest go first, when room is
needed or they are older than `keep_days`.
"""

import json
import logging
import os
import sqlite3
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from pixel_middleware.errors import StorageError
from pixel_middleware.events import timestamp

_log = logging.getLogger("pixel_middleware")

UNCLAIMED_S = 7 * 86400.0  # a destination that no process has had for so long pins nothing when room is needed
DEFAULT_BYTES = 1 << 30  # of a log with destinations
_LOOK_EVERY_S = 0.05  # at the disk and the pages: each look costs as much as storing half an event
_AGE_EVERY_S = 60.0
_GIVE_UP_EVERY_S = 0.5
_LOG_EVERY_S = 60.0
_TRIM_ROWS = 512  # at once, at most: about a millisecond


class Retention:
    """Keeps the file at `path` within its bounds. One a process and file; for who has the turn to write.

    `own` are the destinations that this process has: they pin what they lack, whatever the clock says.
    """

    def __init__(self, path: str, max_bytes: int | None, keep_days: float | None, own: Collection[str] = ()) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep_days = keep_days
        self._own = own
        self._looked_at = self._aged_at = self._rescanned_at = float("-inf")
        self._warned_at = {"full": float("-inf"), "unclaimed": float("-inf"), "given up": float("-inf")}
        self._give_up_at = float("-inf")
        self._given_up = 0
        self._added = 0
        self._slack = 0
        self._trimmed_to = self._aged_to = 0

    def start_over(self) -> None:
        """The file is another one now."""
        self._slack = self._trimmed_to = self._aged_to = 0

    def make_room(self, connection: sqlite3.Connection, added: int) -> None:
        """After rows of `added` bytes were inserted, and before they are committed: see that they fit.

        Takes away what may go, if that is needed. Raises `StorageError` if they do not fit all the same.
        """
        now = time.monotonic()
        self._added += added
        if now - self._looked_at < _LOOK_EVERY_S and self._added <= self._slack:
            return
        self._looked_at, self._added = now, 0
        try:
            disk = os.statvfs(self._path)
        except FileNotFoundError:  # it was moved or deleted, which the commit says
            return
        reserve = min(64 << 20, disk.f_blocks * disk.f_frsize // 10)
        left = disk.f_bavail * disk.f_frsize
        # What is stored stands in the write-ahead log first, and in the file later.
        self._slack = max(0, left - 2 * added - reserve) // 8
        if not self._slack:
            raise StorageError(
                f"the disk of {self._path} is full: {left:,} bytes are left, and {reserve:,} are kept for delivery"
            )
        if now - self._aged_at >= _AGE_EVERY_S:
            self.trim_old(connection)
        limit = self._limit_bytes(connection)
        if limit is None:
            return
        room = limit - limit // 16  # the rest is for what couriers write
        used = used_bytes(connection)
        while used > room and self._trim(connection, used, used - room + limit // 64):
            used = used_bytes(connection)
        if used > room:
            self._slack = 0
            raise StorageError(
                f"{self._path} is full: {used:,} bytes are in use, max_bytes is {limit:,}, and nothing may go before "
                "it is delivered"
            )
        self._slack = min(self._slack, (room - used) // 8)  # other processes add at the same time
        if used > limit * 0.8 and self._may_warn("full"):
            share = pinned_share(connection) * used / limit
            if share > 0.8:
                _log.warning("%s is %d %% full of what is still to be delivered", self._path, share * 100)

    def may_trim_old(self) -> bool:
        """Whether events have an age at which they go."""
        return self._keep_days is not None

    def trim_ahead(self, connection: sqlite3.Connection) -> None:
        """Take away what may go while there is still an eighth left, so that puts need not; and what is too old."""
        limit = self._limit_bytes(connection) or DEFAULT_BYTES
        used, enough = used_bytes(connection), limit - limit // 8
        if used > enough:
            self._trim(connection, used, used - enough)
        if time.monotonic() - self._aged_at >= _AGE_EVERY_S:
            self.trim_old(connection)

    def give_up(self, connection: sqlite3.Connection, destination: str) -> None:
        """Delete the oldest dead letters, and setbacks of lanes never accepted, that take more than a quarter of all.

        Lanes that were accepted once pin like lag: their events were somebody's.
        """
        limit = self._limit_bytes(connection) or DEFAULT_BYTES
        began = time.monotonic()
        if began < self._give_up_at:
            return
        ((count,),) = connection.execute("SELECT count(*) FROM destinations")
        quota = limit // 4 // count
        ((taken,),) = connection.execute(f"SELECT coalesce(sum(s.bytes), 0) {_AT_RISK}", (destination,))
        # It reads all of them: a twentieth of the time at most.
        self._give_up_at = time.monotonic() + max(_GIVE_UP_EVERY_S, 20 * (time.monotonic() - began))
        if taken <= quota:
            return
        given_up = 0
        too_much = taken - quota * 7 // 8
        # What lanes never accepted have pinned goes before dead letters, which may be somebody's.
        query = f"SELECT s.id, s.bytes {_AT_RISK} ORDER BY s.state = 'dead' AND coalesce(l.accepted, 0), s.id"
        oldest = iter(connection.execute(query, (destination,)).fetchall())
        while too_much > 0:
            id_, size = next(oldest)
            connection.execute("DELETE FROM setbacks WHERE destination = ? AND id = ?", (destination, id_))
            given_up += 1
            too_much -= size
        update = "UPDATE destinations SET given_up = given_up + ? WHERE name = ?"
        connection.execute(update, (given_up, destination))
        self._given_up += given_up
        if self._may_warn("given up"):
            _log.warning(
                "%s: %d events that destination %s does not take were given up: they took more than their quarter",
                self._path,
                self._given_up,
                destination,
            )
            self._given_up = 0

    def trim_old(self, connection: sqlite3.Connection) -> None:
        """Take away refusals older than `keep_days`, and events that may go: of 10,000, and the next call goes on."""
        self._aged_at = time.monotonic()
        if self._keep_days is None:
            return
        moment = datetime.now(UTC) - timedelta(days=self._keep_days)
        connection.execute("DELETE FROM refusals WHERE at < ?", (moment.timestamp(),))
        before = timestamp(moment)
        floor = _floor(connection, self._own)
        oldest = "SELECT id, received_at FROM events WHERE id > ? AND id <= ? ORDER BY id LIMIT 10000"
        rows = connection.execute(oldest, (self._aged_to, (1 << 62) if floor is None else floor)).fetchall()
        too_old = [(id_,) for id_, received_at in rows if received_at < before]
        connection.executemany(
            "DELETE FROM events WHERE id = ? AND NOT EXISTS (SELECT 1 FROM setbacks WHERE setbacks.id = events.id)",
            too_old,
        )
        self._aged_to = 0
        if len(too_old) == 10000:  # behind them, as some may be setbacks, and stay
            self._aged_at, self._aged_to = float("-inf"), too_old[-1][0]

    def _trim(self, connection: sqlite3.Connection, used: int, excess: int) -> int:
        """Take away the oldest that may go, about `excess` bytes of those in use; how many there were."""
        floor = _floor(connection, self._own)
        if floor is None:
            return 0
        if self._may_warn("unclaimed") and (names := unclaimed(connection)):
            _log.warning(
                "%s: no process has had the destination %s for 7 days, so that it pins nothing; drop it",
                self._path,
                ", ".join(names),
            )
        oldest, newest = _oldest_and_newest(connection)
        each = used // (newest - oldest + 1) if newest else 1
        rows = max(1, min(_TRIM_ROWS, excess // max(1, each)))
        going = _may_go(connection, self._trimmed_to, floor, rows)
        if not going and time.monotonic() - self._rescanned_at > 1.0:
            self._rescanned_at = time.monotonic()
            going = _may_go(connection, 0, floor, rows)  # setbacks of once may be resolved by now
        if going:
            connection.executemany("DELETE FROM events WHERE id = ?", going)
            self._trimmed_to = going[-1][0]
        return len(going)

    def _limit_bytes(self, connection: sqlite3.Connection) -> int | None:
        if self._max_bytes is not None:
            return self._max_bytes
        return None if _floor(connection, self._own) is None else DEFAULT_BYTES

    def _may_warn(self, kind: str) -> bool:
        may = time.monotonic() - self._warned_at[kind] >= _LOG_EVERY_S
        if may:
            self._warned_at[kind] = time.monotonic()
        return may


_AT_RISK = (
    "FROM setbacks s LEFT JOIN lanes l ON l.destination = s.destination AND l.lane = s.lane "
    "WHERE s.destination = ? AND (s.state = 'dead' OR coalesce(l.accepted, 0) = 0)"
)


def used_bytes(connection: sqlite3.Connection) -> int:
    """The bytes of the pages in use."""
    total, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((total - free) * size)


def pinned_share(connection: sqlite3.Connection) -> float:
    """About how much of the events may not go, whatever is needed: 0.0 to 1.0."""
    oldest, newest = _oldest_and_newest(connection)
    floor = _floor(connection)
    if not newest or floor is None:
        return 1.0
    ((set_back,),) = connection.execute("SELECT count(DISTINCT id) FROM setbacks WHERE id <= ?", (floor,))
    return float(min(1.0, (max(0, newest - floor) + set_back) / (newest - oldest + 1)))


def _oldest_and_newest(connection: sqlite3.Connection) -> tuple[int, int]:
    # Each alone reads one row; both in one SELECT would read them all.
    query = "SELECT coalesce((SELECT min(id) FROM events), 0), coalesce((SELECT max(id) FROM events), 0)"
    oldest, newest = connection.execute(query).fetchone()
    return oldest, newest


def unclaimed(connection: sqlite3.Connection) -> list[str]:
    """The destinations that no process has had for 7 days."""
    query = "SELECT name FROM destinations WHERE claimed_at < ? ORDER BY name"
    return [name for (name,) in connection.execute(query, (time.time() - UNCLAIMED_S,))]


def _floor(connection: sqlite3.Connection, own: Collection[str] = ()) -> int | None:
    """The id that every destination has behind it; `None` where there is no destination that anybody still has."""
    query = "SELECT min(position) FROM destinations WHERE claimed_at >= ? OR name IN (SELECT value FROM json_each(?))"
    parameters = (time.time() - UNCLAIMED_S, json.dumps(list(own)))
    floor: int | None = connection.execute(query, parameters).fetchone()[0]
    return floor


def _may_go(connection: sqlite3.Connection, after: int, floor: int, limit: int) -> list[tuple[int]]:
    query = (
        "SELECT id FROM events WHERE id > ? AND id <= ? "
        "AND NOT EXISTS (SELECT 1 FROM setbacks WHERE setbacks.id = events.id) ORDER BY id LIMIT ?"
    )
    return connection.execute(query, (after, floor, limit)).fetchall()
