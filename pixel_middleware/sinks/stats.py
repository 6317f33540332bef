"""What an event log holds, and how its destinations are doing, as its file says."""

import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypedDict

from pixel_middleware.sinks.store import Store

HUNG_S = 30.0  # a carrier that has not said for so long that it lives, hangs


class DestinationStats(TypedDict):
    """How a destination is doing. All are the file's, whichever process is asked, but for `carries`.

    New in 0.1.
    """

    lag: int
    """How many events its position is behind the newest."""
    oldest_age_s: float
    """How long the oldest event that is still to be delivered has waited."""
    held: int
    """Setbacks that are tried again."""
    dead: int
    """Dead letters."""
    given_up: int
    """Setbacks that were deleted since they took too much room."""
    sent: int
    """Events that were delivered."""
    retried: int
    """Requests or rounds that failed for now."""
    last_success_age_s: float | None
    """How long ago the destination last took something."""
    last_error: str
    """What went wrong last; `""` if nothing did."""
    cause: str
    """The same in a fixed word, such as `timeout`; `""` if the destination has taken something since."""
    carries: bool
    """Whether this process is the one that sends."""


class LogStats(TypedDict):
    """What an event log holds, and how its destinations are doing.

    New in 0.1.
    """

    events: int
    """From the oldest to the newest; those between that were deleted count too."""
    bytes: int
    destinations: dict[str, DestinationStats]


def stats(store: Store, carried: Iterable[str] = ()) -> LogStats:
    """What the file of `store` holds; `carried` are the destinations that this process carries to."""
    # Each alone reads one row; both in one SELECT would read them all.
    ((oldest, newest),) = store.read("SELECT (SELECT min(id) FROM events), (SELECT max(id) FROM events)")
    ((total, free, size),) = store.read(
        "SELECT page_count, freelist_count, page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
    )
    columns = (
        "d.name, position, carrier, beat_at, sent, retried, given_up, last_success_at, last_error, "
        "CASE WHEN last_error_at >= coalesce(last_success_at, 0) THEN last_cause ELSE '' END, "
        "(SELECT count(*) FROM setbacks WHERE destination = d.name AND state = 'held'), "
        "(SELECT count(*) FROM setbacks WHERE destination = d.name AND state = 'dead'), "
        "(SELECT received_at FROM events WHERE id = (SELECT min(id) FROM events WHERE id > d.position)), "
        "(SELECT received_at FROM events WHERE id = "
        "(SELECT min(id) FROM setbacks WHERE destination = d.name AND state = 'held'))"
    )
    now = time.time()
    destinations: dict[str, DestinationStats] = {}
    for row in store.read(f"SELECT {columns} FROM destinations d ORDER BY d.name"):
        name, position, carrier, beat_at, sent, retried, given_up, last_success_at, last_error, *more = row
        cause, held, dead, *first = more
        lag = max(0, (newest or 0) - position)
        if lag and carrier and now - beat_at > HUNG_S:
            silent_s = now - beat_at
            last_error = f"process {carrier} carries, and has said nothing for {silent_s:.0f} s: it hangs, or is gone"
            cause = "hangs"
        age_s = 0.0
        for received_at in first:
            if received_at is not None:
                with suppress(ValueError):  # another program's idea of a moment
                    age_s = max(age_s, now - datetime.fromisoformat(received_at).replace(tzinfo=UTC).timestamp())
        destinations[name] = DestinationStats(
            lag=lag,
            oldest_age_s=age_s,
            held=held,
            dead=dead,
            given_up=given_up,
            sent=sent,
            retried=retried,
            last_success_age_s=None if last_success_at is None else max(0.0, now - last_success_at),
            last_error=last_error,
            cause=cause,
            carries=name in carried,
        )
    return LogStats(
        events=0 if newest is None else newest - oldest + 1, bytes=(total - free) * size, destinations=destinations
    )
