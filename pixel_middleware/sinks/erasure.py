"""Forgetting a person: what an event log, or a file of JSON Lines, holds under an id."""

import json
import sqlite3
import time
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import unquote_plus

from pixel_middleware.errors import StorageError
from pixel_middleware.sinks.jsonlines import JSONLines
from pixel_middleware.sinks.selection import Selection, newest_id, pages
from pixel_middleware.sinks.store import Store

READERS_S = 30.0  # how long readers of old pages may be in the way


@dataclass
class Erased:
    """What was, or would be, deleted."""

    events: int = 0
    setbacks: int = 0
    """Deliveries of them that were held or dead."""
    refusals: int = 0
    sent: dict[str, int] = field(default_factory=dict)
    """How many of the events a destination has had, or passed: those are not ours to take back."""
    mentions: int = 0
    """Other events that contain the text of the id in another place; they stay."""
    came_since: int = 0
    """Events of the person that were stored meanwhile; they stay."""


def forget(store: Store, selection: Selection, id_: str, *, dry_run: bool = False) -> Erased:
    """Delete the events of a selection, which is by `id_`, with their setbacks, and refused requests that contain it.

    Works in chunks, between which others write. Deleted bytes are zeroed, and the write-ahead log is emptied. Raises
    `StorageError`.
    """

    def delete(connection: sqlite3.Connection, ids: str) -> None:
        _count(connection, ids, erased)
        for table in ("setbacks", "events"):
            connection.execute(f"DELETE FROM {table} WHERE id IN (SELECT value FROM json_each(?))", (ids,))

    def delete_traces(connection: sqlite3.Connection) -> None:
        connection.executemany("DELETE FROM refusals WHERE id = ?", [(each,) for each in refusals])
        connection.execute("DELETE FROM lanes WHERE lane = ?", (id_,))
        for table, column in (("destinations", "last_error"), ("setbacks", "reason"), ("lanes", "reason")):
            connection.execute(f"UPDATE {table} SET {column} = '' WHERE instr({column}, ?)", (id_,))

    erased = Erased(sent={name: 0 for (name,) in store.read("SELECT name FROM destinations ORDER BY name")})
    up_to = newest_id(store)
    for rows in pages(store, selection, "id", up_to_id=up_to):
        ids = json.dumps([id_of_row for (id_of_row,) in rows])
        if dry_run:
            store.look(partial(_count, ids=ids, erased=erased))
        else:
            store.write(partial(delete, ids=ids), durable=True)
    refused = store.read("SELECT id, query, user_agent, path, message FROM refusals")
    refusals = [row[0] for row in refused if any(id_ in text or id_ in unquote_plus(text) for text in row[1:])]
    erased.refusals = len(refusals)
    if not dry_run:
        store.write(delete_traces, durable=True)
        where, parameters = selection.where()
        ((erased.came_since,),) = store.read(f"SELECT count(*) FROM events WHERE {where}", *parameters)
    ((mentions,),) = store.read("SELECT count(*) FROM events WHERE instr(event, ?)", as_json(id_)[1:-1])
    erased.mentions = mentions - (erased.events if dry_run else erased.came_since)
    if not dry_run:
        empty_wal(store)
    return erased


def empty_wal(store: Store, *, rebuild: bool = False) -> None:
    """`Store.empty_wal`, and wait for readers. Raises `StorageError` if one reads old pages for too long."""
    deadline = time.monotonic() + READERS_S
    while not store.empty_wal(rebuild=rebuild):
        if time.monotonic() > deadline:
            raise StorageError(
                f"{store.path}: what was deleted still stands in {store.path}-wal, since a program has been reading "
                "the file all the time; end it, and do this again"
            )
        rebuild = False
        time.sleep(0.05)


def forget_lines(path: str, field_name: str, id_: str, *, dry_run: bool = False) -> int:
    """Delete the lines of a file of JSON Lines whose `field_name` is `id_`; how many. Raises `OSError`."""
    text = as_json(id_).encode()

    def is_meant(line: bytes) -> bool:
        if text not in line:
            return False
        try:
            event = json.loads(line)
        except ValueError:  # half a line
            return True
        return isinstance(event, dict) and event.get(field_name) == id_

    if dry_run:
        with open(path, "rb") as lines:
            return sum(map(is_meant, lines))
    sink = JSONLines(path)
    try:
        return sink.take_out(is_meant)
    finally:
        sink.close()


def as_json(text: str) -> str:
    """As it stands in an event."""
    return json.dumps(text, ensure_ascii=False)


def _count(connection: sqlite3.Connection, ids: str, erased: Erased) -> None:
    among = "id IN (SELECT value FROM json_each(?))"
    ((events,),) = connection.execute(f"SELECT count(*) FROM events WHERE {among}", (ids,))
    erased.events += events
    ((setbacks,),) = connection.execute(f"SELECT count(*) FROM setbacks WHERE {among}", (ids,))
    erased.setbacks += setbacks
    query = (
        f"SELECT name, (SELECT count(*) FROM events e WHERE {among} AND e.id <= d.position AND NOT EXISTS "
        "(SELECT 1 FROM setbacks s WHERE s.destination = d.name AND s.id = e.id)) FROM destinations d"
    )
    for name, sent in connection.execute(query, (ids,)):
        erased.sent[name] = erased.sent.get(name, 0) + sent
