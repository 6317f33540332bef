"""A sink on a file, told by the file's name: for the command line and for ini files."""

import os
from collections.abc import Mapping
from pathlib import Path

from pixel_middleware.destinations.base import Destination
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.sinks.eventlog import EventLog
from pixel_middleware.sinks.jsonlines import JSONLines


def sink_to(
    output: str | os.PathLike[str], destinations: Mapping[str, Destination] | None = None
) -> JSONLines | EventLog:
    """A sink on the file `output`: JSON Lines if its name ends in `.jsonl`, an event log if in `.db` or `.sqlite`.

    An event log sends to `destinations`. Raises `ConfigurationError`, or `StorageError` if the file cannot be used.
    """
    suffix = Path(output).suffix
    if suffix in (".db", ".sqlite"):
        return EventLog(output, destinations)
    if suffix != ".jsonl":
        raise ConfigurationError.must_be(
            "output", "a file whose name ends in .db, .sqlite or .jsonl", os.fspath(output)
        )
    if destinations:
        raise ConfigurationError(
            "output", f"{os.fspath(output)} cannot be forwarded: give output a name that ends in .db, like events.db"
        )
    return JSONLines(output)
