"""What became of pixel requests: counted for `stats()`, and written to the log, never as a flood of lines."""

import logging
import os
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal, NamedTuple, TypedDict
from wsgiref.types import WSGIEnvironment

from pixel_middleware.events import Event, Refusal
from pixel_middleware.runtime import forks
from pixel_middleware.wire.request import MOST_AGENT_BYTES, client_address, network_of, text

_log = logging.getLogger("pixel_middleware")

LOG_EVERY_S = 1.0  # a line for each cause; a flood of bad pixels must not become a flood of lines

MOST_CAUSES = 100  # of each outcome, counted one by one; a processor may make up reasons without end

OTHERS = "others"
"""What further causes are counted as."""

_LINES = {
    "rejected": "pixels refused: reason=%s count=%d total=%d",
    "dropped": "pixels dropped: processor=%s count=%d total=%d",
    "failed": "pixels failed: error=%s count=%d total=%d",
}

OUTCOME = "pixel_middleware.outcome"
"""Where the endpoint leaves the `Outcome` of a pixel request in its environ, for who wraps it."""


class Outcome(NamedTuple):
    """What became of one pixel request. The event is there if it was accepted, the reason if it was refused."""

    name: Literal["accepted", "dropped", "failed", "rejected"]
    event: Event | None = None
    reason: str | None = None
    message: str = ""
    by: str = ""
    """The name of the processor that dropped it, or the type of the exception that failed it."""
    describe: Callable[[WSGIEnvironment], Refusal] | None = None
    """Makes the `Refusal` that there is to tell of it, of its environ; if it was not accepted."""
    told: Callable[[Refusal], object] | None = None
    """Who was told so already: the middleware's `refused`."""


class Stats(TypedDict):
    """Counts since construction, of this process alone.

    New in 0.1.
    """

    accepted: int
    dropped: int
    failed: int
    rejected: dict[str, int]


class _Cause:
    """A reason, a processor, or an error and the line that raised it: how often, and how often at the last log line."""

    __slots__ = ("logged", "logged_at", "reason", "total")

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.total = self.logged = 0
        self.logged_at = -LOG_EVERY_S


class Outcomes(forks.ForkAware):
    """Records what became of requests; `refused` gets each that became no event of the sink's.

    Thread-safe; a forked child counts from 0.
    """

    def __init__(self, refused: Callable[[Refusal], object] | None = None, trusted_proxies: int = 0) -> None:
        self._refused = refused
        self._trusted_proxies = trusted_proxies
        self._kept_in: dict[int, Callable[[], object]] = {}
        self.after_fork_in_child()
        forks.watch(self)

    def keep_in(self, log: Any) -> None:
        """Have the counts kept in the file of an event log too, unless they are."""
        if id(log) not in self._kept_in:
            # A new one: threads of the host may be going through the old one.
            self._kept_in = self._kept_in | {id(log): log.keep_counts(self.counts)}

    def accept(self, environ: WSGIEnvironment, event: Event) -> None:
        """Count a request whose event the sink took."""
        environ[OUTCOME] = Outcome("accepted", event)
        forks.notice(self)
        with self._lock:
            self._accepted += 1
        for tell in self._kept_in.values():
            tell()

    def record(self, environ: WSGIEnvironment, outcome: Outcome, error: Exception | None = None) -> None:
        """Count a request of any other outcome, a failure with its error, and leave it in its environ.

        The first of each cause is logged, a failure with its traceback; and then, at most once a second, how many
        more there were. Nothing of a request is in a line.
        """
        by = outcome.by
        if error is not None:
            with suppress(Exception):  # a text of somebody else's making
                by = f"{by}: {error}"[:200]
        describe = partial(self._describe, time.time(), outcome, by)
        environ[OUTCOME] = outcome._replace(describe=describe, told=self._refused)
        if self._refused is not None:
            try:
                self._refused(describe(environ))
            except Exception as failure:  # it is only told, and must not change the answer
                _log.error("refused= failed: %s", type(failure).__qualname__)
        forks.notice(self)
        name = outcome.name
        what = reason = outcome.reason or outcome.by
        if error is not None:
            for frame, line in [*traceback.walk_tb(error.__traceback__)][-1:]:  # if it was raised, and not only told
                what = f"{what} at {os.path.basename(frame.f_code.co_filename)}:{line}"
        with self._lock:
            causes = self._causes[name]
            if what not in causes and len(causes) >= MOST_CAUSES:
                what = reason = OTHERS
            cause = causes.setdefault(what, _Cause(reason))
            cause.total += 1
            now = time.monotonic()
            is_first = cause.total == 1
            is_told = is_first or now - cause.logged_at >= LOG_EVERY_S
            count, total = cause.total - cause.logged, cause.total
            if is_told:
                cause.logged, cause.logged_at = total, now
        for tell in self._kept_in.values():
            tell()
        if not is_told:
            return

        if error is not None and is_first:
            _log.error("an event was not accepted, and its pixel was answered 503", exc_info=error)
            return
        # The first drop is a warning: a processor that forgets to return its event drops all of them.
        level = logging.INFO if name == "dropped" and not is_first else logging.WARNING
        extra = {"pixel_reason": what, "pixel_count": count, "pixel_total": total}
        _log.log(level, _LINES[name], what, count, total, extra=extra)

    def _describe(self, at: float, outcome: Outcome, by: str, environ: WSGIEnvironment) -> Refusal:
        if outcome.name == "dropped":  # to forget it: so nothing of the request is kept here either
            return Refusal(at, "dropped", cause=by)
        return Refusal(
            at=at,
            kind="failed" if outcome.name == "failed" else "rejected",
            reason=outcome.reason or "sink_failed",
            message=outcome.message,
            path=text(environ, "PATH_INFO"),
            query=text(environ, "QUERY_STRING"),
            user_agent=text(environ, "HTTP_USER_AGENT", MOST_AGENT_BYTES),
            network=network_of(client_address(environ, self._trusted_proxies)),
            cause=by,
        )

    def counts(self) -> dict[tuple[str, str], int]:
        """How often there was which outcome and reason: of a drop the processor, of a failure the exception's type."""
        forks.notice(self)
        with self._lock:
            counts: Counter[tuple[str, str]] = Counter({("accepted", ""): self._accepted})
            for name, causes in self._causes.items():
                for cause in causes.values():
                    counts[name, cause.reason] += cause.total
            return counts

    def stats(self) -> Stats:
        """All counts at one moment."""
        forks.notice(self)
        with self._lock:
            totals = {name: {what: cause.total for what, cause in each.items()} for name, each in self._causes.items()}
            return Stats(
                accepted=self._accepted,
                dropped=sum(totals["dropped"].values()),
                failed=sum(totals["failed"].values()),
                rejected=totals["rejected"],
            )

    def after_fork_in_child(self) -> None:
        """What was counted is the parent's."""
        self._lock = threading.Lock()
        self._accepted = 0
        self._causes: dict[str, dict[str, _Cause]] = {name: {} for name in _LINES}
