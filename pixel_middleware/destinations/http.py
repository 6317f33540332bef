"""What the destinations that speak HTTP share: one deadline for a request, and bodies that may be refused."""

import codecs
import http.client
import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from pixel_middleware import checks
from pixel_middleware.destinations.base import Record, Undelivered
from pixel_middleware.errors import ConfigurationError, Rejected, RetryLater
from pixel_middleware.runtime.extras import needed_by

MAX_BODY_BYTES = 500_000  # of the 4,000 KiB that rudder-server takes: a retry costs little, a batch saves enough
MAX_BODY_EVENTS = 1000  # so that the one event at fault is found in 13 requests
MAX_ANSWER_BYTES = 65536
_SENT_AT_ONCE = 65536


class Peer:
    """POSTs to one URL over a connection that is kept. Not thread-safe; a forked child has a connection of its own.

    Raises `ConfigurationError` for what is no URL, and `ModuleNotFoundError` without urllib3.
    """

    def __init__(self, url: str, *, option: str, example: str, timeout_s: float, who: str, extra: str) -> None:
        parts = urlsplit(url if isinstance(url, str) else "")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError.must_be(option, f"a URL like {example}", url)
        if not checks.is_number(timeout_s, 0) or timeout_s == 0:
            raise ConfigurationError.must_be("timeout_s", "a positive number of seconds", timeout_s)
        with needed_by(who, "urllib3", extra=extra):
            import urllib3
        # Looked up here and not by the courier: if another thread imports it at the same moment, as a booting gevent
        # worker may, Python can meet a half-imported codec, and then calls it unknown for as long as the process lives.
        codecs.lookup("idna")
        self._urllib3 = urllib3
        self._url = url
        self._target = parts._replace(scheme="", netloc="", path=parts.path or "/", fragment="").geturl()
        self._deadline = _Deadline(timeout_s)
        self._name = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
        self._pool: Any = None
        self._pid = 0

    def __str__(self) -> str:
        """The URL without what may be secret in it."""
        return self._name

    def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, float | None]:
        """Status, the beginning of the text, and the seconds that a `Retry-After` asks for.

        Raises `RetryLater` if there is no answer `timeout_s` after the call, however it drips.
        """
        if self._pid != os.getpid():
            timeout = self._urllib3.Timeout(connect=self._deadline.timeout_s, read=self._deadline.timeout_s)
            pool = self._urllib3.connection_from_url(self._url, maxsize=1, timeout=timeout)
            own = {
                "deadline": self._deadline,
                "response_class": staticmethod(partial(_PunctualResponse, self._deadline)),
            }
            pool.ConnectionCls = type("PunctualConnection", (_PunctualSending, pool.ConnectionCls), own)
            self._pool, self._pid = pool, os.getpid()
        self._deadline.start()
        try:
            response = self._pool.request(
                "POST", self._target, body=body, headers=headers, retries=False, redirect=False, preload_content=False
            )
            with response:  # a connection whose answer was read whole is back in the pool by then
                text = response.read(MAX_ANSWER_BYTES, decode_content=False)
        except self._urllib3.exceptions.HTTPError as error:
            known = self._urllib3.exceptions
            causes = {
                known.NameResolutionError: "resolve",
                known.NewConnectionError: "connect",  # which urllib3 counts as a timeout
                known.TimeoutError: "timeout",
                known.SSLError: "tls",
            }
            cause = next((cause for kind, cause in causes.items() if isinstance(error, kind)), "connect")
            raise RetryLater(f"{self}: no answer ({type(error).__name__})", cause=cause) from error
        short = text[:200].decode("utf-8", "replace").strip()
        return response.status, short, seconds_of(response.headers.get("Retry-After"))

    def close(self) -> None:
        """Close the connection; `post` opens another."""
        if self._pool is not None and self._pid == os.getpid():
            self._pool.close()
        self._pool, self._pid = None, 0


class _Deadline:
    """When a request must be over. urllib3's timeouts begin anew with each read, so that a slow drip never ends."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.start()

    def start(self) -> None:
        self._end = time.monotonic() + self.timeout_s

    def limit(self, sock: Any) -> None:
        """Let the next operation of a socket last until then. Raises `TimeoutError` if it is past."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for this request is over")
        sock.settimeout(left)


class _PunctualSending:
    """A connection that sends before its deadline. A mixin: urllib3's classes are only known where it is installed."""

    deadline: _Deadline
    sock: Any
    connect: Any

    def send(self, data: bytes) -> None:
        if self.sock is None:
            self.connect()
        for start in range(0, len(data), _SENT_AT_ONCE):
            self.deadline.limit(self.sock)
            super().send(data[start : start + _SENT_AT_ONCE])  # type: ignore[misc]


class _PunctualResponse(http.client.HTTPResponse):
    def __init__(self, deadline: _Deadline, sock: Any, **options: Any) -> None:
        super().__init__(sock, **options)
        self.fp: Any = io.BufferedReader(_PunctualReading(self.fp.detach(), sock, deadline))


class _PunctualReading(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: Any, deadline: _Deadline) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        self._deadline.limit(self._sock)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def seconds_of(retry_after: str | None) -> float | None:
    """What a `Retry-After` asks for, which is a number of seconds or a date; `None` if it is neither."""
    try:
        if retry_after is None or retry_after.isdecimal():
            return None if retry_after is None else float(retry_after)
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a time zone
        return None


NOBODYS_FAULT = (408, 429, 502, 503, 504)
"""Statuses of a server that is busy, or of a proxy that does not reach it."""

Part = tuple[Record, bytes]
"""A record, and what stands for it in a body."""


def post_in_bodies(parts: Sequence[Part], post: Callable[[Sequence[Part]], None], undelivered: Undelivered) -> None:
    """Post all parts in order, in bodies of at most `MAX_BODY_BYTES`, unless one part alone is larger.

    A body that `post` raises `Rejected` for was not delivered; the first part at fault in it is found by halving, and
    what is before it is delivered, once. `RetryLater` ends it. Both are noted in `undelivered`; a `RetryLater` without
    `hold` is raised as well, for it is no use to post anything else.
    """
    start = refused = 0  # a part at fault is somewhere in parts[start:refused]
    while start < len(parts):
        end = start + (max(1, (refused - start) // 2) if refused > start else _fitting(parts, start))
        try:
            post(parts[start:end])
        except Rejected as error:
            if end - start > 1:
                refused = end
                continue
            undelivered.reject(parts[start][0], str(error))
            refused = 0
        except RetryLater as error:
            undelivered.retry([record for record, _ in parts[start:]], error)
            if not error.hold:
                raise
            return
        start = end


def _fitting(parts: Sequence[Part], start: int) -> int:
    """How many of the parts from `start` on fit into one body; one at least."""
    size = 0
    for count, (_, text) in enumerate(parts[start : start + MAX_BODY_EVENTS]):
        size += len(text) + 1
        if size > MAX_BODY_BYTES and count:
            return count
    return min(len(parts) - start, MAX_BODY_EVENTS)


def refusal(
    status: int, text: str, retry_after: float | None, *, never: Sequence[int], hold: bool
) -> RetryLater | Rejected:
    """What an answer that is no success means. With `hold`, 401 and 404 speak of the lane, and not of the destination.

    Some answers are known to be nobody's fault. Of all others (a firewall's 403 for one event, say) it is not clear.
    """
    message = f"HTTP {status}: {text}"
    if status in never:
        return Rejected(message)
    is_unclear = status not in (401, 404, *NOBODYS_FAULT)
    is_held = hold and status in (401, 404)
    return RetryLater(message, after=retry_after, hold=is_held, unclear=is_unclear, cause=f"http_{status}")
