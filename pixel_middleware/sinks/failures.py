"""What a request to a destination did not deliver, and why."""

import re
from typing import Any, NamedTuple

from pixel_middleware.destinations.base import Record
from pixel_middleware.errors import Rejected, RetryLater
from pixel_middleware.wire.printable import printable

LONGEST_PAUSE_S = 3600.0


class Failure(NamedTuple):
    """One request: it did not deliver these, for this reason. `is_named`: the destination said which."""

    records: list[Record]
    error: BaseException
    is_named: bool

    @property
    def holds(self) -> bool:
        """Whether it is the trouble of these records' lanes alone."""
        return isinstance(self.error, RetryLater) and self.error.hold is True

    @property
    def is_nobodys_fault(self) -> bool:
        """Whether the destination says that no event is to blame."""
        return is_nobodys_fault(self.error)


class Down(Exception):
    """The destination takes nothing now, and this is what it says."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def failure_of(records: list[Record], error: BaseException) -> Failure:
    """What an error means for the records of its request: it may name some of them, as records or as equal events."""
    named: list[Record] = []
    if isinstance(error, RetryLater | Rejected):
        try:
            given = list(error.events)
            by_identity = {id(one) for one in given}
            message_ids = {one.get("messageId") for one in given if isinstance(one, dict)}
            named = [
                record
                for record in records
                if id(record) in by_identity or (record.message_id in message_ids and record.event in given)
            ]
        except Exception:  # whatever a destination of the user's has put there
            named = []
    return Failure(named or records, error, bool(named))


def is_nobodys_fault(error: BaseException) -> bool:
    """Whether an error says that no event is to blame."""
    return isinstance(error, RetryLater) and error.unclear is not True


def text_of(error: BaseException) -> str:
    """What went wrong, for people: short and printable."""
    said = printable(error).strip()
    if isinstance(error, RetryLater | Rejected):
        return said[:200] or type(error).__name__
    return f"{type(error).__name__}: {said}"[:200] if said else type(error).__name__


def cause_of(error: BaseException) -> str:
    """What went wrong, in a fixed word, for metrics."""
    if isinstance(error, RetryLater):
        return error.cause if isinstance(error.cause, str) and _WORD.fullmatch(error.cause) else "other"
    return "rejected" if isinstance(error, Rejected) else "error"


_WORD = re.compile("[a-z0-9_]{1,40}")


def after_of(error: BaseException) -> float | None:
    """The seconds that a destination asks for, if it does and they make sense: an hour at most."""
    after: Any = error.after if isinstance(error, RetryLater) else None
    is_number = isinstance(after, int | float) and not isinstance(after, bool) and after == after
    return max(0.0, min(float(min(after, 1e9)), LONGEST_PAUSE_S)) if is_number else None
