"""What became of pixel requests: counted for `stats()`, and refusals written to the log, once a second."""

import logging
import threading
import time
from typing import Literal, NamedTuple, TypedDict
from wsgiref.types import WSGIEnvironment

from pixel_middleware.errors import Reason
from pixel_middleware.events import Event

_log = logging.getLogger("pixel_middleware")

LOG_EVERY_S = 1.0  # a line for each reason; a flood of bad pixels must not become a flood of lines

OUTCOME = "pixel_middleware.outcome"
"""Where the endpoint leaves the `Outcome` of a pixel request in its environ, for who wraps it."""


class Outcome(NamedTuple):
    """What became of one pixel request. The event is there if it was accepted, the reason if it was refused."""

    name: Literal["accepted", "dropped", "failed", "rejected"]
    event: Event | None = None
    reason: Reason | None = None
    message: str = ""


class Stats(TypedDict):
    """Counts since construction, of this process alone."""

    accepted: int
    dropped: int
    failed: int
    rejected: dict[Reason, int]


class Outcomes:
    """Records what became of requests. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {"accepted": 0, "dropped": 0, "failed": 0, "rejected": 0}
        self._rejected: dict[Reason, int] = {}
        self._logged: dict[Reason, tuple[float, int]] = {}

    def record(self, environ: WSGIEnvironment, outcome: Outcome) -> None:
        """Count a request, and leave its outcome in its environ."""
        environ[OUTCOME] = outcome
        with self._lock:
            self._counts[outcome.name] += 1
        if outcome.reason is not None:
            self._refuse(outcome.reason)

    def _refuse(self, reason: Reason) -> None:
        """Log how many were refused since the last line, at most once a second and reason."""
        with self._lock:
            count = self._rejected[reason] = self._rejected.get(reason, 0) + 1
            logged_at, logged = self._logged.get(reason, (-LOG_EVERY_S, 0))
            now = time.monotonic()
            if now - logged_at < LOG_EVERY_S:
                return
            self._logged[reason] = (now, count)
        extra = {"pixel_reason": reason, "pixel_count": count - logged, "pixel_total": count}
        _log.warning("pixels refused: reason=%s count=%d total=%d", reason, count - logged, count, extra=extra)

    def stats(self) -> Stats:
        """All counts at one moment."""
        with self._lock:
            return Stats(
                accepted=self._counts["accepted"],
                dropped=self._counts["dropped"],
                failed=self._counts["failed"],
                rejected=dict(self._rejected),
            )
