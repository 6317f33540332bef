"""A page that shows pixels as they arrive, for whoever sets them up.

    app = LiveView(PixelMiddleware(app, sink))     # then open /pixel/live on the same machine

It shows what its own process answered: run one worker while you look. Keep it out of production, or
behind `allow`: events hold personal data.
"""

import base64
import hashlib
import ipaddress
import json
import re
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
from pixel_middleware.events import to_json
from pixel_middleware.outcomes import OUTCOME, Outcome
from pixel_middleware.wire.answers import Answer
from pixel_middleware.wire.request import text

CHART_S = 60  # how many seconds the chart shows

Guard = Callable[[WSGIEnvironment], bool]

_PROXY_HEADERS = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA")
_LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")


class LiveView:
    """Shows at `path` what becomes of the pixels of `app`, which wraps a `PixelMiddleware` or is one.

    Args:
        app: everything else goes there.
        path: of the page; its data is at `path` + `/feed`.
        size: how many of the latest requests are kept, in memory.
        allow: who may look: addresses and networks as strings, compared with `REMOTE_ADDR`, or a callable
            `(environ) -> bool`. By default nobody but a browser on this machine that asks for it without a proxy.

    Raises `ConfigurationError`. Thread-safe.
    """

    def __init__(
        self,
        app: WSGIApplication,
        path: str = "/pixel/live",
        size: int = 500,
        *,
        allow: Iterable[str] | Guard | None = None,
    ) -> None:
        if not isinstance(path, str) or not path.startswith("/"):
            raise ConfigurationError.must_be("path", 'a path like "/pixel/live"', path)
        self.app = app
        self._page_path = path
        self._feed_path = f"{path.rstrip('/')}/feed"
        self._may_look = _as_guard(allow)
        self._seen = _Seen(settings.as_number("size", size, least=1))

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
        if not self._may_look(environ):
            return _FORBIDDEN
        if path == self._page_path:
            return _PAGE
        after = parse_qs(environ.get("QUERY_STRING", "")).get("after", ["0"])[0]
        return _answer("200 OK", "application/json", self._seen.as_json(int(after) if after.isdecimal() else 0))


class _Seen:
    """The latest outcomes, and how many there were in each of the last seconds."""

    def __init__(self, size: int) -> None:
        self._lock = threading.Lock()
        self._entries: deque[dict[str, Any]] = deque(maxlen=size)
        self._seconds: dict[int, dict[str, int]] = {}
        self._last = 0

    def add(self, outcome: Outcome, environ: WSGIEnvironment) -> None:
        now = time.time()
        entry = {
            "at": int(now * 1000),
            "outcome": outcome.name,
            "pixel": text(environ, "PATH_INFO"),
            "reason": outcome.reason or "",
            "message": outcome.message,
            "address": environ.get("REMOTE_ADDR") or "",
            "event": None if outcome.event is None else to_json(outcome.event),
        }
        with self._lock:
            self._last += 1
            self._entries.append(entry | {"id": self._last})
            second = self._seconds.setdefault(int(now), {})
            second[outcome.name] = second.get(outcome.name, 0) + 1
            for old in [each for each in self._seconds if each <= int(now) - CHART_S]:
                del self._seconds[old]

    def as_json(self, after: int) -> bytes:
        """What came after the entry of this number; all, if that is none of this process's."""
        with self._lock:
            entries = [entry for entry in self._entries if entry["id"] > after or after > self._last]
            seconds = {second: dict(counts) for second, counts in self._seconds.items()}
            feed = {"now": int(time.time()), "last": self._last, "entries": entries, "seconds": seconds}
        return json.dumps(feed).encode()


def _as_guard(allow: Any) -> Guard:
    if allow is None:
        return _is_local
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
    return lambda environ: any(_is_in(network, environ) for network in networks)


def _is_in(network: ipaddress.IPv4Network | ipaddress.IPv6Network, environ: WSGIEnvironment) -> bool:
    try:
        return ipaddress.ip_address(environ.get("REMOTE_ADDR", "")) in network
    except ValueError:
        return False


_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"))


def _is_local(environ: WSGIEnvironment) -> bool:
    # A proxy on this machine has a local address too, and so has a page that had its name point here.
    is_direct = not any(header in environ for header in _PROXY_HEADERS)
    is_named = _LOCAL_HOST.fullmatch(environ.get("HTTP_HOST", "localhost")) is not None
    return is_direct and is_named and any(_is_in(network, environ) for network in _LOOPBACK)


def _answer(status: str, content_type: str, body: bytes, *extra: tuple[str, str]) -> Answer:
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "same-origin"),
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
_FORBIDDEN = _answer(
    "403 Forbidden",
    "text/plain; charset=utf-8",
    b"the live view is for this machine alone; give LiveView allow=[...] (serve: --allow) for others",
)
