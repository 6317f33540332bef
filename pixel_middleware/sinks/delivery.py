"""What becomes of what a request did not deliver: whose fault it is, and what follows."""

import itertools
import time
from operator import attrgetter

from pixel_middleware.destinations.base import Record
from pixel_middleware.errors import Rejected
from pixel_middleware.sinks.failures import Down, Failure, cause_of, is_nobodys_fault, text_of
from pixel_middleware.sinks.lanes import UNTRIED, Lanes
from pixel_middleware.sinks.ledger import Ledger
from pixel_middleware.sinks.positions import Positions
from pixel_middleware.sinks.requests import Requests

NEW_LANES_S = 0.5  # of a round, for lanes that were never accepted
FLOOD_S = 0.02  # of a round, for them, if some are refused and more stands behind
PATIENT_ROUNDS = 5  # that fail by nobody's fault, before it may be an event's all the same
_CONTROL_EVERY = 16  # failures alone, between two requests that show that the destination is up


class Delivery:
    """Delivers records, and judges failures. One round after the other, see `Courier`. Not thread-safe."""

    def __init__(self, requests: Requests, positions: Positions, ledger: Ledger, lanes: Lanes) -> None:
        self._requests = requests
        self._positions = positions
        self._ledger = ledger
        self._lanes = lanes
        self.failures = 0
        """Rounds in a row that ended with the destination down."""
        self.begin_round()

    def load(self) -> None:
        """Begin with what the file says."""
        self.failures = 0
        self._requests.load()

    def begin_round(self) -> None:
        """Forget what is remembered for one round."""
        self.later: dict[str, Failure] = {}
        """Lanes that failed for now, until it is known whether they or the destination are to blame."""
        self._requests.begin_round()

    def deliver_known(self, lanes: dict[str, list[Record]]) -> None:
        """Deliver what belongs to lanes that were accepted before: all at once, as far as that works."""
        groups = list(lanes.values())
        records = groups[0] if len(groups) == 1 else sorted(itertools.chain(*groups), key=attrgetter("id"))
        failure = self._requests.send(records)
        if failure is None:
            return
        if failure.is_named:
            for lane, group in self._requests.by_lane(failure.records).items():
                self._settle(lane, Failure(group, failure.error, True))
        elif len(lanes) == 1:
            self._settle(next(iter(lanes)), failure)
        else:
            names = list(lanes)
            first = self.failures % len(names)  # or the same four would always be asked first
            for lane in names[first:] + names[:first]:
                self.deliver_lane(lane, lanes[lane])
                if len(self.later) >= 4 and not self._requests.got_through:
                    self.judge_later()

    def deliver_new(self, lanes: dict[str, list[Record]], is_full: bool) -> None:
        """Deliver what belongs to lanes never accepted: each alone, or more and more at once while all are taken.

        Those beyond `NEW_LANES_S` are held, untried.
        """
        # Less where more stands behind, in which the lanes that were accepted have events too.
        budget = NEW_LANES_S / 5 if is_full else NEW_LANES_S
        started = time.monotonic()
        deadline = started + budget
        names = list(lanes)
        size = 1
        while names:
            began = time.monotonic()
            if began > deadline:
                if not self._requests.got_through:
                    self.judge_later()
                for lane in names:
                    self._lanes.hold_untried(lane, Failure(lanes[lane], UNTRIED, False))
                return
            together, names = names[:size], names[size:]
            if size == 1:
                self.deliver_lane(together[0], lanes[together[0]])
                took_all = self._lanes.of(together[0]).accepted
            else:
                groups = (lanes[name] for name in together)
                failure = self._requests.send(sorted(itertools.chain(*groups), key=attrgetter("id")))
                failed = {} if failure is None else self._requests.by_lane(failure.records)
                for name in together:
                    if name not in failed:
                        self._lanes.accept(name)
                lanes |= failed  # these each alone
                names = [*failed, *names]
                took_all = not failed
            if is_full and not took_all:  # a flood of made-up lanes
                deadline = min(deadline, started + FLOOD_S)
            # No larger, if a destination that asks for each lane by itself would take all the time for it.
            size = 1 if not took_all else size if time.monotonic() - began > budget / 4 else 2 * size

    def deliver_lane(self, lane: str, records: list[Record]) -> None:
        """Deliver records of one lane, and decide about those that are not taken. Raises `Down`."""
        failure = self._requests.send(records)
        if failure is None:
            self._lanes.accept(lane)
        else:
            self._settle(lane, failure)

    def _settle(self, lane: str, failure: Failure) -> None:
        """Decide about records of one lane that were not delivered."""
        records, error, is_named = failure
        if isinstance(error, Rejected) and (is_named or len(records) == 1):
            for record in records:
                self._requests.bury(record, lane, text_of(error))
        elif isinstance(error, Rejected):
            self._search(lane, records)
        elif failure.holds:
            self._lanes.hold(lane, failure)
        elif self._is_patient_with(error):
            self.later[lane] = failure
        else:
            self._isolate(lane, records, error)

    def _is_patient_with(self, error: BaseException) -> bool:
        return is_nobodys_fault(error) and self.failures < PATIENT_ROUNDS

    def judge_later(self) -> None:
        """Lanes that failed for now are sick if anything else got through, and else the destination is down."""
        for lane, failure in self.later.items():
            if not self._requests.got_through:
                raise Down(failure.error)
            self._lanes.hold(lane, failure)
        self.later.clear()

    def probe(self, lanes: dict[str, list[Record]]) -> None:
        """After failed rounds, ask with one event, or the newest, whether the destination is up. Raises `Down`."""
        for lane, group in lanes.items():
            first = group.pop(0)
            failure = self._requests.send([first])
            if failure is None:
                self._lanes.accept(lane)
            else:
                self._settle_first(lane, failure)
            break
        for lane in [lane for lane, group in lanes.items() if not group or self._lanes.of(lane).hold_s]:
            self._ledger.set_back(lanes.pop(lane), lane, self._lanes.of(lane).reason)

    def _isolate(self, lane: str, records: list[Record], error: BaseException) -> None:
        """A failure that may be an event's fault: unless the destination takes nothing at all, find which."""
        if not self._requests.got_through:
            first, records = records[0], records[1:]
            failure = self._requests.send([first]) if records else Failure([first], error, False)
            if failure is not None:
                self._settle_first(lane, failure)
                if self._lanes.of(lane).hold_s:
                    self._ledger.set_back(records, lane, self._lanes.of(lane).reason)
                    return
            else:
                self._lanes.accept(lane)
        self._search(lane, records)

    def _settle_first(self, lane: str, failure: Failure) -> None:
        """Decide about one record that failed alone before anything got through. Raises `Down`."""
        (record,), error, _ = failure
        if isinstance(error, Rejected):
            self._requests.bury(record, lane, text_of(error))
        elif failure.holds:
            self._lanes.hold(lane, failure)
        elif self._is_patient_with(error) or not self._control(record):
            raise Down(error)
        else:
            self._suspect_first(record, lane, error)

    def _control(self, beside: Record) -> bool:
        """Whether the destination takes the newest event: then one that failed alone may be at fault."""
        for record in self._positions.newest(self._ledger.position, 20 + len(self._ledger.settled)):
            if record.id in self._ledger.settled or record.id == beside.id:
                continue
            lane = next(iter(self._requests.by_lane([record])), None)
            if lane is None or self._lanes.of(lane).hold_s:
                continue
            if self._requests.send([record]) is None:
                self._lanes.accept(lane)
                self._requests.has_control = True
                return True
            return False
        return False

    def _search(self, lane: str, records: list[Record]) -> None:
        """Deliver records that fail together while others get through: past each that is at fault, in order.

        Raises `Down`.
        """
        rest, bad = records, len(records)  # one of the first `bad` is at fault; 0: perhaps none
        while rest:
            size = max(1, bad // 2) if bad else len(rest)
            part = rest[:size]
            failure = self._requests.send(part)
            if failure is None:
                self._lanes.accept(lane)
                rest, bad = rest[size:], max(0, bad - size)
                continue
            error = failure.error
            if failure.holds or self._is_patient_with(error):
                left = [*failure.records, *rest[size:]]
                self._settle(lane, Failure(left, error, True))
                return
            if isinstance(error, Rejected) and failure.is_named:
                self._settle(lane, failure)
                rest, bad = rest[size:], max(0, bad - size)
            elif len(failure.records) > 1:
                rest, bad = [*failure.records, *rest[size:]], len(failure.records)
            else:
                (record,) = failure.records
                if isinstance(error, Rejected):
                    self._requests.bury(record, lane, text_of(error))
                else:
                    self._requests.failed_alone += 1
                    most = _CONTROL_EVERY if self._requests.has_control else 2
                    if self._requests.failed_alone >= most and not self._control(record):
                        raise Down(error)  # it seems to be everybody's trouble
                    self._suspect_first(record, lane, error)
                rest, bad = rest[size:], 1  # the next one alone: what is at fault comes in runs

    def _suspect_first(self, record: Record, lane: str, error: BaseException) -> None:
        self._requests.suspect(record, lane, 1, text_of(error))
        self._ledger.log(f"an event fails alone, and is tried again later: {text_of(error)}", cause_of(error))

    # Events that failed alone, and lanes that are asked again.

    def retry_suspects(self) -> None:
        """Try again, alone, some events that failed alone."""
        for record, lane, failures in self._positions.suspects(time.time(), limit=20):
            if record.id in self._ledger.resolved:
                continue
            self._ledger.waiting = {record.id}
            failure = self._ask_with(record, lane)
            if failure is not None:
                self._requests.suspect(record, lane, failures, text_of(failure.error))
                self._requests.tried[record.id] = (record, lane, failures, text_of(failure.error))
                if not self._requests.got_through and len(self._requests.tried) >= 2:
                    break  # it may be down, and each try may take long
        self._ledger.waiting = set()
        self._ledger.save()
        self._requests.suspect_due = self._positions.next_suspect_at()

    def ask_lane(self, lane: str, record: Record) -> None:
        """Ask with one event whether a lane that is on hold is taken now."""
        failure = self._ask_with(record, lane)
        if failure is not None:
            if not failure.is_nobodys_fault:  # it may be at fault: the next to be asked is another one
                self._suspect_first(record, lane, failure.error)
            self._lanes.hold(lane, Failure([], failure.error, False))

    def _ask_with(self, record: Record, lane: str) -> Failure | None:
        """Send one event alone: its lane is accepted, or it is buried. Else why it failed for now."""
        failure = self._requests.send([record])
        if failure is None:
            self._lanes.accept(lane)
        elif isinstance(failure.error, Rejected):
            self._requests.bury(record, lane, text_of(failure.error))
            return None
        return failure
