"""A page that shows pixels as they arrive, for whoever sets them up.

    app = LiveView(PixelMiddleware(app, log), log=log)
    print(f"/pixel/live?token={app.live_token}")

Events hold personal data, so nobody sees the page without its token, wherever they ask from: an address says little
behind a proxy, and headers say what their sender likes. With an event log the page shows what its file has, whichever
worker answered; without one, what its own process answered: run one worker while you look.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from pixel_middleware import checks
from pixel_middleware.errors import ConfigurationError, StorageError
from pixel_middleware.outcomes import OUTCOME
from pixel_middleware.sinks.eventlog import EventLog
from pixel_middleware.watch.entries import Wanted
from pixel_middleware.watch.feed import CHART_S, Cursor, LogFeed, ProcessFeed
from pixel_middleware.wire.answers import Answer, page
from pixel_middleware.wire.printable import shorten

SECRET = "live_token"
"""The name of the token in an event log's file."""

MOST_WAIT_S = 5.0  # how long a request may hold its thread
LOOK_EVERY_S = 0.02

Guard = Callable[[WSGIEnvironment], bool]

_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,200}")
_SECONDS = re.compile(r"[0-9](\.[0-9]{1,3})?")
_ASKED = {"event": "event", "reason": "reason", "anonymousId": "anonymous_id"}


class LiveView:
    """Shows at `path` what becomes of the pixels of `app`, which wraps a `PixelMiddleware` or is one.

    A browser opens `path` + `?token=` + `live_token` once, and holds the token in a cookie from then on; a program
    sends `Authorization: Bearer` and the token. Everybody else is answered 403.

    Args:
        app: everything else goes there.
        path: of the page; its data is at `path` + `/feed`.
        size: how many of the latest requests are shown; without a log they are kept in memory, of 4 MiB at most.
        live_token: 16 to 200 letters, digits, `-`, `_`, `.` and `~`. By default the one that the file of `log`
            keeps, which is made when it is first asked for, or without a log another one at each start.
        log: the event log that the sink puts events into. The page shows what its file has, and the file keeps the
            token, and the requests that were refused.
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
        size: int = 1000,
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
        self.paths = (path, f"{path.rstrip('/')}/feed")
        """Of the page, and of its data."""
        self._is_admitted = _as_guard(allow)
        prefix = getattr(app, "prefix", "/pixel/v1") if prefix is None else prefix
        checks.as_prefix("prefix", prefix)
        checks.as_number("size", size, least=1)
        self._feed: ProcessFeed | LogFeed = ProcessFeed(size) if log is None else LogFeed(log, size)
        self._facts = {
            "path": path.rstrip("/"),
            "prefix": prefix,
            "chart": CHART_S,
            "size": size,
            "source": self._feed.source,
        }
        if live_token is None:
            live_token = secrets.token_urlsafe() if log is None else log.secret(SECRET)
        self.live_token = live_token
        # A browser sends cookies to all ports of a host: two collectors on one machine must not share one.
        self._cookie = f"pixel_live_{hashlib.sha256(live_token.encode()).hexdigest()[:8]}"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI entry point."""
        path = environ.get("PATH_INFO", "")
        if path in self.paths:
            return self._answer(environ, path)(environ, start_response)
        answered = self.app(environ, start_response)
        if outcome := environ.get(OUTCOME):
            self._feed.add(outcome, environ)
        return answered

    def _answer(self, environ: WSGIEnvironment, path: str) -> Answer:
        query = parse_qs(environ.get("QUERY_STRING", "")[:4096], keep_blank_values=True)
        if path == self._page_path and any(map(self._is_token, query.get("token", ()))):
            # The token goes into a cookie, and out of the address bar, the history and what is copied from them.
            # Relative, since a proxy may have taken the front of the path away. So is the cookie's path.
            here = f"./{self._page_path.rpartition('/')[2]}"
            secure = "; Secure" if environ.get("wsgi.url_scheme") == "https" else ""
            cookie = f"{self._cookie}={self.live_token}; HttpOnly; SameSite=Strict{secure}"
            return _answer("303 See Other", "text/plain", b"", ("Location", here), ("Set-Cookie", cookie))
        if not (self._knows_token(environ) or self._is_admitted(environ)):
            return _FORBIDDEN
        if path == self._page_path:
            return _PAGE
        try:
            if environ["REQUEST_METHOD"] == "DELETE":
                if not self._knows_token(environ):  # who is only allowed to look changes nothing
                    return _FORBIDDEN
                self._feed.reset()
                return _RESET
            return self._data(query)
        except StorageError as error:
            return _answer("503 Service Unavailable", "text/plain; charset=utf-8", str(error).encode())

    def _data(self, query: dict[str, list[str]]) -> Answer:
        asked = {name: values[0] for name, values in query.items()}
        if unknown := asked.keys() - _ASKED.keys() - {"after", "wait"}:
            return _bad(f"{shorten(min(unknown))} is not known here; use event, reason, anonymousId, after and wait")
        wait = asked.get("wait") or "0"
        if not _SECONDS.fullmatch(wait) or float(wait) > MOST_WAIT_S:
            return _bad(f"wait must be a number of seconds from 0 to {MOST_WAIT_S:.0f}")
        after = Cursor.read(asked["after"]) if "after" in asked else None
        if after is None and "after" in asked:
            return _bad("after must be the cursor of an earlier answer, or be left out")
        wanted = Wanted(**{field: asked.get(name) or None for name, field in _ASKED.items()})

        deadline = time.monotonic() + float(wait)
        is_start = False
        while True:
            is_last = time.monotonic() >= deadline
            mark = self._feed.mark()
            page = self._feed.since(after, wanted)
            after, is_start = page.cursor, is_start or page.is_start
            if page.entries or is_last:
                break
            while time.monotonic() < deadline and self._feed.mark() == mark:
                time.sleep(LOOK_EVERY_S)
        told = {
            "now": int(time.time()),
            "run": page.cursor.run,
            "cursor": str(page.cursor),
            "start": is_start,
            "more": page.has_more,
        }
        facts = json.dumps(self._facts | self._feed.overview() | told).encode()
        entries = b",".join(page.entries)
        return _answer("200 OK", "application/json", b'%s,"entries":[%s]}' % (facts[:-1], entries))

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
    ours = (("Cross-Origin-Resource-Policy", "same-origin"), ("Referrer-Policy", "no-referrer"))
    return page(status, content_type, body, *ours, *extra)


def _bad(sentence: str) -> Answer:
    return _answer("400 Bad Request", "text/plain; charset=utf-8", sentence.encode())


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
_RESET = _answer("200 OK", "text/plain", b"what came before is shown no more")
_FORBIDDEN = _answer(
    "403 Forbidden",
    "text/plain; charset=utf-8",
    b"the live view needs its token: open it with ?token=... behind its address, or send Authorization: Bearer; "
    b"pixel-middleware serve prints the address, and in an app of yours the token is LiveView's live_token",
)
