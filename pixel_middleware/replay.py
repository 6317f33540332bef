"""Events recovered from a web server's access log: a pixel request is whole in its line.

Reads nginx's and Apache's combined format (and common, without the referer and the user agent), nginx in JSON, and
either gzipped. Each line becomes a request again, and takes the way that a request takes: the endpoint's. An event made
twice of the same line has the same `messageId`.
"""

import gzip
import hashlib
import json
import re
import sqlite3
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import quote, unquote_to_bytes
from wsgiref.types import WSGIEnvironment

from webob import Request

from pixel_middleware.endpoint import Endpoint
from pixel_middleware.events import MIRRORED_PAGE_FIELDS, Event, Refusal, as_uuid, timestamp
from pixel_middleware.sinks import EventLog, JSONLines

SAME_S = 2.0  # a server logs a request when it has been answered, and whole seconds
LONGEST_LINE = 1 << 20  # bytes; servers take requests of some 8 KiB

_PART = re.compile(r'([^"\\]*(?:\\.[^"\\]*)*)(?:"|$)')  # up to a quotation mark that is not escaped
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.))")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v"}

_JSON_NAMES = {
    "address": ("remote_addr", "client_ip", "ip"),
    "time": ("time_iso8601", "time_local", "msec", "time", "timestamp"),
    "status": ("status",),
    "referer": ("http_referer", "http_referrer", "referer", "referrer"),
    "agent": ("http_user_agent", "user_agent"),
}
"""What the fields of a JSON log are called: by nginx's variables, or nearly so."""


class Hit(NamedTuple):
    """A request as a log tells it. Texts are as WSGI has them, one character for each byte."""

    address: str
    time: str
    method: str
    target: str
    status: int
    referer: str
    agent: str


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
        known: "Known | None" = None,
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
        self._same_lines: dict[bytes, int] = {}
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
        moment = _moment(hit.time)
        if moment is None:
            return "not understood"
        if not self._since <= moment < self._until:
            return "another time"
        # Two clicks within a second may leave equal lines: the first, the second, and so on have an id each.
        digest = hashlib.blake2b(line, digest_size=16).digest()
        count = self._same_lines[digest] = self._same_lines.get(digest, 0) + 1
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


class Known:
    """What is stored already: events by their ids, and those collected live, whose ids are random, by what they say.

    Kept in an SQLite file of its own that goes with the process, so that memory stays bounded.
    """

    def __init__(self, events: Iterable[Mapping[str, Any]] = ()) -> None:
        self._rows = sqlite3.connect("", isolation_level=None)
        self._rows.execute("PRAGMA synchronous = OFF")
        self._rows.execute("PRAGMA journal_mode = OFF")
        self._rows.execute("CREATE TABLE ids (id INTEGER PRIMARY KEY)")
        columns = "hit INTEGER, at REAL, id INTEGER, PRIMARY KEY (hit, at, id)"
        self._rows.execute(f"CREATE TABLE hits ({columns}) WITHOUT ROWID")
        self._rows.execute("CREATE INDEX hits_by_id ON hits (id)")
        self._rows.execute("BEGIN")
        self._has_hits = False
        for event in events:
            message_id = str(event.get("messageId", ""))
            id_ = _number(message_id)
            self._rows.execute("INSERT OR IGNORE INTO ids VALUES (?)", (id_,))
            if message_id[14:15] != "5":  # else it came from a log, and its line has the same id
                values = (_said(event), _seconds(event.get("receivedAt", "")), id_)
                self._rows.execute("INSERT OR IGNORE INTO hits VALUES (?, ?, ?)", values)
                self._has_hits = True

    def takes(self, event: Event) -> bool:
        """Whether this event is stored already; what it was taken for stands for no other. If not, now it is."""
        id_ = _number(event["messageId"])
        is_new = self._rows.execute("INSERT OR IGNORE INTO ids VALUES (?)", (id_,)).rowcount
        if not self._has_hits:
            return not is_new
        if not is_new:
            self._rows.execute("DELETE FROM hits WHERE id = ?", (id_,))
            return True
        hit, at = _said(event), _seconds(event["receivedAt"])
        # The earliest that fits: of all ways to pair lines and events, this one leaves the fewest alone.
        query = "SELECT at, id FROM hits WHERE hit = ? AND at BETWEEN ? AND ? ORDER BY at LIMIT 1"
        found = self._rows.execute(query, (hit, at - SAME_S, at + SAME_S)).fetchone()
        if found:
            self._rows.execute("DELETE FROM hits WHERE hit = ? AND at = ? AND id = ?", (hit, *found))
        return found is not None

    def close(self) -> None:
        """Forget all."""
        self._rows.close()


def stored_events(sink: EventLog | JSONLines) -> Iterator[Mapping[str, Any]]:
    """All events that a sink's file holds; half a line is none. Raises `StorageError`."""
    texts = _texts_of_log(sink) if isinstance(sink, EventLog) else sink.lines()
    for text in texts:
        with suppress(ValueError):  # half a line
            event = json.loads(text)
            if isinstance(event, dict):
                yield event


def _texts_of_log(log: EventLog) -> Iterator[str]:
    after = 0
    while rows := log.read("SELECT id, event FROM events WHERE id > ? ORDER BY id LIMIT 1000", after):
        yield from (text for _, text in rows)
        after = rows[-1][0]


def _said(event: Mapping[str, Any]) -> int:
    """A number for what an event says: the same for a line and the event that was collected live."""
    properties = event.get("properties")
    if isinstance(properties, dict):
        properties = {name: value for name, value in properties.items() if name not in MIRRORED_PAGE_FIELDS}
    names = ("type", "writeKey", "anonymousId", "userId", "event", "name")
    # As text: `convert` may have made numbers of some, in one of both.
    return _number(json.dumps([[event.get(name) for name in names], _as_text(properties)], sort_keys=True))


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_text(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_text(each) for each in value]
    return str(value)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), signed=True)


def _seconds(received_at: str) -> float:
    try:
        return datetime.fromisoformat(received_at).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0


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


def parse(line: bytes) -> Hit | None:
    """What a line of an access log says; `None` if that cannot be told."""
    return _parse_json(line) if line.startswith(b"{") else _parse_combined(line.decode("latin-1"))


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


def _parse_combined(line: str) -> Hit | None:
    # The plain split takes a fifth of the time of the pattern, and nearly all lines have no escapes.
    parts: list[str] = _PART.findall(line) if "\\" in line else line.split('"')
    head, request, after, referer, _, agent, *_ = (*parts, "", "", "", "", "", "")
    address, _, rest = head.partition(" ")
    time = rest.partition("[")[2].partition("]")[0]
    status = after.split(" ")[1:2]
    if not status or not re.fullmatch("[0-9]{3}", status[0]) or not time:
        return None
    method, _, target = _unescaped(request).partition(" ")
    return Hit(address, time, method, target.partition(" ")[0], int(status[0]), _unescaped(referer), _unescaped(agent))


def _parse_json(line: bytes) -> Hit | None:
    try:
        fields = json.loads(line.decode("utf-8", "replace"))
        given = {
            field: str(next((fields[name] for name in names if name in fields), ""))
            for field, names in _JSON_NAMES.items()
        }
        request = fields.get("request") or f"{fields['request_method']} {fields['request_uri']}"
        method, _, rest = str(request).partition(" ")
        target = _bytewise(rest.partition(" ")[0])
        status = int(given["status"][:4])
    except (ValueError, KeyError, AttributeError, RecursionError):
        return None
    referer, agent = _bytewise(given["referer"]), _bytewise(given["agent"])
    return Hit(given["address"], given["time"], method, target, status, referer, agent)


def _bytewise(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("latin-1")


def _unescaped(text: str) -> str:
    r"""nginx writes `\xHH` for a byte that could confuse; Apache also `\"`, `\\`, `\n`."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _LETTERS.get(found[2], found[2]), text)


@lru_cache(maxsize=16)
def _moment(logged: str) -> str | None:
    """A log's time as an event's; thousands of lines share a second."""
    for read in (
        lambda text: datetime.strptime(text, "%d/%b/%Y:%H:%M:%S %z"),
        datetime.fromisoformat,
        lambda text: datetime.fromtimestamp(float(text), UTC),
    ):
        with suppress(ValueError, OverflowError, OSError):
            moment = read(logged)
            return timestamp(moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC))
    return None
