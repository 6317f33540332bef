"""What a courier has done and not written yet, and the writing: its memory is ahead of the file, never behind it."""

import logging
import os
import time
from typing import Any

from pixel_middleware.destinations.base import Record
from pixel_middleware.errors import StorageError
from pixel_middleware.sinks.positions import Positions, Statement

_log = logging.getLogger("pixel_middleware")

LOG_EVERY_S = 60.0  # trouble lasts; once a minute is seen, and more is noise
BEAT_S = 10.0  # how often a courier that waits says that it lives
_MOST_UNSAVED = 10_000
_NO_SUMS: dict[str, Any] = {
    "sent": 0,
    "retried": 0,
    "last_success_at": None,
    "last_error": None,
    "last_cause": None,
    "last_error_at": None,
}


class Ledger:
    """One courier's books: the position, what is settled behind it, and sums. Not thread-safe."""

    def __init__(self, name: str, positions: Positions) -> None:
        self._name = name
        self._positions = positions
        self._logged_at = float("-inf")
        self.open(0, -1)

    def open(self, position: int, epoch: int) -> None:
        """Begin with what the file says."""
        self.position = position
        self.epoch = epoch
        self.settled: set[int] = set()
        """Ids behind the position that are delivered or set back."""
        self.waiting: set[int] = set()
        """Ids of setbacks that are being tried."""
        self.resolved: set[int] = set()
        """Ids of setbacks that are delivered, which is not saved yet."""
        self._unsaved: list[Statement] = []
        self._sums: dict[str, Any] = dict(_NO_SUMS)
        self._in_file = position
        self._saved_at = float("-inf")

    def move_to(self, position: int) -> None:
        """All up to here is delivered or set back."""
        self.position = position
        self.settled = {id_ for id_ in self.settled if id_ > position}

    def took(self, records: list[Record]) -> None:
        """The destination has taken these."""
        self._sums["sent"] += len(records)
        self._sums["last_success_at"] = time.time()
        self.settled.update([record.id for record in records])
        if self.waiting:
            for record in records:
                if record.id in self.waiting:
                    self.resolved.add(record.id)
                    self.write(self._positions.resolve(record))

    def set_back(self, records: list[Record], lane: str, reason: str) -> None:
        """These wait for their lane."""
        for record in records:
            self._set_back(record, lane, "held", reason, 0, time.time())

    def suspect(self, record: Record, lane: str, reason: str, failures: int, retry_at: float) -> None:
        """It failed alone, so often, and is tried again then."""
        self._set_back(record, lane, "held", reason, failures, retry_at)

    def bury(self, record: Record, lane: str, reason: str) -> None:
        """It is not tried again."""
        self._set_back(record, lane, "dead", reason, 0, 0.0)

    def _set_back(self, record: Record, lane: str, state: str, reason: str, attempts: int, retry_at: float) -> None:
        self.write(self._positions.set_back(record, lane, state, reason, attempts, retry_at))
        self.settled.add(record.id)

    def write(self, statement: Statement) -> None:
        """Have it written with the next `save`."""
        self._unsaved.append(statement)

    def failed(self) -> None:
        """A request or a round failed for now."""
        self._sums["retried"] += 1

    def log(self, message: str, cause: str) -> None:
        """Keep it as the last error, and log it, once a minute. `cause` is the trouble in a fixed word."""
        self._sums |= {"last_error": message[:300], "last_cause": cause, "last_error_at": time.time()}
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            _log.warning("destination %s: %s", self._name, message)

    def is_silent(self) -> bool:
        """Whether the file has not heard of us for a while."""
        return time.monotonic() - self._saved_at >= BEAT_S

    def save(self) -> bool:
        """Write what has changed; whether memory and file agree now. Raises `StorageError` if too much is unsaved."""
        is_idle = self.position == self._in_file and not self._unsaved and self._sums == _NO_SUMS
        if is_idle and not self.is_silent():
            return True
        sums = self._sums | {"carrier": os.getpid(), "beat_at": time.time()}
        try:
            is_ours = self._positions.save(self.position, self._in_file, self.epoch, sums, self._unsaved)
        except StorageError as error:
            self.log(f"its position cannot be written, and is kept in memory: {error}", "file")
            if len(self._unsaved) > _MOST_UNSAVED:
                raise
            return False
        if not is_ours:
            self.open(0, -1)  # rewound or dropped by somebody: it is read anew
            return False
        self._unsaved, self._sums = [], dict(_NO_SUMS)
        self.resolved.clear()
        self._saved_at, self._in_file = time.monotonic(), self.position
        return True
