"""What somebody beside its courier does to a destination of an event log: whoever carries notices by the epoch."""

import sqlite3
import time
from collections.abc import Iterable
from typing import Any

from pixel_middleware.errors import StorageError
from pixel_middleware.sinks.positions import MOST_LANES, OTHERS, last_id
from pixel_middleware.sinks.store import Store

_CHUNK = 500  # rows a transaction, of what may be hundreds of thousands: a put waits for about 20 ms
_CHUNK_PAUSE_S = 0.01  # between two of them, or who waits for the turn would never be first to take it


def rewind(store: Store, name: str, since: str | None) -> int:
    """Send a destination the log again, from its start or from `since` (a `receivedAt`); how many events that are.

    Its setbacks behind that are forgotten, since they are sent again too. Raises `StorageError` if there is none such.
    """

    # Looked for before the turn is taken: it may take a second, for which puts would wait.
    first = "SELECT min(id) FROM events WHERE ? IS NULL OR received_at >= ?"
    ((oldest,),) = store.read(first, since, since)

    def move(connection: sqlite3.Connection) -> int:
        position = last_id(connection) if oldest is None else oldest - 1
        update = "UPDATE destinations SET position = ?, epoch = epoch + 1 WHERE name = ?"
        _require(connection.execute(update, (position, name)), store, name)
        connection.execute("DELETE FROM setbacks WHERE destination = ? AND id > ?", (name, position))
        return position

    position = store.write(move, durable=True)
    return int(store.read("SELECT count(*) FROM events WHERE id > ?", position)[0][0])


def drop(store: Store, name: str) -> None:
    """Forget a destination: it gets nothing more, and what it lacks pins the log no longer. Raises as `rewind`."""
    _delete_setbacks(store, "destination = ?", (name,))

    def forget(connection: sqlite3.Connection) -> None:
        _require(connection.execute("DELETE FROM destinations WHERE name = ?", (name,)), store, name)
        for table in ("setbacks", "lanes"):
            connection.execute(f"DELETE FROM {table} WHERE destination = ?", (name,))

    store.write(forget, durable=True)


def retry(store: Store, name: str, lane: str | None = None, id: int | None = None) -> tuple[int, int]:
    """Have a destination's setbacks tried again at once; how many were dead, and how many held.

    All of them, or those of a lane, or of one event. Dead letters wait for their lane again, before what is newer in
    it. Whoever carries notices, and may send the batch under way twice. Raises as `rewind`.
    """
    where, parameters = _setbacks(name, lane, id)
    ((held,),) = store.read(f"SELECT count(*) FROM setbacks WHERE {where} AND state = 'held'", *parameters)
    now = time.time()
    lanes = {row[0] for row in store.read("SELECT lane FROM lanes WHERE destination = ?", name)}
    revived: set[str] = set()
    dead = done = 0

    def hasten(connection: sqlite3.Connection) -> list[tuple[int, str, str]]:
        # By id, so that what is dead again at once is not revived for ever.
        query = (
            f"SELECT id, lane, state FROM setbacks WHERE {where} AND id > ? "
            f"AND (+state = 'dead' OR attempts > 0 AND retry_at > ?) ORDER BY id LIMIT {_CHUNK}"
        )
        rows: list[tuple[int, str, str]] = connection.execute(query, (*parameters, done, now)).fetchall()
        wait_for = {}
        for id_, of, state in rows:
            if state == "dead":
                wait_for[id_] = of if of in lanes or len(lanes) < MOST_LANES - 1 else OTHERS
                lanes.add(wait_for[id_])
        revived.update(wait_for.values())
        connection.executemany(
            "UPDATE setbacks SET state = 'held', attempts = 0, retry_at = ?, lane = ? WHERE destination = ? AND id = ?",
            [(now, of, name, id_) for id_, of in wait_for.items()],
        )
        connection.executemany(
            "UPDATE setbacks SET retry_at = ? WHERE destination = ? AND id = ?",
            [(now, name, id_) for id_, _, state in rows if state == "held"],
        )
        _end_holds(connection, name, set(wait_for.values()), now)  # now too: this may be killed before its end
        return rows

    def finish(connection: sqlite3.Connection) -> None:
        waiting = "SELECT lane FROM lanes WHERE destination = ? AND hold_s > 0"
        if lane is not None or id is not None:
            waiting = f"SELECT DISTINCT lane FROM setbacks WHERE {where} AND state = 'held' AND attempts = 0"
        on_hold = connection.execute(waiting, parameters).fetchall()
        _end_holds(connection, name, revived.union(of for (of,) in on_hold), now)
        _raise_epoch(connection, store, name)

    while rows := store.write(hasten):
        dead += sum(state == "dead" for _, _, state in rows)
        done = rows[-1][0]
        time.sleep(_CHUNK_PAUSE_S)
    store.write(finish, durable=True)
    return dead, held


def discard(store: Store, name: str, lane: str | None = None, id: int | None = None, *, held: bool = False) -> int:
    """Forget a destination's dead letters, or with `held` those too that are still tried; how many there were.

    All of them, or those of a lane, or of one event. It never gets them; the log keeps the events themselves for as
    long as it keeps others. Raises as `rewind`.
    """
    where, parameters = _setbacks(name, lane, id)
    if not held:
        where += " AND state = 'dead'"
    count = _delete_setbacks(store, where, parameters)

    def finish(connection: sqlite3.Connection) -> int:
        # Who carries may have written some anew; from here on it cannot.
        _raise_epoch(connection, store, name)
        return connection.execute(f"DELETE FROM setbacks WHERE {where}", parameters).rowcount

    return count + store.write(finish, durable=True)


def _require(changed: sqlite3.Cursor, store: Store, name: str) -> None:
    if changed.rowcount == 0:
        known = ", ".join(row[0] for row in changed.connection.execute("SELECT name FROM destinations ORDER BY name"))
        raise StorageError(f"{store.path} has no destination {name!r}; it has {known or 'none'}")


def _setbacks(name: str, lane: str | None, id: int | None) -> tuple[str, tuple[Any, ...]]:
    """The condition for setbacks of a destination, a lane or one event, and its parameters."""
    given = [("destination = ?", name), ("lane = ?", lane), ("id = ?", id)]
    used = [(condition, value) for condition, value in given if value is not None]
    return " AND ".join(condition for condition, _ in used), tuple(value for _, value in used)


def _delete_setbacks(store: Store, where: str, parameters: tuple[Any, ...]) -> int:
    delete = (
        "DELETE FROM setbacks WHERE (destination, id) IN "
        f"(SELECT destination, id FROM setbacks WHERE {where} LIMIT {_CHUNK})"
    )
    count = done = store.write(lambda connection: connection.execute(delete, parameters).rowcount)
    while done == _CHUNK:
        time.sleep(_CHUNK_PAUSE_S)
        done = store.write(lambda connection: connection.execute(delete, parameters).rowcount)
        count += done
    return count


def _end_holds(connection: sqlite3.Connection, name: str, lanes: Iterable[str], now: float) -> None:
    """Have lanes tried now; of a lane without a row, what waits for it would not be."""
    connection.executemany(
        "INSERT INTO lanes VALUES (?, ?, 0, ?, 1.0, 'its events are to be tried again') "
        "ON CONFLICT (destination, lane) DO UPDATE SET retry_at = excluded.retry_at, "
        "reason = iif(hold_s > 0, reason, excluded.reason), hold_s = max(hold_s, excluded.hold_s)",
        [(name, lane, now) for lane in lanes],
    )


def _raise_epoch(connection: sqlite3.Connection, store: Store, name: str) -> None:
    """Have who carries read anew what is here, and write nothing of what it knew."""
    _require(connection.execute("UPDATE destinations SET epoch = epoch + 1 WHERE name = ?", (name,)), store, name)
