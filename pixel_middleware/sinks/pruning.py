"""Deleting what is too old from an event log, at once."""

import json
import sqlite3
from datetime import datetime
from functools import partial
from typing import NamedTuple

from pixel_middleware.sinks.selection import Selection, newest_id, pages
from pixel_middleware.sinks.store import Store


class Pruned(NamedTuple):
    """What became of the events that are too old."""

    deleted: int
    undelivered: int
    """Of the deleted, and of those that were left: those that a destination has not had."""


def prune(store: Store, before: str, *, undelivered: bool = False) -> Pruned:
    """Delete the events received before a moment, and requests refused before it.

    Events that a destination has not had, or that are its setbacks, are left unless `undelivered`. Works in chunks,
    between which others write. Raises `StorageError`.
    """

    def delete(connection: sqlite3.Connection, ids: str) -> tuple[int, int]:
        among = "FROM events WHERE id IN (SELECT value FROM json_each(?))"
        delivered = (
            "id <= coalesce((SELECT min(position) FROM destinations), id) "
            "AND NOT EXISTS (SELECT 1 FROM setbacks WHERE setbacks.id = events.id)"
        )
        ((lacked,),) = connection.execute(f"SELECT count(*) {among} AND NOT ({delivered})", (ids,))
        if undelivered:
            connection.execute("DELETE FROM setbacks WHERE id IN (SELECT value FROM json_each(?))", (ids,))
            return connection.execute(f"DELETE {among}", (ids,)).rowcount, lacked
        return connection.execute(f"DELETE {among} AND {delivered}", (ids,)).rowcount, lacked

    deleted = lacking = 0
    for rows in pages(store, Selection(until=before), "id", up_to_id=newest_id(store)):
        ids = json.dumps([id_ for (id_,) in rows])
        gone, lacked = store.write(partial(delete, ids=ids))
        deleted += gone
        lacking += lacked
    moment = datetime.fromisoformat(before).timestamp()
    store.write(lambda connection: connection.execute("DELETE FROM refusals WHERE at < ?", (moment,)))
    return Pruned(deleted, lacking)
