"""Which events of a log are meant: a period, what is new since an id, or one person's."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pixel_middleware.sinks.store import Store

PAGE = 2000  # events in memory at once; an event has 64 KiB at most


@dataclass(frozen=True)
class Selection:
    """Events that meet all conditions; each that is `None` is none."""

    since: str | None = None
    """Received at this moment or later; as `receivedAt` has it."""
    until: str | None = None
    """Received before this moment."""
    anonymous_id: str | None = None
    user_id: str | None = None

    def where(self) -> tuple[str, tuple[Any, ...]]:
        """The condition in SQL, for the table `events`, and its parameters."""
        conditions: list[str] = ["1"]
        parameters: list[Any] = []
        for condition, value in (("received_at >= ?", self.since), ("received_at < ?", self.until)):
            if value is not None:
                conditions.append(condition)
                parameters.append(value)
        for field, value in (("anonymousId", self.anonymous_id), ("userId", self.user_id)):
            if value is not None:
                # Most events do not even contain the text, and JSON need not be parsed to see that.
                conditions.append(f"instr(event, ?) AND event ->> '$.{field}' = ?")
                parameters += [json.dumps(value, ensure_ascii=False), value]
        return " AND ".join(conditions), tuple(parameters)


def newest_id(store: Store) -> int:
    """The id of the newest event; 0 if there is none. Raises `StorageError`."""
    return int(store.read("SELECT coalesce(max(id), 0) FROM events")[0][0])


def pages(
    store: Store, selection: Selection, columns: str, *, after_id: int = 0, up_to_id: int
) -> Iterator[list[tuple[Any, ...]]]:
    """The events of a selection with an id of this range, as lists of rows, in order of their ids.

    `columns` is SQL, and the first is `id`. Each list is one read, so that no read holds the file for long. Raises
    `StorageError`.
    """
    where, parameters = selection.where()
    query = f"SELECT {columns} FROM events WHERE id > ? AND id <= ? AND {where} ORDER BY id LIMIT {PAGE}"
    while rows := store.read(query, after_id, up_to_id, *parameters):
        yield rows
        after_id = rows[-1][0]
