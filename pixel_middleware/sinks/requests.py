"""Requests to one destination, one after the other, and what is known of each event from them."""

import time
from collections.abc import Callable

from pixel_middleware.destinations.base import Destination, Record
from pixel_middleware.sinks.failures import Failure, cause_of, failure_of, text_of
from pixel_middleware.sinks.ledger import Ledger
from pixel_middleware.sinks.pace import Pace
from pixel_middleware.sinks.positions import Positions

MOST_TRIES = 8  # of an event that fails alone


class Requests:
    """Sends records to `destination`, and keeps the ledger of what it took, buried and suspected. Not thread-safe."""

    def __init__(
        self, destination: Destination, positions: Positions, ledger: Ledger, retry_min_s: float, retry_max_s: float
    ) -> None:
        self._destination = destination
        self._positions = positions
        self._ledger = ledger
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self.pace = Pace(destination.max_per_second)
        """What was sent lately, also what failed."""
        kind = type(destination)
        self._has_lanes = kind.lane is not Destination.lane or kind.lane_of is not Destination.lane_of
        self.suspect_due: float | None = None
        """When the next event that failed alone is to be tried again (Unix time)."""
        self.tried: dict[int, tuple[Record, str, int, str]] = {}
        """Suspects that failed again, and nothing got through since: the lane, the failures, the reason."""
        self.begin_round()

    def load(self) -> None:
        """Begin with what the file says."""
        self.suspect_due = self._positions.next_suspect_at()
        self.tried = {}

    def begin_round(self) -> None:
        """Forget what is remembered for one round."""
        self.got_through = 0
        """Requests that were accepted."""
        self.failed_alone = 0
        """Events that failed alone since then."""
        self.has_control = False
        """Whether the newest event was sent ahead of the others, and taken."""

    def by_lane(self, records: list[Record]) -> dict[str, list[Record]]:
        """The records of each lane, in order; one whose lane cannot be told is buried."""
        if not self._has_lanes:
            return {"": records} if records else {}
        by_lane: dict[str, list[Record]] = {}
        for record in records:
            try:
                lane = self._destination.lane_of(record)
                if not isinstance(lane, str):
                    raise TypeError(f"lane() returned {type(lane).__name__}, and not a string")
            except BaseException as error:
                self.bury(record, "", f"its lane cannot be told: {text_of(error)}")
            else:
                by_lane.setdefault(lane, []).append(record)
        return by_lane

    def send(self, records: list[Record]) -> Failure | None:
        """One request; what it did not deliver, if anything."""
        if self.has_control:  # which has delivered one of them, maybe
            ledger = self._ledger
            records = [each for each in records if each.id not in ledger.settled or each.id in ledger.waiting]
            if not records:
                return None
        try:
            end = self.begin(records)
        except BaseException as error:
            return self.failure(records, error)
        return self.end(records, end)

    def begin(self, records: list[Record]) -> Callable[[], object]:
        """Begin a request; what is returned waits for its end. Both raise what the destination does."""
        self.pace.note(len(records))
        return self._destination.begin(records)

    def end(self, records: list[Record], end: Callable[[], object]) -> Failure | None:
        """Wait for the end of a request that `begin` began; what it did not deliver, if anything."""
        try:
            end()
        except BaseException as error:
            return self.failure(records, error)
        self._took(records)
        return None

    def failure(self, records: list[Record], error: BaseException) -> Failure:
        """What a request that raised did not deliver; what it did is taken note of."""
        failure = failure_of(records, error)
        if len(failure.records) < len(records):
            at_fault = set(map(id, failure.records))
            self._took([record for record in records if id(record) not in at_fault])
        return failure

    def _took(self, records: list[Record]) -> None:
        """The destination has accepted a request with these."""
        self._ledger.took(records)
        self.got_through += 1
        self.failed_alone = 0
        if self.tried:
            tried, self.tried = self.tried, {}
            for record, lane, failures, reason in tried.values():
                if failures + 1 >= MOST_TRIES:
                    self.bury(record, lane, reason)
                else:
                    self.suspect(record, lane, failures + 1, reason)

    def suspect(self, record: Record, lane: str, failures: int, reason: str) -> None:
        """Try it again alone, later; `failures` are those of it alone that count."""
        due = time.time() + min(self._retry_max_s, self._retry_min_s * 2.0 ** (failures - 1))
        self._ledger.suspect(record, lane, reason, failures, due)
        self.suspect_due = due if self.suspect_due is None else min(self.suspect_due, due)

    def bury(self, record: Record, lane: str, reason: str) -> None:
        """It is not tried again."""
        self._ledger.bury(record, lane, reason)
        self._ledger.log(f"an event was refused for good: {reason}", "rejected")
        try:
            self._destination.bury(record, reason)
        except BaseException as error:
            self._ledger.log(f"the destination could not take note of a dead letter: {text_of(error)}", cause_of(error))
