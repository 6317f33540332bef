"""Carries an event log's events to one destination: in order, at least once, and past what cannot be delivered.

No threads here: `round` delivers one batch, and says how long to wait before the next.
docs/why/delivery.md has the rules.
"""

import random
import time
from collections.abc import Callable

from pixel_middleware.destinations.base import Destination, Record
from pixel_middleware.sinks.delivery import PATIENT_ROUNDS, Delivery
from pixel_middleware.sinks.failures import Down, Failure, after_of, cause_of, is_nobodys_fault, text_of
from pixel_middleware.sinks.lanes import FIRST_HOLD_S, Lanes
from pixel_middleware.sinks.ledger import BEAT_S, Ledger
from pixel_middleware.sinks.positions import OTHERS, Positions
from pixel_middleware.sinks.requests import Requests

HELD_SHARE = 0.1  # of the time, for lanes on hold and events that failed alone
DRAIN_S = 1.0  # of a round, for what has waited in a lane that is taken again
LINGER_S = 0.02  # after a batch that was not full: the next is fuller for it


class Courier:
    """Works for one destination of one file; one at a time may, see `Carrier`. Not thread-safe."""

    def __init__(
        self,
        name: str,
        destination: Destination,
        positions: Positions,
        *,
        batch_size: int,
        retry_min_s: float,
        retry_max_s: float,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._positions = positions
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self._stopping = stopping
        # What may not go faster than so gains nothing by a second batch under way.
        self._pipelines = type(destination).begin is not Destination.begin and destination.max_per_second is None
        self._ledger = Ledger(name, positions)
        self._lanes = Lanes(positions, self._ledger, retry_min_s, retry_max_s)
        self._requests = Requests(destination, positions, self._ledger, retry_min_s, retry_max_s)
        self._batch_size = self._requests.pace.batch(batch_size)
        self._delivery = Delivery(self._requests, positions, self._ledger, self._lanes)
        self._credit_s, self._credited_at = 0.0, time.monotonic()  # of the time, for what waits
        self.forget()

    def forget(self) -> None:
        """Begin again from what the file says: somebody else carried, or moved the position, or it is another file."""
        self._ledger.open(0, -1)
        self._not_before = 0.0
        self._clock = 0.0
        self._is_later = True  # the last failed round was nobody's fault
        self._flight: tuple[list[Record], Callable[[], object]] | None = None
        self._is_calm = False  # nothing failed in the last round: a batch may begin while another is under way

    def round(self) -> float | None:
        """Deliver one batch. Returns how many seconds to wait; `None`: until there is something new.

        Raises `StorageError` if the file cannot be read. What was delivered and cannot be written is remembered.
        """
        if not self._load():
            return None
        wait_s = max(self._not_before - time.monotonic(), self._requests.pace.wait_s())
        if wait_s > 0:
            if self._ledger.is_silent():
                self._ledger.save()
            return min(BEAT_S, wait_s)
        self._delivery.begin_round()
        try:
            if not self._delivery.failures:
                self._retry_what_waits()
            if self._ledger.epoch < 0:  # somebody has moved the position meanwhile: it is read anew first
                return 0.0
            last = self._ledger.position if self._flight is None else self._flight[0][-1].id
            head = self._positions.head(last, self._batch_size)
            self._deliver(head)
        except Down as down:
            pause = self._pause_for(down.error)
            self._not_before = time.monotonic() + pause
            self._ledger.save()
            return min(BEAT_S, pause)
        self._delivery.failures = 0
        self._ledger.save()
        if head:
            return 0.0 if len(head) == self._batch_size or self._flight else LINGER_S
        due = [moment for moment in (self._lanes.next_due(), self._requests.suspect_due) if moment is not None]
        return max(LINGER_S, min(due) - time.time()) if due else None

    def finish(self) -> None:
        """Wait for what is under way, and write what has changed."""
        if self._flight is not None:
            batch, end = self._flight
            self._flight = None
            if self._requests.end(batch, end) is None:
                self._ledger.move_to(batch[-1].id)
        if self._ledger.epoch >= 0:
            self._ledger.save()

    def _load(self) -> bool:
        """See that memory and file agree; whether the destination is there."""
        file = self._positions.file
        now = self._positions.position_and_epoch()
        if now is None:
            self._ledger.log("it was dropped; nothing is sent any more", "dropped")
            self.forget()
            return False
        if now[1] != self._ledger.epoch or self._positions.file != file:  # an older copy was put in its place, say
            self.forget()
            self._ledger.open(*now)
            self._lanes.load()
            self._delivery.load()
        if time.time() < self._clock - BEAT_S:  # it was set back
            self._lanes.bound_holds()
        self._clock = time.time()
        return True

    def _deliver(self, head: list[Record]) -> None:
        """Deliver the head of the log, so that the position can move behind it. Raises `Down`."""
        settled = self._ledger.settled
        todo = [record for record in head if record.id not in settled] if settled else head
        by_lane = self._requests.by_lane(todo)
        if self._pipelines and self._goes_ahead(head, todo, by_lane):
            return
        if not head:
            return
        known = {lane: group for lane, group in by_lane.items() if self._lanes.of(lane).accepted}
        on_hold = {lane: group for lane, group in by_lane.items() if self._lanes.of(lane).hold_s}
        for lane, group in on_hold.items():
            known.pop(lane, None)
            self._ledger.set_back(group, lane, self._lanes.of(lane).reason)
        new = {lane: group for lane, group in by_lane.items() if lane not in known and lane not in on_hold}
        if self._delivery.failures >= (PATIENT_ROUNDS if self._is_later else 1):
            self._delivery.probe(known or new)
        if known:
            self._delivery.deliver_known(known)
        self._delivery.deliver_new(new, len(head) == self._batch_size)
        self._delivery.judge_later()
        self._is_calm = True
        self._ledger.move_to(head[-1].id)

    def _goes_ahead(self, head: list[Record], todo: list[Record], by_lane: dict[str, list[Record]]) -> bool:
        """Begin this batch while the one before is under way, as long as all is well; whether that was done."""
        is_calm = (
            self._is_calm and not self._delivery.failures and todo == head and all(map(self._lanes.is_open, by_lane))
        )
        flight, self._flight = self._flight, None
        if head and is_calm:
            try:
                self._flight = (head, self._requests.begin(head))
            except BaseException as error:
                self._requests.failure(head, error)
                is_calm = False
        if flight is not None:
            batch, end = flight
            if self._requests.end(batch, end) is None:
                self._ledger.move_to(batch[-1].id)
            else:
                is_calm = False
        if not is_calm and self._flight is not None:
            # What was begun behind a failure ends too, so that it is not sent twice.
            batch, end = self._flight
            self._flight = None
            self._requests.end(batch, end)
        # Failures are judged by the next round, which sends again what was not delivered, one batch at a time.
        went_ahead = flight is not None or self._flight is not None
        self._is_calm = is_calm
        return went_ahead

    def _retry_what_waits(self) -> None:
        """Try lanes whose hold is over, those accepted once first, and suspects: a tenth of the time at most."""
        now = time.monotonic()
        self._credit_s = min(DRAIN_S, self._credit_s + HELD_SHARE * (now - self._credited_at))
        self._credited_at = now
        while (lane := self._lanes.pop_due(accepted=True)) is not None:
            self._retry_lane(lane)
            if time.monotonic() - now > DRAIN_S:
                return
        while self._credit_s > 0:
            began = time.monotonic()
            due = self._requests.suspect_due
            if due is not None and due <= time.time():
                self._delivery.retry_suspects()
            elif (lane := self._lanes.pop_due(accepted=False)) is not None:
                self._retry_lane(lane)
            else:
                break
            self._credit_s -= time.monotonic() - began
            if self._stopping():
                break

    def _retry_lane(self, name: str) -> None:
        """Ask with one event whether the lane is taken now, and if so deliver what waits in it, for a second."""
        if name == OTHERS:
            self._retry_others()
            return
        deadline = time.monotonic() + DRAIN_S
        limit = 1
        while waiting := self._but_resolved(self._positions.held_in(name, limit + len(self._ledger.resolved))):
            self._ledger.waiting = {record.id for record in waiting}
            try:
                if limit == 1:
                    self._delivery.ask_lane(name, waiting[0])
                else:
                    self._delivery.deliver_lane(name, waiting)
            except Down:
                self._lanes.retry_at(name, time.time())
                raise
            finally:
                self._ledger.waiting = set()
            if name in self._delivery.later:
                self._lanes.hold(name, Failure([], self._delivery.later.pop(name).error, False))
            if self._lanes.of(name).retry_at > time.time():  # it failed again
                return
            if not self._ledger.save() or time.monotonic() > deadline or self._stopping():
                self._lanes.retry_at(name, time.time())
                return
            limit = self._batch_size if self._lanes.of(name).accepted else 1
        if self._ledger.resolved:  # which could not be written
            self._lanes.retry_at(name, time.time() + DRAIN_S)
        else:
            self._lanes.end_hold(name)

    def _retry_others(self) -> None:
        """Try some events of the lanes that are too many to be told apart, those first that waited longest."""
        got_through = self._requests.got_through
        self._lanes.retry_at(OTHERS, time.time() + FIRST_HOLD_S)
        for record in self._but_resolved(self._positions.longest_held_in(OTHERS, 20)):
            for lane, group in self._requests.by_lane([record]).items():
                self._ledger.waiting = {record.id}
                try:
                    self._delivery.deliver_lane(lane, group)
                finally:
                    self._ledger.waiting = set()
                if lane in self._delivery.later:
                    self._lanes.hold(lane, self._delivery.later.pop(lane))
        if self._ledger.save() and not self._positions.longest_held_in(OTHERS, 1):
            self._lanes.end_hold(OTHERS)
        elif self._requests.got_through > got_through:
            self._lanes.retry_at(OTHERS, time.time() + DRAIN_S)

    def _but_resolved(self, records: list[Record]) -> list[Record]:
        resolved = self._ledger.resolved
        return [record for record in records if record.id not in resolved] if resolved else records

    def _pause_for(self, error: BaseException) -> float:
        """How long to leave a destination alone that takes nothing."""
        self._ledger.failed()
        self._ledger.log(f"nothing can be delivered, and the events are kept: {text_of(error)}", cause_of(error))
        after = after_of(error)
        ceiling = min(self._retry_max_s, self._retry_min_s * 2.0 ** min(self._delivery.failures, 30))
        self._delivery.failures += 1
        self._is_later = is_nobodys_fault(error)
        if after is not None:
            return after
        return random.uniform(self._retry_min_s, ceiling)  # jitter: many hosts must not come back at once
