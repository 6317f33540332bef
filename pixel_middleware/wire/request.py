"""What a request says beside its query: whom it comes from, where it was sent to, what its headers tell.

`X-Forwarded-For` is whatever its sender likes, so only the entries that our own `trusted_proxies`
appended are read, counted from the right; WebOb's `client_addr` believes the first one. So with
`X-Forwarded-Host`.
"""

import ipaddress
import re
from wsgiref.types import WSGIEnvironment

from pixel_middleware.events import Visit


def visit(environ: WSGIEnvironment, trusted_proxies: int = 0) -> Visit:
    """Who asks, by the connection and the headers."""
    locale = text(environ, "HTTP_ACCEPT_LANGUAGE").partition(",")[0].partition(";")[0].strip()
    return Visit(
        client_address(environ, trusted_proxies),
        text(environ, "HTTP_USER_AGENT"),
        "" if locale == "*" else locale,
        text(environ, "HTTP_REFERER"),
    )


def text(environ: WSGIEnvironment, key: str) -> str:
    """A value of the environ as text: WSGI has one character for each byte, which is UTF-8 where it is text at all."""
    value: str = environ.get(key, "")
    return value if value.isascii() else value.encode("latin-1", "replace").decode("utf-8", "replace")


def client_address(environ: WSGIEnvironment, trusted_proxies: int = 0) -> str:
    """The client's address; `""` where the server knows none, as behind a unix socket.

    With N trusted proxies it is the N-th entry of `X-Forwarded-For` from the right, if that is a
    valid address, and else `REMOTE_ADDR`.
    """
    if trusted_proxies:
        entry = _forwarded(environ, "HTTP_X_FORWARDED_FOR", trusted_proxies)
        if _is_address(entry):
            return entry
    return environ.get("REMOTE_ADDR") or ""


def public_origin(environ: WSGIEnvironment, trusted_proxies: int = 0) -> str:
    """Where clients reach this app: `https://` and the host that they asked for.

    With N trusted proxies the host is the N-th entry of `X-Forwarded-Host` from the right, if there is one.
    It is `http://` only where a developer tries things out: on localhost, if the request came so.
    """
    forwarded = _forwarded(environ, "HTTP_X_FORWARDED_HOST", trusted_proxies)
    own = f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    host = next(filter(_HOST.fullmatch, (forwarded, str(environ.get("HTTP_HOST", "")))), own)
    is_local = host.rpartition(":")[0] in _LOCAL or host in _LOCAL
    return f"{environ['wsgi.url_scheme'] if is_local else 'https'}://{host}"


_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


def _forwarded(environ: WSGIEnvironment, key: str, trusted_proxies: int) -> str:
    entries = str(environ.get(key, "")).split(",")
    return entries[-trusted_proxies].strip() if 0 < trusted_proxies <= len(entries) else ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text  # Python accepts any text at all as an IPv6 zone
