"""What a destination is: the base class of whatever an event log sends to."""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Self, overload

from pixel_middleware.errors import Rejected, RetryLater
from pixel_middleware.events import Event, columns_of, to_json


class Record:
    """An event as the log keeps it: its columns, and its JSON, which `event` decodes when it is asked, once."""

    def __init__(
        self,
        id: int,
        received_at: str,
        type: str,
        write_key: str,
        message_id: str,
        visitor: str,
        name: str,
        text: str,
    ) -> None:
        self.id = id
        """Its place in the log: ids grow."""
        self.received_at = received_at
        self.type = type
        self.write_key = write_key
        self.message_id = message_id
        self.visitor = visitor
        """Its `anonymousId`, else its `userId`."""
        self.name = name
        """Of the event, or of the page."""
        self.text = text
        """The event as one line of JSON."""

    @classmethod
    def of(cls, event: Event) -> Self:
        """The record of an event that is in no log: its id is 0."""
        record = cls(0, *columns_of(event), to_json(event))
        record.event = event
        return record

    @cached_property
    def event(self) -> Event:
        """The event. Raises `ValueError` if the text is no JSON, which only another program can have written."""
        event: Event = json.loads(self.text)
        return event


class Events(Sequence[Event]):
    """The events of records, decoded when they are looked at: a destination that counts them need not pay for it."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        if isinstance(index, slice):
            return Events(self.records[index])
        return self.records[index].event


class Destination:
    """Delivers events. Write your own with `send`, and `lane` if some events can fail while others do not.

    An `EventLog` calls all methods from one native thread, and never from the thread of a request. A fork does not
    wait for them: in the child (`os.getpid()` tells) a destination starts with connections of its own.

    New in 0.1.
    """

    max_per_second: float | None = None
    """How many events an `EventLog` sends in a second at most, on average; also after an outage, when many logs come
    back at once. `None`: as many as it takes. Set it before the log is made."""

    def send(self, events: Sequence[Event]) -> None:
        """Return once all `events` are delivered: a batch of one lane or of several, in order.

        Raises `RetryLater` if they cannot be delivered now, `Rejected` if they never will; both may name the `events`
        they speak of, and the others then count as delivered. Any other exception: see docs/why/delivery.md.
        """
        raise NotImplementedError

    def lane(self, event: Event) -> str:
        """Events of one lane stay in order, and wait for each other if it is on hold. By default: one lane."""
        return ""

    def close(self) -> None:
        """Let go of connections; `send` may come again. Called when the log is closed, and never while `send` runs."""

    # For destinations that can do with what the log has stored, these two save decoding it.

    def lane_of(self, record: Record) -> str:
        """The lane of a stored event."""
        return self.lane(record.event)

    def begin(self, records: Sequence[Record]) -> Callable[[], Any]:
        """Start to deliver; what is returned waits for the end, and raises as `send` does.

        Errors may name records in place of events. The log begins a second batch while it waits for the first.
        """
        self.send(Events(records))
        return lambda: None  # nothing is left to wait for

    def bury(self, record: Record, reason: str) -> None:
        """Take note that an event will not be sent again. By default: nothing; the log keeps it as a dead letter.

        What it raises is logged, and it is not called again for this event.
        """


class RecordDestination(Destination):
    """A destination that works on what is stored: it writes `deliver`, and `lane_of` if it has lanes."""

    def lane(self, event: Event) -> str:
        """The lane of an event."""
        return self.lane_of(Record.of(event))

    def lane_of(self, record: Record) -> str:
        """The lane of a stored event. By default: one lane."""
        return ""

    def send(self, events: Sequence[Event]) -> None:
        """Return once all events are delivered. Raises `RetryLater` or `Rejected`, which name what was not."""
        if isinstance(events, Events):
            self.deliver(events.records)
            return
        try:
            self.deliver([Record.of(event) for event in events])
        except (RetryLater, Rejected) as error:
            error.events = [record.event for record in error.events]
            raise

    def deliver(self, records: Sequence[Record]) -> None:
        """Return once all are delivered. Raises `RetryLater` or `Rejected`, which name the records that were not."""
        raise NotImplementedError


class Undelivered:
    """What became of the records of a batch that were not delivered, to be raised as one error."""

    MIXED_RETRY_S = 1.0
    """When to try again if one error must speak for lanes on hold and for events that were rejected: each lane will
    then have an error of its own."""

    def __init__(self) -> None:
        self._rejected: list[tuple[Record, str]] = []
        self._waiting: list[tuple[Record, RetryLater]] = []

    def reject(self, record: Record, reason: str) -> None:
        """The destination will never take `record`."""
        self._rejected.append((record, reason))

    def retry(self, records: Sequence[Record], error: RetryLater) -> None:
        """The destination did not take `records` now."""
        self._waiting += [(record, error) for record in records]

    @property
    def outage(self) -> RetryLater | None:
        """What stops the whole destination, and not a lane alone."""
        return next((error for _, error in self._waiting if not error.hold), None)

    def take_rejected(self) -> list[tuple[Record, str]]:
        """What was rejected, and why; forgotten from now on."""
        rejected, self._rejected = self._rejected, []
        return rejected

    def raise_if_any(self) -> None:
        """Raise what names all these records; return if there are none.

        What stops the whole destination outweighs what stops a lane, and that outweighs an event's own fault.
        """
        records = list({id(record): record for record, _ in (*self._waiting, *self._rejected)}.values())
        reasons = [reason for _, reason in self._rejected]
        waiting = [error for _, error in self._waiting]
        if self.outage is not None:
            worst, after, reasons = self.outage, self.outage.after, [str(self.outage)]
        elif waiting:
            worst, after, mixed = waiting[0], waiting[0].after, {error.after for error in waiting}
            if self._rejected or len(mixed) > 1:
                after = self.MIXED_RETRY_S
            reasons = [str(error) for error in waiting]
        elif records:
            raise Rejected(_joined(reasons), events=records)
        else:
            return
        raise RetryLater(
            _joined(reasons), after=after, hold=worst.hold, unclear=worst.unclear, events=records, cause=worst.cause
        )


def _joined(reasons: Sequence[str]) -> str:
    """Several reasons in one line: the first three different ones."""
    return "; ".join(list(dict.fromkeys(reasons))[:3])
