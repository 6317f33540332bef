"""What a sink and a processor get: an event whose `type` says which it is."""

from collections.abc import Iterable
from typing import assert_type
from wsgiref.types import StartResponse, WSGIEnvironment

from webob import Request

from pixel_middleware import BadPixel, Event, PageEvent, PixelMiddleware, Processor, Refusal, Stats, TrackEvent
from pixel_middleware.processors import anonymize_ip, convert, daily_visitor, honor_gpc, verify_signature
from pixel_middleware.sinks import EventLog, JSONLines, tee


def sink(event: Event) -> None:
    if event["type"] == "track":
        assert_type(event, TrackEvent)
        assert_type(event["event"], str)
    else:
        assert_type(event, PageEvent)
        event["event"]  # type: ignore[typeddict-item]
    assert_type(event["receivedAt"], str)
    event["anonymousID"]  # type: ignore[typeddict-item]
    event["messageId"] = 1  # type: ignore[arg-type]


def processor(event: Event, request: Request) -> Event | None:
    if request.headers.get("DNT") == "1":
        return None
    event["properties"]["host"] = request.host
    return event


def refuses(event: Event, request: Request) -> Event:
    raise BadPixel("no_consent", "consent=yes is missing; ask the visitor first")


def takes_no_request(event: Event) -> Event:
    return event


def returns_text(event: Event, request: Request) -> str:
    return event["messageId"]


def on_refusal(refusal: Refusal) -> None:
    assert_type(refusal.reason, str)


def host(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return []


async def asgi_host(scope: object, receive: object, send: object) -> None: ...


log = EventLog("events.db")
processors: list[Processor] = [
    honor_gpc,
    verify_signature("s3cret"),
    anonymize_ip,
    convert({"properties.total": float}),
    daily_visitor("salt"),
    processor,
    refuses,
]
wrapped = PixelMiddleware(host, sink, processors=processors, refused=on_refusal, write_keys={"k"}, response="gif")
assert_type(wrapped.stats(), Stats)
assert_type(wrapped.stats()["rejected"], dict[str, int])
PixelMiddleware(host, tee(log, JSONLines("events.jsonl"), sink), refused=log.refused)
events: list[Event] = []
PixelMiddleware(host, events.append, write_keys=lambda key: key.startswith("k"))

PixelMiddleware(host)  # type: ignore[call-arg]
PixelMiddleware(asgi_host, sink)  # type: ignore[arg-type]
PixelMiddleware(host, sink, nonsense=3)  # type: ignore[call-arg]
PixelMiddleware(host, sink, response="png")  # type: ignore[arg-type]
PixelMiddleware(host, sink, trusted_proxies="1")  # type: ignore[arg-type]
PixelMiddleware(host, sink, processors=[takes_no_request])  # type: ignore[list-item]
PixelMiddleware(host, sink, processors=[returns_text])  # type: ignore[list-item]
PixelMiddleware(host, lambda: None)  # type: ignore[arg-type, misc]
