"""Processors that keep less of a person: addresses cut or dropped, and signals that ask not to be tracked."""

from webob import Request

from pixel_middleware.events import Event, never_waits
from pixel_middleware.wire.request import network_of


@never_waits
def anonymize_ip(event: Event, request: Request) -> Event:
    """Keep the network of the client's address, /24 or /48, in `context.ip` and `request_ip`; and no other text.

    New in 0.1.
    """
    event["request_ip"] = network_of(event["request_ip"])
    address = event["context"].pop("ip", "")
    if kept := network_of(address):
        event["context"]["ip"] = kept
    return event


@never_waits
def drop_ip(event: Event, request: Request) -> Event:
    """Forget the client's address: no `context.ip`, and a `request_ip` of `""`.

    New in 0.1.
    """
    event["request_ip"] = ""
    event["context"].pop("ip", None)
    return event


@never_waits
def honor_gpc(event: Event, request: Request) -> Event | None:
    """Drop the event of a client that sends `Sec-GPC: 1`, Global Privacy Control; it is counted as dropped.

    New in 0.1.
    """
    return None if request.environ.get("HTTP_SEC_GPC") == "1" else event


@never_waits
def honor_dnt(event: Event, request: Request) -> Event | None:
    """Drop the event of a client that sends `DNT: 1`, Do Not Track; it is counted as dropped.

    New in 0.1.
    """
    return None if request.environ.get("HTTP_DNT") == "1" else event
