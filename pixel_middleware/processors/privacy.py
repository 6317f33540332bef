"""Processors that keep less of a person: addresses cut or dropped, and signals that ask not to be tracked."""

import ipaddress

from webob import Request

from pixel_middleware.events import Event

ANONYMOUS_BITS = {4: 24, 6: 48}
"""How much of an address `anonymize_ip` keeps: a network, and nobody in it."""


def anonymize_ip(event: Event, request: Request) -> Event:
    """Keep the network of the client's address, /24 or /48, in `context.ip` and `request_ip`; and no other text."""
    event["request_ip"] = _network(event["request_ip"])
    address = event["context"].pop("ip", "")
    if kept := _network(address):
        event["context"]["ip"] = kept
    return event


def drop_ip(event: Event, request: Request) -> Event:
    """Forget the client's address: no `context.ip`, and a `request_ip` of `""`."""
    event["request_ip"] = ""
    event["context"].pop("ip", None)
    return event


def honor_gpc(event: Event, request: Request) -> Event | None:
    """Drop the event of a client that sends `Sec-GPC: 1`, Global Privacy Control; it is counted as dropped."""
    return None if request.environ.get("HTTP_SEC_GPC") == "1" else event


def honor_dnt(event: Event, request: Request) -> Event | None:
    """Drop the event of a client that sends `DNT: 1`, Do Not Track; it is counted as dropped."""
    return None if request.environ.get("HTTP_DNT") == "1" else event


_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))


def _network(address: str) -> str:
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
    network = ipaddress.ip_network((int(parsed), ANONYMOUS_BITS[parsed.version]), strict=False)
    return str(network.network_address)
