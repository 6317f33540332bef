"""What the events of a log come to: how many, by how many visitors, in how many messages; in all, and by something."""

import json
import os
import signal
import sqlite3
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from multiprocessing import get_context
from threading import active_count
from typing import Any, NamedTuple

from pixel_middleware.sinks.reader import Reader
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

PAGE = 2000  # ids that are read at once
PART = 1_000_000  # visitors, and messages, whose hashes are in memory at once: some 300 MB
ALONE = 100_000  # ids that are counted sooner than another process has started
MOST_PROCESSES = 4


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

    Reads the file once for each 1,000,000 events: memory stays bounded, and grows only with the number of groups. A
    long file is read by several processes, unless other threads run here, which a fork might leave holding locks.
    """
    ((first, newest),) = store.read("SELECT coalesce(min(id), 1), coalesce(max(id), 0) FROM events")
    span = newest + 1 - first
    is_alone = span <= ALONE or active_count() > 1
    share = span if is_alone else -(-span // min(MOST_PROCESSES, os.cpu_count() or 1))
    shares = [range(start, min(start + share, newest + 1)) for start in range(first, newest + 1, max(share, 1))]
    parts = max(0, span - 1) // PART + 1
    events: Counter[str] = Counter()
    visitors, messages = _Distinct(), _Distinct()
    with ExitStack() as stack:
        run: Any = map
        if not is_alone:
            # Not threads: SQLite has one lock for the memory of all. And forks, which hash as we do.
            forks = ProcessPoolExecutor(
                len(shares), get_context("fork"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
            )
            run = stack.enter_context(forks).map
        for part in range(parts):
            counted = list(run(partial(_count, store.path, by, selection, part, parts), shares))
            if part == 0:
                for one in counted:
                    events.update(one.events)
            visitors.add([one.visitors for one in counted])
            messages.add([one.messages for one in counted])
    order = sorted(events) if by == "day" else sorted(events, key=lambda key: (-events[key], key))
    return Report(
        Counts(events.total(), visitors.total, messages.total),
        {key: Counts(events[key], visitors.by_key[key], messages.by_key[key]) for key in order},
    )


def refusals(store: Store, selection: Selection) -> dict[str, int]:
    """How many of the newest refused requests, which the log keeps, were refused for which reason; most first."""
    query = (
        "SELECT reason, count(*) FROM refusals WHERE at >= coalesce(unixepoch(?), at) AND at < coalesce(unixepoch(?), "
        "at + 1) GROUP BY reason ORDER BY 2 DESC, 1"
    )
    return dict(store.read(query, selection.since, selection.until))


class _Share(NamedTuple):
    """What was counted of some ids, by key; values by their hashes."""

    events: Counter[str]
    visitors: dict[str, set[int]]
    messages: dict[str, set[int]]


def _count(path: str, by: str, selection: Selection, part: int, parts: int, ids: range) -> _Share:
    """Count the events of these ids, and those of their values whose hash is of this part."""
    where, parameters = selection.where()
    rows = f"SELECT {GROUPS[by]} AS key, visitor, message_id FROM events WHERE id >= ? AND id < ? AND {where}"
    # As JSON: to make a row of each event would take more time than all that is done with it.
    columns = "key, count(*), json_group_array(visitor), json_group_array(message_id)"
    query = f"SELECT {columns} FROM ({rows}) GROUP BY key"

    def count(connection: sqlite3.Connection) -> _Share:
        share = _Share(Counter(), defaultdict(set), defaultdict(set))
        for start in range(ids.start, ids.stop, PAGE):
            page = (start, min(start + PAGE, ids.stop), *parameters)
            for key, events, visitors, messages in connection.execute(query, page):
                share.events[key] += events
                for hashes, values in ((share.visitors, visitors), (share.messages, messages)):
                    found = map(hash, json.loads(values))
                    hashes[key].update(found if parts == 1 else (value for value in found if value % parts == part))
        return share

    with closing(Reader(path)) as reader:
        return reader.look(count)


class _Distinct:
    """How many different values there are, in all and by key.

    They are told apart by hashes of 64 bits: among ten million, two are taken for one with a chance of 1 to 300,000.
    """

    def __init__(self) -> None:
        self.total = 0
        self.by_key: Counter[str] = Counter()

    def add(self, shares: list[dict[str, set[int]]]) -> None:
        """Count the hashes of a part, of which no other part has any; the sets are used up."""
        united = []
        for key in set().union(*shares):
            hashes = _united([share[key] for share in shares if key in share])
            self.by_key[key] += len(hashes)
            united.append(hashes)
        self.total += len(_united(united))


def _united(sets: list[set[int]]) -> set[int]:
    """The union, made in the largest of the sets."""
    united = max(sets, key=len, default=set())
    united.update(*(each for each in sets if each is not united))
    return united
