"""What a destination is: the base class of whatever an event log sends to."""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, overload

from pixel_middleware.events import Event


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

    @cached_property
    def event(self) -> Event:
        """The event. Raises `ValueError` if the text is no JSON, which only another program can have written."""
        event: Event = json.loads(self.text)
        return event


class Events(Sequence[Event]):
    """The events of records, decoded when they are looked at: a destination that counts them need not pay for it."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        if isinstance(index, slice):
            return Events(self._records[index])
        return self._records[index].event


class Destination:
    """Delivers events. Write your own with `send`, and `lane` if some events can fail while others do not.

    An `EventLog` calls all methods from one thread of one process at a time, and never from the thread of a request.
    """

    def send(self, events: Sequence[Event]) -> None:
        """Return once all `events` are delivered: a batch of one lane or of several, in order.

        Raises `RetryLater` if they cannot be delivered now, `Rejected` if they never will; both may name the `events`
        they speak of, and the others then count as delivered. Any other exception: see docs/delivery.md.
        """
        raise NotImplementedError

    def lane(self, event: Event) -> str:
        """Events of one lane stay in order, and wait for each other while it is on hold. By default: one lane."""
        return ""

    def bury(self, record: Record, reason: str) -> None:
        """Take note that an event will not be sent again. By default: nothing; the log keeps it as a dead letter."""

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
        return _delivered


def _delivered() -> None:
    """Nothing is left to wait for."""
