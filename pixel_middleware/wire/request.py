"""What a request says beside its query: whom it comes from, where it was sent to, what its headers tell.

`X-Forwarded-For` is whatever its sender likes, so only the entries that our own `trusted_proxies`
appended are read, counted from the right; WebOb's `client_addr` believes the first one. So with
`X-Forwarded-Host`.
"""

import codecs
import ipaddress
import re
from wsgiref.types import WSGIEnvironment

from pixel_middleware.events import Visit

MOST_AGENT_BYTES = 1024  # the longest real user agents have some 500
MOST_REFERER_BYTES = 4096
MOST_LOCALE_BYTES = 64


def visit(environ: WSGIEnvironment, trusted_proxies: int = 0) -> Visit:
    """Who asks, by the connection and the headers, which are cut: a server may take 256 KB of them."""
    locale: str = environ.get("HTTP_ACCEPT_LANGUAGE", "").partition(",")[0].partition(";")[0].strip()
    return Visit(
        client_address(environ, trusted_proxies),
        text(environ, "HTTP_USER_AGENT", MOST_AGENT_BYTES),
        "" if locale == "*" else as_text(locale, MOST_LOCALE_BYTES),
        text(environ, "HTTP_REFERER", MOST_REFERER_BYTES),
    )


def text(environ: WSGIEnvironment, key: str, most_bytes: int | None = None) -> str:
    """A value of the environ, `""` if there is none; see `as_text`."""
    return as_text(environ.get(key, ""), most_bytes)


def as_text(value: str, most_bytes: int | None = None) -> str:
    """What a WSGI string says: it has one character for each byte, which is UTF-8 where it is text at all.

    Of more than `most_bytes` the first are kept, and no half of a character at their end.
    """
    if most_bytes is not None and len(value) > most_bytes:
        return codecs.getincrementaldecoder("utf-8")("replace").decode(value[:most_bytes].encode("latin-1", "replace"))
    return value if value.isascii() else value.encode("latin-1", "replace").decode("utf-8", "replace")


def client_address(environ: WSGIEnvironment, trusted_proxies: int = 0) -> str:
    """The client's address; `""` where the server knows none, as behind a unix socket.

    With N trusted proxies it is the N-th entry of `X-Forwarded-For` from the right, if that is a
    valid address, and else `REMOTE_ADDR`. A port behind it, and brackets, are left out.
    """
    entry = _forwarded(environ, "HTTP_X_FORWARDED_FOR", trusted_proxies)
    if 0 < len(entry) <= _MOST_ADDRESS:
        if found := _WITH_PORT.fullmatch(entry):
            entry = found[1] or found[2]
        try:
            ipaddress.ip_address(entry)
        except ValueError:
            pass
        else:
            if "%" not in entry:  # Python accepts any text at all as an IPv6 zone
                return entry
    return environ.get("REMOTE_ADDR") or ""


_MOST_ADDRESS = 64  # with brackets and a port; ipaddress takes 15 ms to say of a header of 250 KB that it is none
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")


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


_HOST = re.compile(r"([A-Za-z0-9.-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


def _forwarded(environ: WSGIEnvironment, key: str, trusted_proxies: int) -> str:
    """What the outermost of our proxies appended; `""` if there are fewer entries, or none is trusted."""
    if not trusted_proxies:
        return ""
    entries = str(environ.get(key, "")).rsplit(",", trusted_proxies)
    return entries[-trusted_proxies].strip() if trusted_proxies <= len(entries) else ""


NETWORK_BITS = {4: 24, 6: 48}
"""How much of an address `network_of` keeps: a network, and nobody in it."""

_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))


def network_of(address: str) -> str:
    """The network of an address, or of the IPv4 address that an IPv6 one holds; `""` if it is no address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        teredo = parsed.teredo  # the server's address and the client's
        is_nat64 = any(parsed in network for network in _NAT64)
        last = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        parsed = parsed.ipv4_mapped or parsed.sixtofour or (teredo and teredo[1]) or (last if is_nat64 else parsed)
    network = ipaddress.ip_network((int(parsed), NETWORK_BITS[parsed.version]), strict=False)
    return str(network.network_address)
