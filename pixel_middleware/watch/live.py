"""A page that shows pixels as they arrive, for whoever sets them up.

    app = LiveView(PixelMiddleware(app, log), log=log)
    print(f"/pixel/live?token={app.live_token}")

Events hold personal data, so nobody sees the page without its token, wherever they ask from: an address says little
behind a proxy, and headers say what their sender likes. The page shows what its own process answered: run one worker
while you look.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import os
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from webob import Response

from pixel_middleware import settings
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.outcomes import OUTCOME, Outcome
from pixel_middleware.sinks.eventlog import EventLog
from pixel_middleware.wire.answers import Answer
from pixel_middleware.wire.request import text

CHART_S = 60  # how many seconds the chart shows
MOST_KEPT = 4 << 20  # bytes of all entries
MOST_SENT = 56 << 10  # bytes of the entries in one answer, which is 64 KiB at most: a socket takes that from a worker
# at once, whether the viewer reads or not
MOST_ENTRY = 40 << 10  # bytes of one; of a longer one the fields are cut, each
MOST_FIELD = 512

SECRET = "live_token"
"""The name of the token in an event log's file."""

Guard = Callable[[WSGIEnvironment], bool]

_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,200}")
_CURSOR = re.compile(r"([0-9a-f]{1,40})-([0-9]{1,15})")  # of a process, and of an entry
_START = "0-0"


class LiveView:
    """Shows at `path` what becomes of the pixels of `app`, which wraps a `PixelMiddleware` or is one.

    A browser opens `path` + `?token=` + `live_token` once, and holds the token in a cookie from then on; a program
    sends `Authorization: Bearer` and the token. Everybody else is answered 403.

    Args:
        app: everything else goes there.
        path: of the page; its data is at `path` + `/feed`.
        size: how many of the latest requests are kept, in memory, of 4 MiB at most.
        live_token: 16 to 200 letters, digits, `-`, `_`, `.` and `~`. By default the one that the file of `log`
            keeps, which is made when it is first asked for, or without a log another one at each start.
        log: the event log whose file keeps the token.
        allow: who may look without the token: addresses and networks as strings, compared with `REMOTE_ADDR`, or a
            callable `(environ) -> bool`. Never the address of a proxy, which all its clients share.
        prefix: where the pixels are, for the page's form; by default that of `app`.

    Raises `ConfigurationError`, or `StorageError` if the log cannot be used. Thread-safe.

    New in 0.1.
    """

    def __init__(
        self,
        app: WSGIApplication,
        path: str = "/pixel/live",
        size: int = 500,
        *,
        live_token: str | None = None,
        log: EventLog | None = None,
        allow: Iterable[str] | Guard | None = None,
        prefix: str | None = None,
    ) -> None:
        if not isinstance(path, str) or not path.startswith("/"):
            raise ConfigurationError.must_be("path", 'a path like "/pixel/live"', path)
        if log is not None and not isinstance(log, EventLog):
            raise ConfigurationError.must_be("log", "an EventLog", log)
        if live_token is not None and not (isinstance(live_token, str) and _TOKEN.fullmatch(live_token)):
            # It is not quoted: it may be a secret that is too short.
            raise ConfigurationError("live_token", "live_token must be 16 to 200 letters, digits, or any of -_.~")
        self.app = app
        self._page_path = path
        self._feed_path = f"{path.rstrip('/')}/feed"
        self._is_admitted = _as_guard(allow)
        prefix = getattr(app, "prefix", "/pixel/v1") if prefix is None else prefix
        settings.as_prefix("prefix", prefix)
        self._seen = _Seen(
            settings.as_number("size", size, least=1), {"path": path.rstrip("/"), "prefix": prefix, "chart": CHART_S}
        )
        if live_token is None:
            live_token = secrets.token_urlsafe() if log is None else log.secret(SECRET)
        self.live_token = live_token
        # A browser sends cookies to all ports of a host: two collectors on one machine must not share one.
        self._cookie = f"pixel_live_{hashlib.sha256(live_token.encode()).hexdigest()[:8]}"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI entry point."""
        path = environ.get("PATH_INFO", "")
        if path in (self._page_path, self._feed_path):
            return self._answer(environ, path)(environ, start_response)
        answered = self.app(environ, start_response)
        if outcome := environ.get(OUTCOME):
            self._seen.add(outcome, environ)
        return answered

    def _answer(self, environ: WSGIEnvironment, path: str) -> Answer:
        query = parse_qs(environ.get("QUERY_STRING", "")[:4096], keep_blank_values=True)
        if path == self._page_path and any(map(self._is_token, query.get("token", ()))):
            # The token goes into a cookie, and out of the address bar, the history and what is copied from them.
            # Relative, since a proxy may have taken the front of the path away. So is the cookie's path.
            page = f"./{self._page_path.rpartition('/')[2]}"
            secure = "; Secure" if environ.get("wsgi.url_scheme") == "https" else ""
            cookie = f"{self._cookie}={self.live_token}; HttpOnly; SameSite=Strict{secure}"
            return _answer("303 See Other", "text/plain", b"", ("Location", page), ("Set-Cookie", cookie))
        if not (self._knows_token(environ) or self._is_admitted(environ)):
            return _FORBIDDEN
        if path == self._page_path:
            return _PAGE
        cursor = _CURSOR.fullmatch(query.get("after", [_START])[0])
        if cursor is None:
            return _NO_CURSOR
        return _answer("200 OK", "application/json", self._seen.since(cursor[1], int(cursor[2])))

    def _knows_token(self, environ: WSGIEnvironment) -> bool:
        scheme, _, credentials = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        cookies = (cookie.strip().partition("=") for cookie in environ.get("HTTP_COOKIE", "").split(";"))
        given = [value for name, _, value in cookies if name == self._cookie]
        if scheme.lower() == "bearer":
            given.append(credentials.strip())
        return any(map(self._is_token, given))

    def _is_token(self, given: str) -> bool:
        """In a time that does not tell how much of it is right."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.live_token.encode())


class _Seen:
    """The latest outcomes, each as a line of JSON, and how many there were in each of the last seconds.

    `facts` are told to the page with every answer.
    """

    def __init__(self, size: int, facts: dict[str, Any]) -> None:
        self._lock = threading.Lock()
        self._size = size
        self._facts = facts
        self._made = secrets.token_hex(8)
        self._entries: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._seconds: dict[int, dict[str, int]] = {}
        self._last = 0

    def add(self, outcome: Outcome, environ: WSGIEnvironment) -> None:
        """Never fails: the sink may have the event, so that its client must read 200."""
        now = time.time()
        entry = _entry(now, outcome, environ)
        with self._lock:
            self._last += 1
            self._entries.append((self._last, b'{"id":%d,%s' % (self._last, entry)))
            self._bytes += len(self._entries[-1][1])
            while self._bytes > MOST_KEPT or len(self._entries) > self._size:
                self._bytes -= len(self._entries.popleft()[1])
            second = self._seconds.setdefault(int(now), {})
            second[outcome.name] = second.get(outcome.name, 0) + 1
            for old in [each for each in self._seconds if each <= int(now) - CHART_S]:
                del self._seconds[old]

    def since(self, run: str, after: int) -> bytes:
        """A page of what came after this entry, the oldest first; of all, if it is another process's entry.

        `cursor` is where the next page begins, and `newest` the id of the last entry of all.
        """
        own_run = f"{self._made}{os.getpid():x}"  # ids begin anew in each process, forked ones too
        with self._lock:
            after = after if run == own_run else 0
            page: list[bytes] = []
            size = 0
            for number, entry in self._entries:
                if number > after:
                    size += len(entry) + 1
                    if size > MOST_SENT:
                        break
                    page.append(entry)
                    after = number
            feed = self._facts | {
                "now": int(time.time()),
                "run": own_run,
                "cursor": f"{own_run}-{after}",
                "last": after,
                "newest": self._last,
                "seconds": {second: dict(counts) for second, counts in self._seconds.items()},
            }
        return b'%s,"entries":[%s]}' % (json.dumps(feed).encode()[:-1], b",".join(page))


def _entry(now: float, outcome: Outcome, environ: WSGIEnvironment) -> bytes:
    """What is shown of a request, as JSON without its opening brace. What is no text is shown in the event alone.

    What processors took out of an event is not shown: its address is the event's own, and of a dropped request there
    is no more than that it was.
    """
    event = outcome.event if isinstance(outcome.event, dict) else None
    try:
        shown = "" if event is None else _ENCODER.encode(event)
    except Exception as error:  # whatever a processor put into it, and however that fails
        shown = f"this event cannot be shown: {type(error).__name__}"
    was_refused = outcome.name in ("rejected", "failed")
    fields = {
        "outcome": outcome.name,
        "type": _text_at(event, "type"),
        "name": _text_at(event, "event") or _text_at(event, "name"),
        "who": _text_at(event, "userId") or _text_at(event, "anonymousId"),
        "url": _text_at(event, "context", "page", "url"),
        "address": _text_at(event, "context", "ip") or _text_at(event, "request_ip"),
        "key": _text_at(event, "writeKey"),
        "reason": outcome.reason or "",
        "by": outcome.by,
        "message": outcome.message,
        "path": text(environ, "PATH_INFO"),
        "query": text(environ, "QUERY_STRING") if was_refused else "",
        "event": shown,
    }
    fields = {name: value for name, value in fields.items() if value}
    entry = _encoded(fields)
    if len(entry) > MOST_ENTRY:
        entry = _encoded({name: _cut(value, _SHARES.get(name, MOST_FIELD)) for name, value in fields.items()})
    return b'"at":%d,%s' % (int(now * 1000), entry[1:])


def _text_at(value: Any, *names: str) -> str:
    """The text at these names, one inside the other; `""` if there is none. A client may send anything anywhere."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def _cut(value: str, most: int) -> str:
    """The beginning of `value` that takes at most so many bytes in JSON; what is longer loses up to half of that."""
    kept = value[:most]
    while len(_encoded(kept)) > most:
        kept = kept[: len(kept) // 2]
    return kept if kept == value else f"{kept}…"


def _encoded(value: Any) -> bytes:
    # Half of a surrogate pair, which no UTF-8 has, stays what it is: an escape.
    return _ENCODER.encode(value).encode("utf-8", "backslashreplace")


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)
_SHARES = {"event": 24 << 10, "query": 8 << 10, "message": 2 << 10}


def _as_guard(allow: Any) -> Guard:
    if allow is None:
        return lambda environ: False
    if callable(allow):
        return allow  # type: ignore[no-any-return]
    try:
        networks = [ipaddress.ip_network(each) for each in ([] if isinstance(allow, str) else allow)]
    except (TypeError, ValueError) as error:
        raise ConfigurationError.must_be(
            "allow", f"networks like ['10.0.0.0/8'], or a callable ({error})", allow
        ) from error
    if not networks:
        raise ConfigurationError.must_be("allow", "a list of networks like ['10.0.0.0/8'], or a callable", allow)

    def is_in_network(environ: WSGIEnvironment) -> bool:
        try:
            address = ipaddress.ip_address(environ.get("REMOTE_ADDR", ""))
        except ValueError:
            return False
        return any(address in network for network in networks)

    return is_in_network


def _answer(status: str, content_type: str, body: bytes, *extra: tuple[str, str]) -> Answer:
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Referrer-Policy", "no-referrer"),
        *extra,
    ]
    return Answer(Response(status=status, headerlist=headers, body=body))


def _page() -> Answer:
    html = files("pixel_middleware.watch").joinpath("live.html").read_bytes()
    # The page's own script and style and nothing else, whatever an event may hold.
    script, style = (
        base64.b64encode(hashlib.sha256(re.findall(f"<{tag}>(.*?)</{tag}>".encode(), html, re.DOTALL)[0]).digest())
        for tag in ("script", "style")
    )
    policy = (
        f"default-src 'none'; script-src 'sha256-{script.decode()}'; style-src 'sha256-{style.decode()}'; "
        "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return _answer("200 OK", "text/html; charset=utf-8", html, ("Content-Security-Policy", policy))


_PAGE = _page()
_NO_CURSOR = _answer("400 Bad Request", "text/plain", b"after must be the cursor of an earlier answer, or be left out")
_FORBIDDEN = _answer(
    "403 Forbidden",
    "text/plain; charset=utf-8",
    b"the live view needs its token: open it with ?token=... behind its address, or send Authorization: Bearer; "
    b"pixel-middleware serve prints the address, and in an app of yours the token is LiveView's live_token",
)
