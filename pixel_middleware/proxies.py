"""Whom a request comes from, when proxies of ours stand in front.

`X-Forwarded-For` is whatever its sender likes, so only the entries that our own `trusted_proxies`
appended are read, counted from the right; WebOb's `client_addr` believes the first one.
"""

import ipaddress
from wsgiref.types import WSGIEnvironment


def client_address(environ: WSGIEnvironment, trusted_proxies: int = 0) -> str:
    """The client's address; `""` where the server knows none, as behind a unix socket.

    With N trusted proxies it is the N-th entry of `X-Forwarded-For` from the right, if that is a
    valid address, and else `REMOTE_ADDR`.
    """
    if trusted_proxies:
        entries = str(environ.get("HTTP_X_FORWARDED_FOR", "")).split(",")
        if len(entries) >= trusted_proxies:
            entry = entries[-trusted_proxies].strip()
            if _is_address(entry):
                return entry
    return str(environ.get("REMOTE_ADDR") or "")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text  # Python accepts any text at all as an IPv6 zone
