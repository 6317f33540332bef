"""Carries an event log's events to one destination: in order, at least once, and past what cannot be delivered.

No threads here: `round` delivers one batch, and says how long to wait before the next. docs/delivery.md has the rules.
"""

import heapq
import logging
import os
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pixel_middleware.destinations.base import Destination, Record
from pixel_middleware.errors import Rejected, RetryLater, StorageError
from pixel_middleware.sinks.positions import LATEST_HOLD_S, MOST_LANES, OTHERS, Lane, Positions, Statement
from pixel_middleware.wire.printable import printable

_log = logging.getLogger("pixel_middleware")

LOG_EVERY_S = 60.0  # trouble lasts; once a minute is seen, and more is noise
NEW_LANES_S = 0.5  # of a round, for lanes that were never accepted
HELD_SHARE = 0.1  # of the time, for lanes on hold and events that failed alone
DRAIN_S = 1.0  # of a round, for what has waited in a lane that is taken again
FIRST_HOLD_S = 60.0
LONGEST_HOLD_S = LONGEST_PAUSE_S = 3600.0
MOST_TRIES = 8  # of an event that fails alone
PATIENT_ROUNDS = 5  # that end in `RetryLater`, before it may be an event's fault
BEAT_S = 10.0  # how often a courier that waits says that it lives
LINGER_S = 0.02  # after a batch that was not full: the next is fuller for it
_MOST_UNSAVED = 10_000
_CONTROL_EVERY = 16  # failures alone, between two requests that show that the destination is up


class _Failure(NamedTuple):
    """A request that did not deliver all: these it did not, for this reason. `is_named`: the destination said which."""

    records: list[Record]
    error: BaseException
    is_named: bool


class _Down(Exception):
    """The destination takes nothing now, and this is what it says."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class Courier:
    """Works for one destination of one file; one at a time may, see `EventLog`. Not thread-safe."""

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
        self._name = name
        self._destination = destination
        self._positions = positions
        self._batch_size = batch_size
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self._stopping = stopping
        kind = type(destination)
        self._has_lanes = kind.lane is not Destination.lane or kind.lane_of is not Destination.lane_of
        self._pipelines = kind.begin is not Destination.begin
        self._logged_at = float("-inf")
        self._credit_s, self._credited_at = 0.0, time.monotonic()  # of the time, for what waits
        self.forget()

    def forget(self) -> None:
        """Begin again from what the file says: somebody else carried, or moved the position, or it is another file."""
        self._epoch = -1
        self._position = 0
        self._settled: set[int] = set()  # behind the position, and delivered or set back
        self._lanes: dict[str, Lane] = {}
        self._due: tuple[list[tuple[float, str]], list[tuple[float, str]]] = ([], [])  # heaps: accepted lanes, others
        self._suspect_due: float | None = None
        self._tried: dict[int, tuple[Record, str, int, str]] = {}  # failed alone, and nothing got through since
        self._waiting: set[int] = set()  # setbacks that are being tried
        self._resolved: set[int] = set()  # setbacks no more, which is not saved yet
        self._unsaved: list[Statement] = []
        self._sums: dict[str, Any] = dict(_NO_SUMS)
        self._clock = 0.0
        self._saved_at = float("-inf")
        self._saved_position = -1
        self._failures = 0  # rounds in a row that ended with the destination down
        self._is_later = True  # the last of them by `RetryLater`
        self._not_before = 0.0
        self._flight: tuple[list[Record], Callable[[], object]] | None = None
        self._is_calm = False  # nothing failed in the last round: a batch may begin while another is under way

    def round(self) -> float | None:
        """Deliver one batch. Returns how many seconds to wait; `None`: until there is something new.

        Raises `StorageError` if the file cannot be read. What was delivered and cannot be written is remembered.
        """
        if not self._load():
            return None
        if time.monotonic() < self._not_before:
            if time.monotonic() - self._saved_at >= BEAT_S:
                self._save()
            return min(BEAT_S, self._not_before - time.monotonic())
        self._got_through = 0
        self._failed_alone = 0
        self._has_control = False
        self._later: dict[str, _Failure] = {}
        try:
            if not self._failures:
                self._retry_what_waits()
            if (
                self._epoch < 0
            ):  # somebody has moved the position meanwhile: read it anew, or the head is the log's first
                return 0.0
            head = self._head()
            self._deliver(head)
        except _Down as down:
            pause = self._pause_for(down.error)
            self._not_before = time.monotonic() + pause
            self._save()
            return min(BEAT_S, pause)
        self._failures = 0
        self._save()
        return 0.0 if len(head) == self._batch_size or self._flight else self._until_next_try(bool(head))

    def finish(self) -> None:
        """Wait for what is under way, and write what has changed."""
        if self._flight is not None:
            batch, end = self._flight
            self._flight = None
            if self._end(batch, end) is None:
                self._position = batch[-1].id
        if self._epoch >= 0:
            self._save()

    # What there is to deliver.

    def _load(self) -> bool:
        """See that memory and file agree; whether the destination is there."""
        now = self._positions.position_and_epoch()
        if now is None:
            self._log("it was dropped; nothing is sent any more")
            self.forget()
            return False
        if now[1] != self._epoch:
            self.forget()
            self._position, self._epoch = now
            self._lanes = self._positions.lanes()
            self._suspect_due = self._positions.next_suspect_at()
            self._bound_holds()
        if time.time() < self._clock - BEAT_S:  # it was set back
            self._bound_holds()
        self._clock = time.time()
        return True

    def _bound_holds(self) -> None:
        """No hold lasts longer than an hour from now, whatever the clock said when it was made."""
        self._due = ([], [])
        for name, lane in self._lanes.items():
            if lane.hold_s:
                lane.retry_at = min(lane.retry_at, time.time() + LATEST_HOLD_S)
                self._push(name, lane)

    def _head(self) -> list[Record]:
        if self._flight is None:
            return self._positions.head(self._position, self._batch_size)
        return self._positions.head(self._flight[0][-1].id, self._batch_size)

    def _deliver(self, head: list[Record]) -> None:
        """Deliver the head of the log, so that the position can move behind it. Raises `_Down`."""
        todo = [record for record in head if record.id not in self._settled] if self._settled else head
        by_lane = self._by_lane(todo)
        if self._pipelines and self._goes_ahead(head, todo, by_lane):
            return
        if not head:
            return
        known = {lane: group for lane, group in by_lane.items() if self._state(lane).accepted}
        on_hold = {lane: group for lane, group in by_lane.items() if self._state(lane).hold_s}
        for lane, group in on_hold.items():
            known.pop(lane, None)
            self._set_back(lane, group, self._lanes[lane].reason)
        new = {lane: group for lane, group in by_lane.items() if lane not in known and lane not in on_hold}
        if self._failures >= (PATIENT_ROUNDS if self._is_later else 1):
            self._probe(known or new)
        if known:
            self._deliver_known(known)
        self._deliver_new(new, len(head) == self._batch_size)
        self._judge_later()
        self._is_calm = True
        self._position = head[-1].id
        self._settled = {id_ for id_ in self._settled if id_ > self._position}

    def _by_lane(self, records: list[Record]) -> dict[str, list[Record]]:
        if not self._has_lanes:
            return {"": records} if records else {}
        by_lane: dict[str, list[Record]] = {}
        for record in records:
            try:
                lane = self._destination.lane_of(record)
                if not isinstance(lane, str):
                    raise TypeError(f"lane() returned {type(lane).__name__}, and not a string")
            except BaseException as error:
                self._bury(record, "", f"its lane cannot be told: {_text(error)}")
            else:
                by_lane.setdefault(lane, []).append(record)
        return by_lane

    def _goes_ahead(self, head: list[Record], todo: list[Record], by_lane: dict[str, list[Record]]) -> bool:
        """Begin this batch while the one before is under way, as long as all is well; whether that was done."""
        is_calm = self._is_calm and not self._failures and todo == head and all(map(self._is_open, by_lane))
        flight, self._flight = self._flight, None
        if head and is_calm:
            try:
                self._flight = (head, self._destination.begin(head))
            except BaseException:
                is_calm = False
        if flight is not None:
            batch, end = flight
            if self._end(batch, end) is None:
                self._position = batch[-1].id
                self._settled.clear()
            else:
                is_calm = False
        if not is_calm and self._flight is not None:
            # What was begun behind a failure ends too, so that it is not sent twice.
            batch, end = self._flight
            self._flight = None
            self._end(batch, end)
        # Failures are judged by the next round, which sends again what was not delivered, one batch at a time.
        went_ahead = flight is not None or self._flight is not None
        self._is_calm = is_calm
        return went_ahead

    def _is_open(self, lane: str) -> bool:
        state = self._state(lane)
        return state.accepted and not state.hold_s

    # Requests.

    def _send(self, records: list[Record]) -> _Failure | None:
        """One request; what it did not deliver, if anything."""
        if self._has_control:  # which has delivered one of them, maybe
            records = [record for record in records if record.id not in self._settled or record.id in self._waiting]
            if not records:
                return None
        try:
            end = self._destination.begin(records)
        except BaseException as error:
            return self._failure(records, error)
        return self._end(records, end)

    def _end(self, records: list[Record], end: Callable[[], object]) -> _Failure | None:
        try:
            end()
        except BaseException as error:
            return self._failure(records, error)
        self._took(records)
        return None

    def _failure(self, records: list[Record], error: BaseException) -> _Failure:
        named = _named(records, error)
        if named and len(named) < len(records):
            at_fault = set(map(id, named))
            self._took([record for record in records if id(record) not in at_fault])
        return _Failure(named or records, error, bool(named))

    def _took(self, records: list[Record]) -> None:
        """The destination has accepted a request with these."""
        self._sums["sent"] += len(records)
        self._sums["last_success_at"] = time.time()
        self._got_through += 1
        self._failed_alone = 0
        self._settled.update([record.id for record in records])
        if self._waiting:
            for record in records:
                if record.id in self._waiting:
                    self._resolved.add(record.id)
                    self._unsaved.append(self._positions.resolve(record))
        if self._tried:
            tried, self._tried = self._tried, {}
            for record, lane, attempts, reason in tried.values():
                if attempts + 1 >= MOST_TRIES:
                    self._bury(record, lane, reason)
                else:
                    self._suspect(record, lane, attempts + 1, reason)

    # What becomes of what a request did not deliver.

    def _deliver_known(self, lanes: dict[str, list[Record]]) -> None:
        """Deliver what belongs to lanes that were accepted before: all at once, as far as that works."""
        failure = self._send(sorted((record for group in lanes.values() for record in group), key=_by_id))
        if failure is None:
            return
        if failure.is_named:
            for lane, group in self._by_lane(failure.records).items():
                self._settle(lane, _Failure(group, failure.error, True))
        elif len(lanes) == 1:
            self._settle(next(iter(lanes)), failure)
        else:
            names = list(lanes)
            first = self._failures % len(names)  # or the same four would always be asked first
            for lane in names[first:] + names[:first]:
                self._deliver_lane(lane, lanes[lane])
                if len(self._later) >= 4 and not self._got_through:
                    self._judge_later()

    def _deliver_new(self, lanes: dict[str, list[Record]], is_full: bool) -> None:
        """Deliver what belongs to lanes never accepted, each alone; those beyond `NEW_LANES_S` are held, untried."""
        # Less where more stands behind, in which the lanes that were accepted have events too.
        deadline = time.monotonic() + (NEW_LANES_S / 5 if is_full else NEW_LANES_S)
        for lane, group in lanes.items():
            if time.monotonic() > deadline:
                if not self._got_through:
                    self._judge_later()
                self._hold_untried(lane, group)
            else:
                self._deliver_lane(lane, group)

    def _deliver_lane(self, lane: str, records: list[Record]) -> None:
        failure = self._send(records)
        if failure is None:
            self._accept(lane)
        else:
            self._settle(lane, failure)

    def _settle(self, lane: str, failure: _Failure) -> None:
        """Decide about records of one lane that were not delivered."""
        records, error, is_named = failure
        if isinstance(error, Rejected) and (is_named or len(records) == 1):
            for record in records:
                self._bury(record, lane, _text(error))
        elif isinstance(error, Rejected):
            self._search(lane, records)
        elif isinstance(error, RetryLater) and error.hold:
            self._hold(lane, records, error)
        elif self._is_patient_with(error):
            self._later[lane] = failure
        else:
            self._isolate(lane, records, error)

    def _is_patient_with(self, error: BaseException) -> bool:
        return isinstance(error, RetryLater) and self._failures < PATIENT_ROUNDS

    def _judge_later(self) -> None:
        """Lanes that failed for now are sick if anything else got through, and else the destination is down."""
        for lane, failure in self._later.items():
            if not self._got_through:
                raise _Down(failure.error)
            self._hold(lane, failure.records, failure.error)
        self._later.clear()

    def _probe(self, lanes: dict[str, list[Record]]) -> None:
        """After failed rounds, ask with one event, or the newest, whether the destination is up. Raises `_Down`."""
        for lane, group in lanes.items():
            first = group.pop(0)
            failure = self._send([first])
            if failure is None:
                self._accept(lane)
            else:
                self._settle_first(lane, first, failure.error)
            break
        for lane in [lane for lane, group in lanes.items() if not group or self._state(lane).hold_s]:
            self._set_back(lane, lanes.pop(lane), self._state(lane).reason)

    def _isolate(self, lane: str, records: list[Record], error: BaseException) -> None:
        """A failure that may be an event's fault: unless the destination takes nothing at all, find which."""
        if not self._got_through:
            first, records = records[0], records[1:]
            failure = self._send([first]) if records else _Failure([first], error, False)
            if failure is not None:
                self._settle_first(lane, first, failure.error)
                if self._state(lane).hold_s:
                    self._set_back(lane, records, self._state(lane).reason)
                    return
            else:
                self._accept(lane)
        self._search(lane, records)

    def _settle_first(self, lane: str, record: Record, error: BaseException) -> None:
        """Decide about one record that failed alone before anything got through. Raises `_Down`."""
        if isinstance(error, Rejected):
            self._bury(record, lane, _text(error))
        elif isinstance(error, RetryLater) and error.hold:
            self._hold(lane, [record], error)
        elif self._is_patient_with(error) or not self._control(record):
            raise _Down(error)
        else:
            self._suspect_first(record, lane, error)

    def _control(self, beside: Record) -> bool:
        """Whether the destination takes the newest event: then one that failed alone may be at fault."""
        for record in self._positions.newest(self._position, 20 + len(self._settled)):
            if record.id in self._settled or record.id == beside.id:
                continue
            lane = next(iter(self._by_lane([record])), None)
            if lane is None or self._state(lane).hold_s:
                continue
            if self._send([record]) is None:
                self._accept(lane)
                self._has_control = True
                return True
            return False
        return False

    def _search(self, lane: str, records: list[Record]) -> None:
        """Deliver records that fail together while others get through: past each that is at fault, in order."""
        rest, bad = records, len(records)  # one of the first `bad` is at fault; 0: perhaps none
        while rest:
            size = max(1, bad // 2) if bad else len(rest)
            part = rest[:size]
            failure = self._send(part)
            if failure is None:
                self._accept(lane)
                rest, bad = rest[size:], max(0, bad - size)
                continue
            error = failure.error
            if isinstance(error, RetryLater) and (error.hold or self._is_patient_with(error)):
                left = [*failure.records, *rest[size:]]
                self._settle(lane, _Failure(left, error, True))
                return
            if failure.is_named:
                self._settle(lane, failure)
                rest, bad = rest[size:], max(0, bad - size)
            elif size > 1:
                bad = size
            else:
                self._fail_alone(rest[0], lane, error)
                rest, bad = rest[1:], 1  # the next one alone: what is at fault comes in runs

    def _fail_alone(self, record: Record, lane: str, error: BaseException) -> None:
        """One record failed alone, after others got through. Raises `_Down` if it seems to be everybody's trouble."""
        if isinstance(error, Rejected):
            self._bury(record, lane, _text(error))
            return
        self._failed_alone += 1
        if self._failed_alone >= (_CONTROL_EVERY if self._has_control else 2) and not self._control(record):
            raise _Down(error)
        self._suspect_first(record, lane, error)

    # Setbacks and lanes.

    def _suspect_first(self, record: Record, lane: str, error: BaseException) -> None:
        self._suspect(record, lane, 1, _text(error))
        self._log(f"an event fails alone, and is tried again later: {_text(error)}")

    def _suspect(self, record: Record, lane: str, attempts: int, reason: str) -> None:
        """Try it again alone, later; `attempts` are its failures so far."""
        pause = min(self._retry_max_s, self._retry_min_s * 2.0 ** (attempts - 1))
        due = time.time() + pause
        self._write(self._positions.set_back(record, lane, "held", reason, attempts, due), record)
        self._suspect_due = due if self._suspect_due is None else min(self._suspect_due, due)

    def _bury(self, record: Record, lane: str, reason: str) -> None:
        """It is not tried again."""
        self._write(self._positions.set_back(record, lane, "dead", reason, 0, 0.0), record)
        self._log(f"an event was refused for good: {reason}")
        try:
            self._destination.bury(record, reason)
        except BaseException as error:
            self._log(f"the destination could not take note of a dead letter: {_text(error)}")

    def _hold(self, lane: str, records: list[Record], error: BaseException) -> None:
        """Leave a lane alone for some time, and these records with it."""
        name, state = self._lane_to_hold(lane)
        after = _after(error)
        if isinstance(error, RetryLater) and error.hold:
            state.hold_s = min(LONGEST_HOLD_S, max(FIRST_HOLD_S if after is None else after, 2 * state.hold_s, 0.001))
        else:
            state.hold_s = max(after or 0.0, min(self._retry_max_s, max(self._retry_min_s, 2 * state.hold_s)))
        state.retry_at = time.time() + state.hold_s
        state.reason = _text(error)
        self._sums["retried"] += 1
        self._remember(name, state)
        self._set_back(name, records, state.reason)
        self._log(f"the events of lane {printable(lane)[:80]!r} wait: {state.reason}")

    def _hold_untried(self, lane: str, records: list[Record]) -> None:
        name, state = self._lane_to_hold(lane)
        if not state.hold_s:
            state.hold_s, state.retry_at = FIRST_HOLD_S / 2, time.time()
            state.reason = "not tried yet: too many new lanes"
            self._remember(name, state)
        self._set_back(name, records, state.reason)

    def _lane_to_hold(self, lane: str) -> tuple[str, Lane]:
        if lane not in self._lanes and len(self._lanes) >= MOST_LANES - 1:
            lane = OTHERS
        return lane, self._lanes.setdefault(lane, Lane())

    def _state(self, lane: str) -> Lane:
        return self._lanes.get(lane, _UNKNOWN)

    def _accept(self, lane: str) -> None:
        """An event of this lane was taken."""
        state = self._state(lane)
        if state.accepted or lane == OTHERS:
            return
        if lane not in self._lanes and len(self._lanes) >= MOST_LANES - 1:
            self._make_way()
        state = self._lanes.setdefault(lane, Lane())
        state.accepted = True
        self._unsaved.append(self._positions.set_lane(lane, state))
        if state.hold_s:
            self._push(lane, state)

    def _make_way(self) -> None:
        """Forget the lane that matters least: one never accepted, whose events then wait with the others; or any."""
        others = (name for name, lane in self._lanes.items() if not lane.accepted and name != OTHERS)
        open_ones = (name for name, lane in self._lanes.items() if not lane.hold_s)
        least = next(others, None) or next(open_ones, None) or next(iter(self._lanes))
        if self._lanes.pop(least).hold_s:
            state = self._lanes.setdefault(OTHERS, Lane(hold_s=FIRST_HOLD_S, reason="too many lanes"))
            self._remember(OTHERS, state)
            self._unsaved.append(self._positions.move_held(least, OTHERS))
        self._unsaved.append(self._positions.forget_lane(least))

    def _remember(self, name: str, state: Lane) -> None:
        self._unsaved.append(self._positions.set_lane(name, state))
        self._push(name, state)

    def _push(self, name: str, state: Lane) -> None:
        heapq.heappush(self._due[not state.accepted], (state.retry_at, name))

    def _set_back(self, lane: str, records: list[Record], reason: str) -> None:
        for record in records:
            self._write(self._positions.set_back(record, lane, "held", reason, 0, time.time()), record)

    def _write(self, statement: Statement, record: Record) -> None:
        self._unsaved.append(statement)
        self._settled.add(record.id)

    # What waits: lanes on hold, and events that failed alone.

    def _retry_what_waits(self) -> None:
        """Try lanes whose hold is over, those accepted once first, and suspects: a tenth of the time at most."""
        now = time.monotonic()
        self._credit_s = min(DRAIN_S, self._credit_s + HELD_SHARE * (now - self._credited_at))
        self._credited_at = now
        while (lane := self._pop_due(accepted=True)) is not None:
            self._retry_lane(lane)
            if time.monotonic() - now > DRAIN_S:
                return
        while self._credit_s > 0:
            began = time.monotonic()
            if self._suspect_due is not None and self._suspect_due <= time.time():
                self._retry_suspects()
            elif (lane := self._pop_due(accepted=False)) is not None:
                self._retry_lane(lane)
            else:
                break
            self._credit_s -= time.monotonic() - began
            if self._stopping():
                break

    def _pop_due(self, accepted: bool) -> str | None:
        heap = self._due[not accepted]
        while heap and heap[0][0] <= time.time():
            retry_at, name = heapq.heappop(heap)
            state = self._state(name)
            if state.hold_s and state.retry_at == retry_at and state.accepted == accepted:
                return name
        return None

    def _retry_lane(self, name: str) -> None:
        """Ask with one event whether the lane is taken now, and if so deliver what waits in it, for a second."""
        if name == OTHERS:
            self._retry_others()
            return
        state = self._lanes[name]
        deadline = time.monotonic() + DRAIN_S
        limit = 1
        while waiting := self._but_resolved(self._positions.held_in(name, limit + len(self._resolved))):
            self._waiting = {record.id for record in waiting}
            try:
                if limit == 1:
                    self._ask_lane(name, waiting[0])
                else:
                    self._deliver_lane(name, waiting)
            except _Down:
                self._push(name, state)
                raise
            finally:
                self._waiting = set()
            if name in self._later:
                self._hold(name, [], self._later.pop(name).error)
            is_saved = self._save()
            if state.retry_at > time.time():  # it failed again
                return
            if not is_saved or time.monotonic() > deadline or self._stopping():
                state.retry_at = time.time()
                self._push(name, state)
                return
            limit = self._batch_size if state.accepted else 1
        if not self._resolved:
            state.hold_s = state.retry_at = 0.0
            state.reason = ""
            if state.accepted:
                self._unsaved.append(self._positions.set_lane(name, state))
            else:
                del self._lanes[name]
                self._unsaved.append(self._positions.forget_lane(name))

    def _ask_lane(self, name: str, record: Record) -> None:
        failure = self._send([record])
        if failure is None:
            self._accept(name)
        elif isinstance(failure.error, Rejected):
            self._bury(record, name, _text(failure.error))
        else:
            if not isinstance(failure.error, RetryLater):  # it may be at fault: the next to be asked is another one
                self._suspect_first(record, name, failure.error)
            self._hold(name, [], failure.error)

    def _retry_others(self) -> None:
        """Try some events of the lanes that are too many to be told apart, those first that waited longest."""
        got_through = self._got_through
        state = self._lanes[OTHERS]
        for record in self._but_resolved(self._positions.longest_held_in(OTHERS, 20)):
            for lane, group in self._by_lane([record]).items():
                self._waiting = {record.id}
                self._deliver_lane(lane, group)
                self._waiting = set()
                if lane in self._later:
                    self._hold(lane, group, self._later.pop(lane).error)
        is_empty = self._save() and not self._positions.longest_held_in(OTHERS, 1)
        state.hold_s = 0.0 if is_empty else FIRST_HOLD_S
        state.retry_at = time.time() + (1.0 if self._got_through > got_through else FIRST_HOLD_S)
        if is_empty:
            del self._lanes[OTHERS]
            self._unsaved.append(self._positions.forget_lane(OTHERS))
        else:
            self._remember(OTHERS, state)

    def _but_resolved(self, records: list[Record]) -> list[Record]:
        return [record for record in records if record.id not in self._resolved] if self._resolved else records

    def _retry_suspects(self) -> None:
        for record, lane, attempts in self._positions.suspects(time.time(), limit=20):
            if record.id in self._resolved:
                continue
            self._waiting = {record.id}
            failure = self._send([record])
            if failure is None:
                self._accept(lane)
            elif isinstance(failure.error, Rejected):
                self._bury(record, lane, _text(failure.error))
            else:
                self._suspect(record, lane, attempts, _text(failure.error))
                self._tried[record.id] = (record, lane, attempts, _text(failure.error))
                if not self._got_through and len(self._tried) >= 2:
                    break  # it may be down, and each try may take long
        self._waiting = set()
        self._save()
        self._suspect_due = self._positions.next_suspect_at()

    # Pauses, and what is written.

    def _pause_for(self, error: BaseException) -> float:
        """How long to leave a destination alone that takes nothing."""
        self._sums["retried"] += 1
        self._log(f"nothing can be delivered, and the events are kept: {_text(error)}")
        after = _after(error)
        ceiling = min(self._retry_max_s, self._retry_min_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        self._is_later = isinstance(error, RetryLater)
        if after is not None:
            return min(after, LONGEST_PAUSE_S)
        return random.uniform(self._retry_min_s, ceiling)  # jitter: many hosts must not come back at once

    def _until_next_try(self, worked: bool) -> float | None:
        if worked:
            return LINGER_S
        due = [heap[0][0] for heap in self._due if heap]
        if self._suspect_due is not None:
            due.append(self._suspect_due)
        return max(LINGER_S, min(due) - time.time()) if due else None

    def _save(self) -> bool:
        """Write what has changed; whether memory and file agree now."""
        is_idle = self._position == self._saved_position and not self._unsaved and self._sums == _NO_SUMS
        if is_idle and time.monotonic() - self._saved_at < BEAT_S:
            return True
        sums = self._sums | {"carrier": os.getpid(), "beat_at": time.time()}
        try:
            is_ours = self._positions.save(self._position, self._epoch, sums, self._unsaved)
        except StorageError as error:
            self._log(f"its position cannot be written, and is kept in memory: {error}")
            if len(self._unsaved) > _MOST_UNSAVED:
                raise
            return False
        if not is_ours:
            self.forget()  # rewound or dropped by somebody: `_load` reads it anew
            return False
        self._unsaved, self._sums = [], dict(_NO_SUMS)
        self._resolved.clear()
        self._saved_at, self._saved_position = time.monotonic(), self._position
        return True

    def _log(self, message: str) -> None:
        self._sums["last_error"], self._sums["last_error_at"] = message[:300], time.time()
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            _log.warning("destination %s: %s", self._name, message)


_NO_SUMS: dict[str, Any] = {
    "sent": 0,
    "retried": 0,
    "last_success_at": None,
    "last_error": None,
    "last_error_at": None,
}
_UNKNOWN = Lane()


def _by_id(record: Record) -> int:
    return record.id


def _text(error: BaseException) -> str:
    """What went wrong, for people: short and printable."""
    said = printable(error).strip()
    if isinstance(error, RetryLater | Rejected):
        return said[:200] or type(error).__name__
    return f"{type(error).__name__}: {said}"[:200] if said else type(error).__name__


def _after(error: BaseException) -> float | None:
    """The seconds that a destination asks for, if it does and they make sense: an hour at most."""
    after: Any = error.after if isinstance(error, RetryLater) else None
    is_number = isinstance(after, int | float) and not isinstance(after, bool) and after == after
    return max(0.0, min(float(min(after, 1e9)), LONGEST_PAUSE_S)) if is_number else None


def _named(records: list[Record], error: BaseException) -> list[Record]:
    """The records that an error speaks of, which it names as records or, equal in value, as events."""
    if not isinstance(error, RetryLater | Rejected):
        return []
    try:
        given = list(error.events)
        by_identity = {id(one) for one in given}
        message_ids = {one.get("messageId") for one in given if isinstance(one, dict)}
        return [
            record
            for record in records
            if id(record) in by_identity or (record.message_id in message_ids and record.event in given)
        ]
    except Exception:  # whatever a destination of the user's has put there
        return []
