"""A sink on a file, told by the file's name: for the command line and for ini files."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from pixel_middleware.destinations.base import Destination
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.sinks.eventlog import EventLog
from pixel_middleware.sinks.jsonlines import JSONLines


def sink_to(
    output: str | os.PathLike[str],
    destinations: Mapping[str, Destination] | None = None,
    *,
    max_bytes: int | None = None,
    keep_days: float | None = None,
) -> JSONLines | EventLog:
    """A sink on the file `output`: JSON Lines if its name ends in `.jsonl`, an event log if in `.db` or `.sqlite`.

    What follows `output` is an event log's. Raises `ConfigurationError`, or `StorageError` if the file cannot be used.
    """
    if is_log(output, destinations, max_bytes=max_bytes, keep_days=keep_days):
        return EventLog(output, destinations, max_bytes=max_bytes, keep_days=keep_days)
    return JSONLines(output)


def is_log(output: str | os.PathLike[str], destinations: Collection[str] | None = None, **bounds: float | None) -> bool:
    """Whether `output` is called like an event log, and not like JSON Lines. Raises `ConfigurationError` if neither.

    So it does if it is called like JSON Lines and there are destinations, or bounds that are not `None`.
    """
    name = os.fspath(output)
    suffix = Path(name).suffix
    if suffix in (".db", ".sqlite"):
        return True
    if suffix != ".jsonl":
        raise ConfigurationError.must_be("output", "a file whose name ends in .db, .sqlite or .jsonl", name)
    if destinations:
        raise ConfigurationError(
            "output", f"{name} cannot be forwarded: give output a name that ends in .db, like events.db"
        )
    for option, bound in bounds.items():
        if bound is not None:
            raise ConfigurationError(option, f"{option} is for an event log: give output a name that ends in .db")
    return False
