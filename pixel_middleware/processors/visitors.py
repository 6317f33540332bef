"""A processor that tells the visitors of one day apart, and cannot tell those of two days."""

import fcntl
import hashlib
import hmac
import json
import os
import re
import stat
import time
from typing import NamedTuple

from webob import Request

from pixel_middleware.errors import ConfigurationError, StorageError
from pixel_middleware.events import Event, as_uuid

_DAY_S = 86400
_RECORD = re.compile(rb"pixel-middleware daily salt 1 (\d{8}) ([0-9a-f]{64})\n")
_LENGTH = 104  # of every record, so that one overwrites the other whole


class _Salt(NamedTuple):
    """A random secret of one UTC day, and the state of the file in which it was found."""

    day: int
    secret: bytes
    found_in: tuple[int, int, int]


class daily_visitor:
    """Give an event that has neither `anonymousId` nor `userId` an `anonymousId` that holds for a UTC day.

    It is a UUID (version 8) made by HMAC-SHA256 of host, address and user agent, with a random salt of that day. The
    salt stands in the file at `path`, which all processes of a host share, and which only its owner may read. The
    first event of the next day overwrites it; from then on nobody, you included, can tell which visitors of the two
    days are the same. Events that have an id are left as they are.

    Needs `require_anonymous_id=False`. Put it before `anonymize_ip` and `drop_ip`, which take away what it needs, and
    behind `honor_gpc`, if you use that.

    Raises `ConfigurationError` if the file cannot be made, or is not such a file, or is open to others. If it is
    deleted later, events without an id are refused with 503 until a process starts and makes a new one; if it is
    spoilt, until you delete it and restart. Thread-safe, and safe to fork: no file stays open.

    New in 0.1.
    """

    gives_anonymous_id = True
    """Read by the endpoint, which then lets events without any id reach the processors."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self._path = os.path.abspath(os.fspath(path))
        except TypeError:
            raise ConfigurationError.must_be("path", "the path of a file", path) from None
        try:
            self._salt = self._shared_salt()
        except StorageError as error:
            raise ConfigurationError("path", str(error)) from error

    def __call__(self, event: Event, request: Request) -> Event:
        if _is_blank(event.get("anonymousId", "")) and _is_blank(event.get("userId", "")):
            environ = request.environ
            host = environ.get("HTTP_HOST") or environ.get("SERVER_NAME", "")
            # The event's own day, too: events of an old log must not be linked with today's.
            who = [event["receivedAt"][:10], host.lower(), event["request_ip"], environ.get("HTTP_USER_AGENT", "")]
            digest = hmac.digest(self._secret(), json.dumps(who).encode(), hashlib.sha256)
            event["anonymousId"] = as_uuid(digest[:16], "8")
        return event

    def _secret(self) -> bytes:
        """Today's. The file is looked at each time, so that processes agree, and a deleted one is noticed at once."""
        salt = self._salt
        try:
            is_current = salt.found_in == _state(os.stat(self._path)) and salt.day == _today()
        except OSError as error:
            raise _unusable(self._path, error.strerror) from error
        if not is_current:
            salt = self._salt = self._shared_salt()
        return salt.secret

    def _shared_salt(self) -> _Salt:
        """What the file has for today, put there if it has another day's. Raises `StorageError`."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    raise _unusable(self._path, "it is no regular file")
                if status.st_uid != os.geteuid():
                    own = "it belongs to another user, who knows the salt; use a file that this process makes"
                    raise _unusable(self._path, own)
                if status.st_mode & 0o077:
                    mode = f"{stat.S_IMODE(status.st_mode):04o}"
                    raise _unusable(self._path, f"others may read it (mode {mode}); use a new one")
                content = os.pread(file, _LENGTH + 1, 0)
                record = _RECORD.fullmatch(content)
                if content and not record:
                    raise _unusable(self._path, "it is no file of daily_visitor's, and is left as it is")
                day = _today()  # not before the lock is ours: it may have taken us past midnight
                if record and int(record[1]) == day:
                    secret = bytes.fromhex(record[2].decode())
                else:
                    secret = os.urandom(32)
                    # In place: a new file would leave yesterday's salt in the blocks of the old one.
                    os.pwrite(file, b"pixel-middleware daily salt 1 %08d %s\n" % (day, secret.hex().encode()), 0)
                    os.fsync(file)
                return _Salt(day, secret, _state(os.fstat(file)))
            finally:
                os.close(file)
        except OSError as error:
            raise _unusable(self._path, error.strerror) from error


def _is_blank(value: object) -> bool:
    return not str(value).strip()


def _today() -> int:
    return int(time.time() // _DAY_S)


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _unusable(path: str, reason: str | None) -> StorageError:
    return StorageError(f"the salt file of daily_visitor cannot be used: {path}: {reason}")
