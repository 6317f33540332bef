"""A processor that drops the events of those who asked not to be recorded."""

import logging
import os

from webob import Request

from pixel_middleware.errors import ConfigurationError
from pixel_middleware.events import Event, Processor

_log = logging.getLogger("pixel_middleware")


def suppress(path: str | os.PathLike[str]) -> Processor:
    """Drop the events whose `anonymousId` or `userId` is a line of the file at `path`; they are counted as dropped.

    The file is read again when it has changed, which every event looks for: no restart is needed. A file that cannot
    be read any more, later, is logged, and what it said last holds. Raises `ConfigurationError` if it cannot be read
    at first. Thread-safe.

    New in 0.1.
    """
    name = os.fspath(path)
    try:
        known = (_mark(name), _ids(name))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError("path", f"suppress cannot read {name}: {error}") from error

    def drop_suppressed(event: Event, request: Request) -> Event | None:
        nonlocal known
        try:
            mark = _mark(name)
        except OSError:
            mark = ()
        if mark != known[0]:
            try:
                known = (mark, _ids(name))
            except (OSError, UnicodeDecodeError) as error:
                known = (mark, known[1])
                _log.warning("suppress cannot read %s any more: %s; what it said last holds", name, error)
        ids = known[1]
        return None if event.get("anonymousId") in ids or event.get("userId") in ids else event

    return drop_suppressed


def _mark(path: str) -> tuple[int, ...]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _ids(path: str) -> frozenset[str]:
    with open(path, encoding="utf-8") as lines:
        return frozenset(line.strip() for line in lines) - {""}
