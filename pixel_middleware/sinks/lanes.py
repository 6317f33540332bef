"""The lanes of one destination: which were accepted once, and which are on hold, for how long."""

import heapq
import time

from pixel_middleware.errors import RetryLater
from pixel_middleware.sinks.failures import LONGEST_PAUSE_S, Failure, after_of, cause_of, text_of
from pixel_middleware.sinks.ledger import Ledger
from pixel_middleware.sinks.positions import LATEST_HOLD_S, MOST_LANES, OTHERS, Lane, Positions
from pixel_middleware.wire.printable import printable

FIRST_HOLD_S = 60.0

_UNKNOWN = Lane()


class Lanes:
    """What is known of lanes, in memory; what changes is written to `ledger`. Not thread-safe."""

    def __init__(self, positions: Positions, ledger: Ledger, retry_min_s: float, retry_max_s: float) -> None:
        self._positions = positions
        self._ledger = ledger
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self._lanes: dict[str, Lane] = {}
        self._due: tuple[list[tuple[float, str]], list[tuple[float, str]]] = ([], [])  # heaps: accepted lanes, others

    def load(self) -> None:
        """Begin with what the file says."""
        self._lanes = self._positions.lanes()
        self.bound_holds()

    def bound_holds(self) -> None:
        """No hold lasts longer than an hour from now, whatever the clock said when it was made."""
        self._due = ([], [])
        for name, lane in self._lanes.items():
            if lane.hold_s:
                lane.retry_at = min(lane.retry_at, time.time() + LATEST_HOLD_S)
                self._push(name, lane)

    def of(self, name: str) -> Lane:
        """What is known of a lane; not to be changed."""
        return self._lanes.get(name, _UNKNOWN)

    def is_open(self, name: str) -> bool:
        """Whether it was accepted once, and is not on hold."""
        lane = self.of(name)
        return lane.accepted and not lane.hold_s

    def accept(self, name: str) -> None:
        """An event of this lane was taken."""
        if self.of(name).accepted or name == OTHERS:
            return
        if name not in self._lanes and len(self._lanes) >= MOST_LANES - 1:
            self._make_way()
        lane = self._lanes.setdefault(name, Lane())
        lane.accepted = True
        self._ledger.write(self._positions.set_lane(name, lane))
        if lane.hold_s:
            self._push(name, lane)

    def hold(self, name: str, failure: Failure) -> None:
        """Leave a lane alone for some time, and the records of the failure with it."""
        name, lane = self._lane_to_hold(name)
        after = after_of(failure.error)
        if failure.holds:
            first = FIRST_HOLD_S if after is None else after
            lane.hold_s = min(LONGEST_PAUSE_S, max(first, 2 * lane.hold_s, 0.001))
        else:
            lane.hold_s = max(after or 0.0, min(self._retry_max_s, max(self._retry_min_s, 2 * lane.hold_s)))
        lane.retry_at = time.time() + lane.hold_s
        lane.reason = text_of(failure.error)
        self._ledger.failed()
        self._remember(name, lane)
        self._ledger.set_back(failure.records, name, lane.reason)
        self._ledger.log(f"the events of lane {printable(name)[:80]!r} wait: {lane.reason}", cause_of(failure.error))

    def hold_untried(self, name: str, failure: Failure) -> None:
        """Leave a lane and these records for later, since there is no time to try it now."""
        name, lane = self._lane_to_hold(name)
        if not lane.hold_s:
            lane.hold_s, lane.retry_at = FIRST_HOLD_S / 2, time.time()
            lane.reason = text_of(failure.error)
            self._remember(name, lane)
        self._ledger.set_back(failure.records, name, lane.reason)

    def retry_at(self, name: str, moment: float) -> None:
        """A lane that is on hold is due then."""
        lane = self._lanes[name]
        lane.retry_at = moment
        self._push(name, lane)

    def end_hold(self, name: str) -> None:
        """Nothing waits in this lane any more."""
        lane = self._lanes[name]
        lane.hold_s = lane.retry_at = 0.0
        lane.reason = ""
        if lane.accepted:
            self._ledger.write(self._positions.set_lane(name, lane))
        else:
            del self._lanes[name]
            self._ledger.write(self._positions.forget_lane(name))

    def pop_due(self, accepted: bool) -> str | None:
        """A lane whose hold is over, of those accepted once or of the others; it is not given again until it is due."""
        heap = self._due[not accepted]
        while heap and heap[0][0] <= time.time():
            retry_at, name = heapq.heappop(heap)
            lane = self.of(name)
            if lane.hold_s and lane.retry_at == retry_at and lane.accepted == accepted:
                return name
        return None

    def next_due(self) -> float | None:
        """When the next hold is over (Unix time), or earlier."""
        return min((heap[0][0] for heap in self._due if heap), default=None)

    def _lane_to_hold(self, name: str) -> tuple[str, Lane]:
        if name not in self._lanes and len(self._lanes) >= MOST_LANES - 1:
            name = OTHERS
        return name, self._lanes.setdefault(name, Lane())

    def _make_way(self) -> None:
        """Forget the lane that matters least: one never accepted, whose events then wait with the others; or any."""
        others = (name for name, lane in self._lanes.items() if not lane.accepted and name != OTHERS)
        open_ones = (name for name, lane in self._lanes.items() if not lane.hold_s)
        least = next(others, None) or next(open_ones, None) or next(iter(self._lanes))
        if self._lanes.pop(least).hold_s:
            lane = self._lanes.setdefault(OTHERS, Lane(hold_s=FIRST_HOLD_S, reason="too many lanes"))
            self._remember(OTHERS, lane)
            self._ledger.write(self._positions.move_held(least, OTHERS))
        self._ledger.write(self._positions.forget_lane(least))

    def _remember(self, name: str, lane: Lane) -> None:
        self._ledger.write(self._positions.set_lane(name, lane))
        self._push(name, lane)

    def _push(self, name: str, lane: Lane) -> None:
        heapq.heappush(self._due[not lane.accepted], (lane.retry_at, name))


UNTRIED = RetryLater("not tried yet: too many new lanes")
"""Why a lane waits that was not asked."""
