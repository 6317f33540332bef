"""What goes over the wire in answer to a pixel request.

Answers without a word of the request in them are built once, by WebOb, and shared among threads.
"""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final
from wsgiref.types import StartResponse, WSGIEnvironment

from webob import Response

from pixel_middleware.errors import BadPixel

GIF: Final = bytes.fromhex(
    # One transparent pixel. The 43-byte form with a colour table and a control extension: mail
    # proxies refuse the shorter ones.
    "4749463839610100010080000000000000000021f90401000000002c00000000010001000002024401003b"
)

FOR_ANY_PAGE: Final = (
    # Loadable from any page, also one under Cross-Origin-Embedder-Policy; never with credentials.
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    ("Access-Control-Allow-Origin", "*"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Robots-Tag", "noindex"),  # a search engine has nothing to show for a pixel
)

HEADERS: Final = (
    # A cached pixel is an event that never arrives.
    ("Cache-Control", "no-store, no-cache, must-revalidate, max-age=0, private"),
    ("Pragma", "no-cache"),
    ("Expires", "0"),
    *FOR_ANY_PAGE,
)

METHODS: Final = "GET, HEAD, OPTIONS"
METHODS_WITH_BEACONS: Final = f"{METHODS}, POST"

RETRY_AFTER_S: Final = "10"  # long enough for a restart of what failed, short for a person who waits


class Answer:
    """A finished answer, as a WSGI app. Thread-safe, and shared: whoever reads its parts must not change them."""

    def __init__(self, response: Response) -> None:
        self.status: str = response.status
        self.headers: list[tuple[str, str]] = response.headerlist
        self.body: bytes = response.body

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI entry point."""
        start_response(self.status, self.headers.copy())  # a server or a middleware may add its own
        # An empty chunk for HEAD, since Hypercorn sends the headers with the first chunk only.
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else self.body]


def page(status: str, content_type: str, body: bytes, *extra: tuple[str, str]) -> Answer:
    """An answer to those who look after the pixels, and not to a pixel's client."""
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        *extra,
    ]
    return Answer(Response(status=status, headerlist=headers, body=body))


def _answer(status: HTTPStatus, body: bytes, content_type: str, *extra: tuple[str, str]) -> Answer:
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), *HEADERS, *extra]
    return Answer(Response(status=f"{status.value} {status.phrase}", headerlist=headers, body=body))


def _text(status: HTTPStatus, text: str, *extra: tuple[str, str]) -> Answer:
    return _answer(status, text.encode(), "text/plain; charset=utf-8", *extra)


def _gif(status: HTTPStatus, *extra: tuple[str, str]) -> Answer:
    return _answer(status, GIF, "image/gif", *extra)


def _reason(reason: str) -> tuple[str, str]:
    return ("X-Pixel-Error", reason)


_FAILED = (_reason("sink_failed"), ("Retry-After", RETRY_AFTER_S))

OK_TEXT: Final = _text(HTTPStatus.OK, "OK")
OK_GIF: Final = _gif(HTTPStatus.OK)
FAILED_TEXT: Final = _text(
    HTTPStatus.SERVICE_UNAVAILABLE, "the event could not be stored and is not recorded; send it again later", *_FAILED
)
FAILED_GIF: Final = _gif(HTTPStatus.SERVICE_UNAVAILABLE, *_FAILED)


def accepted(image: bool) -> Answer:
    """200: the event is the sink's now, or a processor dropped it."""
    return OK_GIF if image else OK_TEXT


def failed(image: bool) -> Answer:
    """503: the event is not stored."""
    return FAILED_GIF if image else FAILED_TEXT


def rejected(error: BadPixel, image: bool) -> Answer:
    """400: what was wrong and what would be right; the reason alone where only an image is shown."""
    if image:
        return _gif(HTTPStatus.BAD_REQUEST, _reason(error.reason))
    return _text(HTTPStatus.BAD_REQUEST, error.message, _reason(error.reason))


def method_not_allowed(methods: str) -> Answer:
    """405: a pixel takes these methods."""
    return _text(
        HTTPStatus.METHOD_NOT_ALLOWED,
        f"a pixel takes {methods} only; send the event's fields as query parameters of a GET",
        _reason("method_not_allowed"),
        ("Allow", methods),
    )


def preflight(methods: str) -> Answer:
    """204, to OPTIONS: pages of any site may use these methods."""
    return Answer(
        Response(
            # No Content-Length: RFC 9110 section 8.6 forbids it with 204.
            status="204 No Content",
            headerlist=[
                *HEADERS,
                ("Allow", methods),
                ("Access-Control-Allow-Methods", methods),
                ("Access-Control-Allow-Headers", "*"),
                ("Access-Control-Max-Age", "86400"),
            ],
        )
    )


def not_found(prefix: str) -> Answer:
    """404: below the prefix, but no pixel."""
    return _text(
        HTTPStatus.NOT_FOUND,
        f"there is no such pixel; use {prefix}/page or {prefix}/track, with .gif behind it for an image",
        _reason("not_found"),
    )


def amp(body: bytes, source_origin: str) -> Answer:
    """200: the amp-analytics configuration; `source_origin` is what AMP gave as `__amp_source_origin`, or `""`."""
    cors = [("AMP-Access-Control-Allow-Source-Origin", source_origin)] if _ORIGIN.fullmatch(source_origin) else []
    response = Response(
        body,
        headerlist=[
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            # Not for shared caches: it names the host that this client asked for.
            ("Cache-Control", "private, max-age=3600"),
            *FOR_ANY_PAGE,
            *cors,
            ("Access-Control-Expose-Headers", "AMP-Access-Control-Allow-Source-Origin"),
        ],
    )
    return Answer(response)


_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:-]{1,255}")


def wants_image(environ: WSGIEnvironment) -> bool:
    """Whether the client shows the answer as an image, going by its own words."""
    destination = environ.get("HTTP_SEC_FETCH_DEST")
    if destination is not None:
        return bool(destination == "image")
    accept = environ.get("HTTP_ACCEPT", "")
    return "image/" in accept and "text/" not in accept
