"""Carries a backlog to its destination: in order, at least once, and past what cannot be delivered.

No threads here: `run_once` does one round, and says how long to wait before the next.
"""

import logging
import random
import time
from collections.abc import Sequence
from typing import Protocol

from pixel_middleware.errors import Rejected, RetryLater
from pixel_middleware.events import Event
from pixel_middleware.sinks.backlog import Backlog, Waiting

_log = logging.getLogger("pixel_middleware")

LOG_EVERY_S = 60.0  # trouble lasts; once a minute is seen, and more is noise


class Sender(Protocol):
    """Delivers events. Also offers `lane(event) -> str` if some of its events can fail alone."""

    def send(self, events: Sequence[Event]) -> None:
        """Return once all are delivered. Raises `RetryLater` or `Rejected`; anything else counts as `RetryLater`."""


class Courier:
    """One at a time may work on a backlog: see `Outbox`.

    Counts what it did: `sent`, `retried` (rounds that failed) and `buried`.
    """

    def __init__(
        self, backlog: Backlog, sender: Sender, *, batch_size: int, retry_min_s: float, retry_max_s: float
    ) -> None:
        self._backlog = backlog
        self._sender = sender
        self._lane_of = getattr(sender, "lane", lambda event: "")
        self._batch_size = batch_size
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self._failures = 0
        self._logged_at = -LOG_EVERY_S
        self.sent = self.retried = self.buried = 0

    def run_once(self) -> float | None:
        """Send one batch. Returns how many seconds to wait for the next; `None`: until there is something to send."""
        try:
            worked = self._retry_held()
            waiting = self._backlog.head(self._batch_size)
            self._deliver_by_lane(waiting)
        except Exception as error:
            return self._after_failure(error)
        self._failures = 0
        return 0.0 if worked or waiting else None

    def _retry_held(self) -> bool:
        lanes = self._backlog.lanes_to_retry()
        for lane in lanes:
            try:
                self._deliver(self._backlog.head_of_lane(lane, self._batch_size))
            except Exception as error:
                self._hold(lane, error)
            else:
                self._backlog.lift_hold(lane)
        return bool(lanes)

    def _deliver_by_lane(self, waiting: Sequence[Waiting]) -> None:
        lanes: dict[str, list[Waiting]] = {}
        for one in waiting:
            lanes.setdefault(self._lane_of(one.event), []).append(one)
        on_hold = self._backlog.holds() if lanes else {}
        failed: dict[str, Exception] = {}
        for lane, group in lanes.items():
            if lane in on_hold:
                self._backlog.set_aside(lane, group)
                continue
            try:
                self._deliver(group)
            except Exception as error:
                failed[lane] = error
        self._judge(failed, lanes, alone=len(failed) == len(lanes.keys() - on_hold.keys()))

    def _judge(self, failed: dict[str, Exception], lanes: dict[str, list[Waiting]], *, alone: bool) -> None:
        """Set aside the lanes that failed while others did not; if none got through, the destination is down."""
        for lane, error in failed.items():
            if alone and not (isinstance(error, RetryLater) and error.hold):
                raise error
            self._hold(lane, error)
            self._backlog.set_aside(lane, lanes[lane])

    def _hold(self, lane: str, error: Exception) -> None:
        self.retried += 1
        self._log(f"the events of lane {lane!r} are set aside: {str(error) or type(error).__name__}")
        after = getattr(error, "after", None)
        self._backlog.hold(lane, self._retry_max_s if after is None else after, str(error))

    def _deliver(self, group: Sequence[Waiting]) -> None:
        if not group:
            return
        try:
            self._sender.send([one.event for one in group])
        except Rejected as error:
            self._bury(group, error)
        else:
            self._done(group)

    def _bury(self, group: Sequence[Waiting], error: Rejected) -> None:
        """Bury the events at fault; where the sender cannot tell them, halve the batch until one is alone."""
        if not error.events and len(group) > 1:
            half = len(group) // 2
            self._deliver(group[:half])
            self._deliver(group[half:])
            return
        named = {id(event) for event in error.events}
        at_fault = [one for one in group if id(one.event) in named or len(group) == 1]
        for one in at_fault:
            self._backlog.bury(one, str(error))
        self.buried += len(at_fault)
        self._done([one for one in group if one not in at_fault])

    def _done(self, group: Sequence[Waiting]) -> None:
        self._backlog.done(group)
        self.sent += len(group)

    def _after_failure(self, error: Exception) -> float:
        self.retried += 1
        self._log(f"nothing could be sent, and the events are kept: {str(error) or type(error).__name__}")
        after = getattr(error, "after", None)
        if after is not None:
            return float(after)
        ceiling = min(self._retry_max_s, self._retry_min_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return random.uniform(self._retry_min_s, ceiling)  # jitter: many hosts must not come back at once

    def _log(self, message: str) -> None:
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            _log.warning("outbox: %s", message)
