"""What a sink's file holds already, told apart from what a log's lines say again."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from pixel_middleware.events import MIRRORED_PAGE_FIELDS, Event
from pixel_middleware.runtime.growing_file import GrowingFile
from pixel_middleware.sinks.eventlog import EventLog

SAME_S = 2.0  # a server logs a request when it has been answered, and whole seconds
LONGEST_EVENT = 1 << 24  # bytes of JSON


class Known:
    """What is stored already: events by their ids, and those collected live, whose ids are random, by what they say.

    Kept in an SQLite file of its own that goes with the process, so that memory stays bounded.
    """

    def __init__(self, events: Iterable[Mapping[str, Any]] = ()) -> None:
        self._rows = sqlite3.connect("", isolation_level=None)
        self._rows.execute("PRAGMA synchronous = OFF")
        self._rows.execute("PRAGMA journal_mode = OFF")
        self._rows.execute("CREATE TABLE ids (id INTEGER PRIMARY KEY, at INTEGER)")
        self._rows.execute("CREATE TABLE lines (line INTEGER PRIMARY KEY, at INTEGER, count INTEGER)")
        columns = "hit INTEGER, at REAL, id INTEGER, PRIMARY KEY (hit, at, id)"
        self._rows.execute(f"CREATE TABLE hits ({columns}) WITHOUT ROWID")
        self._rows.execute("CREATE INDEX hits_by_id ON hits (id)")
        self._rows.execute("BEGIN")
        self._has_hits = False
        self.learn(events)

    def learn(self, events: Iterable[Mapping[str, Any]]) -> None:
        """These are stored too; those that were taken for new ones here may be among them."""
        for event in events:
            message_id = str(event.get("messageId", ""))
            at = _seconds(str(event.get("receivedAt", "")))
            # One that has an id as lines have came from a log, and its line has the same id.
            if self._is_new(_number(message_id), at) and message_id[14:15] != "5":
                self._rows.execute("INSERT INTO hits VALUES (?, ?, ?)", (_said(event), at, _number(message_id)))
                self._has_hits = True

    def takes(self, event: Event) -> bool:
        """Whether this event is stored already; what it was taken for stands for no other. If not, now it is."""
        id_, at = _number(event["messageId"]), _seconds(event["receivedAt"])
        is_new = self._is_new(id_, at)
        if not self._has_hits:
            return not is_new
        if not is_new:
            self._rows.execute("DELETE FROM hits WHERE id = ?", (id_,))
            return True
        hit = _said(event)
        # The earliest that fits: of all ways to pair lines and events, this one leaves the fewest alone.
        query = "SELECT at, id FROM hits WHERE hit = ? AND at BETWEEN ? AND ? ORDER BY at LIMIT 1"
        found = self._rows.execute(query, (hit, at - SAME_S, at + SAME_S)).fetchone()
        if found:
            self._rows.execute("DELETE FROM hits WHERE hit = ? AND at = ? AND id = ?", (hit, *found))
        return found is not None

    def count(self, digest: bytes, moment: str) -> int:
        """How many lines of this moment had this digest, with this one."""
        line = int.from_bytes(digest[:8], signed=True)
        query = "INSERT INTO lines VALUES (?, ?, 1) ON CONFLICT (line) DO UPDATE SET count = count + 1 RETURNING count"
        ((count,),) = self._rows.execute(query, (line, int(_seconds(moment)))).fetchall()
        return int(count)

    def forget_before(self, moment: float) -> None:
        """Forget the lines, and the events, of before a moment, as Unix time."""
        for table in ("ids", "lines", "hits"):
            self._rows.execute(f"DELETE FROM {table} WHERE at < ?", (moment,))

    def close(self) -> None:
        """Forget all."""
        self._rows.close()

    def __del__(self) -> None:
        self.close()

    def _is_new(self, id_: int, at: float) -> bool:
        return self._rows.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (id_, int(at))).rowcount > 0


class Stored:
    """The events that the file of a sink holds, and those that come to it."""

    def __init__(self, path: Path, sink: EventLog | None) -> None:
        self._log = sink
        self._newest_id = 0
        self._lines = None if sink else GrowingFile(path, LONGEST_EVENT)

    def new(self) -> Iterator[Mapping[str, Any]]:
        """The events since the last call, at first all; half a line is none. Raises `StorageError`."""
        for text in self._texts():
            with suppress(ValueError):  # half a line
                event = json.loads(text)
                if isinstance(event, dict):
                    yield event

    def close(self) -> None:
        """Close what is open here, not the sink."""
        if self._lines:
            self._lines.close()

    def _texts(self) -> Iterator[str | bytes]:
        if self._lines is not None:
            for lines in self._lines.blocks():  # pragma: no branch - it never ends
                if not lines:
                    break
                yield from lines
        if self._log is not None:
            query = "SELECT id, event FROM events WHERE id > ? ORDER BY id LIMIT 1000"
            while rows := self._log.read(query, self._newest_id):
                yield from (text for _, text in rows)
                self._newest_id = rows[-1][0]


def _said(event: Mapping[str, Any]) -> int:
    """A number for what an event says: the same for a line and the event that was collected live."""
    properties = event.get("properties")
    if isinstance(properties, dict):
        properties = {name: value for name, value in properties.items() if name not in MIRRORED_PAGE_FIELDS}
    names = ("type", "writeKey", "anonymousId", "userId", "event", "name")
    # As text: `convert` may have made numbers of some, in one of both.
    return _number(json.dumps([[event.get(name) for name in names], _as_text(properties)], sort_keys=True))


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_text(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_text(each) for each in value]
    return str(value)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), signed=True)


@lru_cache(maxsize=16)
def _seconds(received_at: str) -> float:
    try:
        return datetime.fromisoformat(received_at).timestamp()
    except (ValueError, OverflowError):
        return 0.0
