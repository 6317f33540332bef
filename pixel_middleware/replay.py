"""Events won back from a web server's access log: a pixel request is whole in its line.

Reads nginx's and Apache's combined format (and common, without the referer and the user agent), nginx in JSON, and
either gzipped. An event made twice of the same line has the same `messageId`.
"""

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast, get_args
from urllib.parse import quote

from pixel_middleware.errors import BadPixel
from pixel_middleware.events import Event, Kind, Visit, as_uuid, make_event, timestamp
from pixel_middleware.wire.mapping import map_query

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
        known: the messageIds that are stored already; those events are left out.
    """

    def __init__(
        self, prefix: str = "/pixel/v1", statuses: Collection[int] = (200,), known: Iterable[str] = ()
    ) -> None:
        self.counts: Counter[str] = Counter()
        prefix = quote(prefix)
        self._marker = f"{prefix}/".encode()
        self._kinds: dict[str, Kind] = {
            f"{prefix}/{kind}{suffix}": kind for kind in get_args(Kind) for suffix in ("", ".gif")
        }
        self._statuses = frozenset(statuses)
        self._known = set(known)
        self._same_lines: dict[bytes, int] = {}

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
        if self._marker not in line:
            return "not a pixel"
        hit = parse(line)
        if hit is None:
            return "not understood"
        path, _, query = hit.target.partition("?")
        kind = self._kinds.get(path)
        if kind is None:
            return "not a pixel"
        if hit.method != "GET":
            return "another method"
        if hit.status not in self._statuses:
            return f"status {hit.status}"
        return self._mapped(kind, query, hit, line)

    def _mapped(self, kind: Kind, query: str, hit: Hit, line: bytes) -> Event | str:
        try:
            # The endpoint had accepted it, so it may be one that lets a userId stand in.
            sent = map_query(kind, query, require_anonymous_id=False)
        except BadPixel as error:
            return f"refused: {error.reason}"
        moment = _moment(hit.time)
        if moment is None:
            return "not understood"
        if "messageId" not in sent:
            sent["messageId"] = self._id_of(line)
        if sent["messageId"] in self._known:
            return "known already"
        self._known.add(sent["messageId"])
        visit = Visit(hit.address, _text(hit.agent), "", _text(hit.referer))
        return make_event(kind, sent, visit, received_at=moment)

    def _id_of(self, line: bytes) -> str:
        # Two clicks within a second may leave equal lines: the first, the second, and so on have an id each.
        digest = hashlib.blake2b(line, digest_size=16).digest()
        count = self._same_lines[digest] = self._same_lines.get(digest, 0) + 1
        if count > 1:
            digest = hashlib.blake2b(digest, digest_size=16, salt=b"%d" % count).digest()
        return as_uuid(digest, "5")


def parse(line: bytes) -> Hit | None:
    """What a line of an access log says; `None` if that cannot be told."""
    return _parse_json(line) if line.startswith(b"{") else _parse_combined(line.decode("latin-1"))


def opened(raw: BinaryIO) -> Iterable[bytes]:
    """The lines of a log that is open, gzipped or not."""
    is_gzipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return cast(Iterable[bytes], gzip.GzipFile(fileobj=raw)) if is_gzipped else raw


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
    if not status or not status[0].isdecimal() or not time:
        return None
    method, _, target = _unescaped(request).partition(" ")
    return Hit(address, time, method, target.partition(" ")[0], int(status[0]), _unescaped(referer), _unescaped(agent))


def _parse_json(line: bytes) -> Hit | None:
    try:
        fields = json.loads(line.decode("utf-8", "replace"))
        given = {name: _first(fields, names) for name, names in _JSON_NAMES.items()}
        request = fields.get("request") or f"{fields['request_method']} {fields['request_uri']}"
        method, _, rest = str(request).partition(" ")
        target = _bytewise(rest.partition(" ")[0])
        status = int(given["status"])
    except (ValueError, KeyError, AttributeError):
        return None
    referer, agent = _bytewise(given["referer"]), _bytewise(given["agent"])
    return Hit(given["address"], given["time"], method, target, status, referer, agent)


def _first(fields: dict[str, Any], names: Iterable[str]) -> str:
    return str(next((fields[name] for name in names if name in fields), ""))


def _bytewise(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("latin-1")


def _unescaped(text: str) -> str:
    r"""nginx writes `\xHH` for a byte that could confuse; Apache also `\"`, `\\`, `\n`."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _LETTERS.get(found[2], found[2]), text)


def _text(logged: str) -> str:
    if logged.isascii():
        return "" if logged == "-" else logged
    return logged.encode("latin-1").decode("utf-8", "replace")


def _from_log(logged: str) -> datetime:
    return datetime.strptime(logged, "%d/%b/%Y:%H:%M:%S %z")


def _from_seconds(logged: str) -> datetime:
    return datetime.fromtimestamp(float(logged), UTC)


@lru_cache(maxsize=16)
def _moment(logged: str) -> str | None:
    """A log's time as an event's; thousands of lines share a second."""
    for read in (_from_log, datetime.fromisoformat, _from_seconds):
        with suppress(ValueError, OverflowError, OSError):
            moment = read(logged)
            return timestamp(moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC))
    return None
