"""Whether the file of an event log is sound: its pages, and what its tables say of each other."""

import sqlite3

from pixel_middleware.sinks import schema
from pixel_middleware.sinks.store import Store

_MOST_FAULTS = 100  # of its pages: a broken file has thousands

_RULES = (
    (
        "destination {} is at a place in the log that there is not",
        "SELECT name FROM destinations WHERE position < 0 "
        "OR position > coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)",
    ),
    (
        "destination {} has setbacks whose events are gone",
        "SELECT DISTINCT destination FROM setbacks s WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.id = s.id)",
    ),
    (
        "destination {} has setbacks that are neither held nor dead",
        "SELECT DISTINCT destination FROM setbacks WHERE state NOT IN ('held', 'dead')",
    ),
    (
        "destination {} has events that wait for a lane that is not on hold, so that nothing tries them: retry does",
        "SELECT DISTINCT destination FROM setbacks s WHERE state = 'held' AND attempts = 0 AND NOT EXISTS "
        "(SELECT 1 FROM lanes l WHERE l.destination = s.destination AND l.lane = s.lane AND l.hold_s > 0)",
    ),
    (
        "there are setbacks of {}, which is no destination of the log",
        "SELECT DISTINCT destination FROM setbacks EXCEPT SELECT name FROM destinations",
    ),
    (
        "there are lanes of {}, which is no destination of the log",
        "SELECT DISTINCT destination FROM lanes EXCEPT SELECT name FROM destinations",
    ),
)
"""Each a sentence, and the names for which it is true."""


def version(store: Store) -> int:
    """The version of the file's layout; 0 if it is empty. Raises `StorageError`."""
    return store.look(schema.version_of)


def faults(store: Store) -> list[str]:
    """What is wrong with the file, a sentence each. Reads all of it. Raises `StorageError` if that cannot be done."""

    def look(connection: sqlite3.Connection) -> list[str]:
        pages = [text for (text,) in connection.execute(f"PRAGMA integrity_check({_MOST_FAULTS})") if text != "ok"]
        if pages:
            return pages
        return [sentence.format(repr(name)) for sentence, query in _RULES for (name,) in connection.execute(query)]

    return store.look(look)
