"""What the events of a log come to: how many, by how many visitors, in how many messages; in all, and by something."""

import sqlite3
from collections import Counter, defaultdict
from typing import NamedTuple

from pixel_middleware.sinks.schema import CAMPAIGN
from pixel_middleware.sinks.selection import Selection
from pixel_middleware.sinks.store import Store

GROUPS = {
    "day": "substr(received_at, 1, 10)",  # in UTC
    "name": "name",
    "key": "write_key",
    "campaign": f"coalesce(CAST({CAMPAIGN} AS TEXT), '')",
    "verdict": "coalesce(CAST(event ->> '$.context.open.by' AS TEXT), '')",  # of `judge_open`
}
"""By what events are counted, in SQL."""

PAGE = 500  # rows in memory at once: as many as a processor has near
PART = 1_000_000  # visitors, and messages, whose hashes are in memory at once: some 300 MB


class Counts(NamedTuple):
    """What some events come to."""

    events: int
    visitors: int
    """By anonymousId, or by userId where there is none."""
    messages: int
    """Different messageIds: an event that was stored twice is one message."""


class Report(NamedTuple):
    """Counts of all events, and of each group of them."""

    total: Counts
    rows: dict[str, Counts]
    """By day in order of time, else the most events first."""


def report(store: Store, by: str, selection: Selection) -> Report:
    """Count the events of a selection by one of `GROUPS`. Raises `StorageError`.

    Reads the file once for each 1,000,000 events: memory stays bounded, and grows only with the number of groups.
    """
    return store.look(lambda connection: _report(connection, by, selection))


def refusals(store: Store, selection: Selection) -> dict[str, int]:
    """How many of the newest refused requests, which the log keeps, were refused for which reason; most first."""
    query = (
        "SELECT reason, count(*) FROM refusals WHERE at >= coalesce(unixepoch(?), at) AND at < coalesce(unixepoch(?), "
        "at + 1) GROUP BY reason ORDER BY 2 DESC, 1"
    )
    return dict(store.read(query, selection.since, selection.until))


def _report(connection: sqlite3.Connection, by: str, selection: Selection) -> Report:
    where, parameters = selection.where()
    ((span,),) = connection.execute("SELECT coalesce(max(id) - min(id) + 1, 0) FROM events")
    events: Counter[str] = Counter()
    visitors, messages = _Distinct(), _Distinct()
    parts = max(0, span - 1) // PART + 1
    for part in range(parts):
        rows = connection.execute(f"SELECT {GROUPS[by]}, visitor, message_id FROM events WHERE {where}", parameters)
        while page := rows.fetchmany(PAGE):
            keys, visitor, message = zip(*page, strict=True)
            if part == 0:
                events.update(keys)
            visitors.add(keys, visitor, part, parts)
            messages.add(keys, message, part, parts)
        visitors.end_part()
        messages.end_part()
    order = sorted(events) if by == "day" else sorted(events, key=lambda key: (-events[key], key))
    return Report(
        Counts(events.total(), visitors.total, messages.total),
        {key: Counts(events[key], visitors.by_key[key], messages.by_key[key]) for key in order},
    )


class _Distinct:
    """How many different values there are, in all and by key.

    They are told apart by hashes of 64 bits: among ten million, two are taken for one with a chance of 1 to 300,000.
    """

    def __init__(self) -> None:
        self.total = 0
        self.by_key: Counter[str] = Counter()
        self._hashes: defaultdict[str, set[int]] = defaultdict(set)

    def add(self, keys: tuple[str, ...], values: tuple[str, ...], part: int, parts: int) -> None:
        """Count those values whose hash is of this part."""
        hashes = map(hash, values)
        if len(set(keys)) == 1 and parts == 1:  # a page of one day, or of one mail: three times as fast
            self._hashes[keys[0]].update(hashes)
            return
        for key, value in zip(keys, hashes, strict=True):
            if value % parts == part:
                self._hashes[key].add(value)

    def end_part(self) -> None:
        """All values of this part were added."""
        self.total += len(set().union(*self._hashes.values()))
        for key, hashes in self._hashes.items():
            self.by_key[key] += len(hashes)
        self._hashes.clear()
