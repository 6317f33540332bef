"""A sink on a file, told by the file's name: for the command line and for ini files."""

import os
from pathlib import Path

from pixel_middleware.destinations import from_url
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.sinks.jsonlines import JSONLines
from pixel_middleware.sinks.outbox import Outbox
from pixel_middleware.sinks.sqlite import SQLite


def sink_to(output: str | os.PathLike[str], forward_to: str | None = None) -> JSONLines | SQLite | Outbox:
    """A sink on the file `output`: JSON Lines if its name ends in `.jsonl`, and else SQLite.

    With `forward_to` it is an `outbox_to` there. Raises `ConfigurationError`, or `StorageError` if the
    file cannot be used.
    """
    if forward_to is not None:
        return outbox_to(output, forward_to)
    return JSONLines(output) if _is_jsonl(output) else SQLite(output)


def outbox_to(output: str | os.PathLike[str], forward_to: str) -> Outbox:
    """An outbox on the SQLite file `output`, for what `from_url(forward_to)` delivers to. Raises like `sink_to`."""
    if _is_jsonl(output):
        raise ConfigurationError.must_be("output", "an SQLite file, like events.db, to be forwarded", os.fspath(output))
    return Outbox(output, from_url(forward_to))


def _is_jsonl(output: str | os.PathLike[str]) -> bool:
    return Path(output).suffix == ".jsonl"
