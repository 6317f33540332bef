"""Whether a collector can be used: in numbers and fixed words, without anything personal or secret."""

from typing import Any

from pixel_middleware.errors import StorageError
from pixel_middleware.sinks import EventLog, JSONLines

NUMBERS = ("lag", "oldest_age_s", "held", "dead")


def health(sink: EventLog | JSONLines) -> tuple[bool, dict[str, Any]]:
    """Whether an event would be stored now, and how that is, for JSON.

    A destination's trouble is told and changes nothing: its events wait, and others can be stored. May wait some
    seconds for a file that is locked.
    """
    told: dict[str, Any] = {"status": "ok"}
    try:
        sink.probe()
    except StorageError:
        told["status"] = "refusing"
    if isinstance(sink, EventLog):
        told["destinations"] = {}
        try:
            stats = sink.stats()
        except StorageError:
            return False, told
        told |= {"events": stats["events"], "bytes": stats["bytes"]}
        for name, of_one in stats["destinations"].items():
            numbers: dict[str, Any] = {number: of_one[number] for number in NUMBERS}  # type: ignore[literal-required]
            state = "failing" if of_one["cause"] else "behind" if of_one["lag"] or of_one["held"] else "ok"
            told["destinations"][name] = {"state": state, "cause": of_one["cause"], **numbers}
    return told["status"] == "ok", told
