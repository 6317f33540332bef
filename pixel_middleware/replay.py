"""Events recovered from a web server's access log: a pixel request is whole in its line.

Each line becomes a request again, and takes the way that a request takes: the endpoint's. An event made twice of the
same line has the same `messageId`.
"""

import gzip
import hashlib
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote_to_bytes
from wsgiref.types import WSGIEnvironment

from webob import Request

from pixel_middleware.endpoint import Endpoint
from pixel_middleware.events import Event, Refusal, as_uuid
from pixel_middleware.sinks.known import Known
from pixel_middleware.wire.access_log import Hit, moment_of, parse

LONGEST_LINE = 1 << 20  # bytes; servers take requests of some 8 KiB


class Replay:
    """Makes events of log lines, and counts what became of each line.

    Args:
        prefix: where the pixels were.
        statuses: lines with another status are left out, since their client was not told 200.
        known: what is stored already; such events are left out, once for each that is stored.
        since, until: only lines of this period, in the form of `receivedAt`; the end is not part of it.
        options: those of `PixelMiddleware`, such as `write_keys` and `processors`. A `userId` may stand in for the
            `anonymousId` unless they say otherwise: the collector had accepted it.

    Raises `ConfigurationError`.
    """

    def __init__(
        self,
        prefix: str = "/pixel/v1",
        statuses: Collection[int] = (200,),
        known: Known | None = None,
        *,
        since: str | None = None,
        until: str | None = None,
        **options: Any,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._marker = f"{quote(prefix)}/".encode()
        self._statuses = frozenset(statuses)
        self._known = Known() if known is None else known
        self._since, self._until = since or "", until or "~"
        self._made: list[Event] = []  # of the line at hand: one event, or none
        # A log has the client's address, whatever stands in front of the app.
        defaults = {"require_anonymous_id": False, "response": "text"}
        fixed = {"prefix": prefix, "trusted_proxies": 0, "amp": False, "refused": self._note_refusal}
        processors = [_as_logged, *options.pop("processors", ())]
        options = defaults | options | fixed
        self._endpoint = Endpoint(self._made.append, processors=processors, **options)
        self._refusal = ""

    def events(self, lines: Iterable[bytes]) -> Iterator[Event]:
        """The events that are not known yet, in order."""
        for line in lines:
            outcome = self._event_of(line.rstrip(b"\r\n"))
            if isinstance(outcome, str):
                self.counts[outcome] += 1
            else:
                self.counts["stored"] += 1
                yield outcome

    def _event_of(self, line: bytes) -> Event | str:
        if len(line) > LONGEST_LINE:
            return "not understood"
        if self._marker not in line:
            return "not a pixel"
        hit = parse(line)
        if hit is None:
            return "not understood"
        path, _, query = hit.target.partition("?")
        path = unquote_to_bytes(path).decode("latin-1")
        if not path.startswith(self._endpoint.below):
            return "not a pixel"
        if hit.method != "GET":
            return "another method"
        if hit.status not in self._statuses:
            return f"status {hit.status}"
        moment = moment_of(hit.time)
        if moment is None:
            return "not understood"
        if not self._since <= moment < self._until:
            return "another time"
        # Two clicks within a second may leave equal lines: the first, the second, and so on have an id each.
        digest = hashlib.blake2b(line, digest_size=16).digest()
        count = self._known.count(digest, moment)
        if count > 1:
            digest = hashlib.blake2b(digest, digest_size=16, salt=b"%d" % count).digest()
        self._made.clear()
        self._endpoint.answer(_environ(hit, path, query, moment, as_uuid(digest, "5")))
        if not self._made:
            return "not a pixel" if self._refusal == "refused: not_found" else self._refusal
        event = self._made[0]
        return "known already" if self._known.takes(event) else event

    def _note_refusal(self, refusal: Refusal) -> None:
        if refusal.kind == "rejected":
            self._refusal = f"refused: {refusal.reason}"
        else:
            cause = refusal.cause.partition(": ")[0]  # of an exception, its type
            self._refusal = f"{refusal.kind}: {cause}"


_LOGGED = "pixel_middleware.logged"
"""Where the environ of a line has its time, and the messageId that the line gives."""


def _environ(hit: Hit, path: str, query: str, moment: str, message_id: str) -> WSGIEnvironment:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": hit.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "REMOTE_ADDR": hit.address,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        _LOGGED: (moment, message_id),
    }
    for name, value in (("HTTP_REFERER", hit.referer), ("HTTP_USER_AGENT", hit.agent)):
        if value and value != "-":
            environ[name] = value
    return environ


def _as_logged(event: Event, request: Request) -> Event:
    """The first processor: the times are the log's, and so is an id that the client did not send."""
    moment, message_id = request.environ[_LOGGED]
    now = event["receivedAt"]
    for name in ("originalTimestamp", "sentAt"):
        if event[name] == now:  # the client sent none
            event[name] = moment
    event["receivedAt"] = moment
    if "messageId" not in request.environ["QUERY_STRING"]:
        event["messageId"] = message_id
    return event


def opened(raw: BinaryIO) -> Iterator[bytes]:
    """The lines of a log that is open, gzipped or not; of a longer one than `LONGEST_LINE`, one byte more than that.

    Where gzip is broken, the last line is one that nobody understands.
    """
    is_gzipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if is_gzipped else raw
    try:
        while line := file.readline(LONGEST_LINE + 1):
            yield line
            rest = line
            while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
                rest = file.readline(LONGEST_LINE + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        yield b"?" * (LONGEST_LINE + 1)


def size_of(paths: Iterable[Path]) -> int:
    """How many bytes there are to read."""
    return sum(path.stat().st_size for path in paths)
