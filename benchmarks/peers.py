"""The same pixel endpoint as a route of each framework, written as its users would write it."""

import uuid
from datetime import UTC, datetime

import bottle
import falcon
import flask
from pyramid.config import Configurator
from pyramid.response import Response
from webob import Request

from pixel_middleware import PixelMiddleware
from pixel_middleware.wire.answers import GIF, HEADERS


def sink(event):
    """Takes an event and does nothing, so that only the way to it is measured."""


def hello(environ, start_response):
    body = b"hello world"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def nested(pairs):
    """Dotted names as nested dicts: the obvious loop."""
    tree = {}
    for name, value in pairs:
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node.setdefault(last, value)
    return tree


def webob_mapping(query):
    """What a mapping costs with WebOb's own parser."""
    return nested(Request({"REQUEST_METHOD": "GET", "QUERY_STRING": query}).GET.items())


def handle(kind, pairs, address, user_agent, language, referer):
    """What a route does: nest, check, complete, hand over."""
    event = nested(pairs)
    if not event.get("writeKey") or not event.get("anonymousId") or (kind == "track" and not event.get("event")):
        return False
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    context = event.setdefault("context", {})
    context.setdefault("ip", address)
    context.setdefault("userAgent", user_agent)
    context.setdefault("locale", language.split(",")[0])
    properties = event.setdefault("properties", {})
    page = context.setdefault("page", {})
    if kind == "page":
        page.setdefault("url", referer)
        for field in ("path", "url", "referrer", "title"):
            if field in page:
                properties.setdefault(field, page[field])
            elif field in properties:
                page[field] = properties[field]
    event |= {"type": kind, "integrations": {"All": True}, "receivedAt": now, "request_ip": address}
    for name, value in (("channel", "web"), ("originalTimestamp", now), ("sentAt", now)):
        event.setdefault(name, value)
    if not event.get("messageId"):
        event["messageId"] = str(uuid.uuid4())
    sink(event)
    return True


class FalconPixel:
    def __init__(self, kind):
        self._kind = kind

    def on_get(self, request, response):
        accepted = handle(
            self._kind,
            request.params.items(),
            request.remote_addr,
            request.user_agent or "",
            request.get_header("Accept-Language") or "",
            request.referer or "",
        )
        response.status = falcon.HTTP_200 if accepted else falcon.HTTP_400
        response.content_type = "image/gif"
        response.set_headers(HEADERS)
        response.data = GIF


def falcon_app():
    app = falcon.App()
    for kind in ("page", "track"):
        app.add_route(f"/pixel/v1/{kind}", FalconPixel(kind))
    return app


def bottle_app():
    app = bottle.Bottle()

    @app.get("/pixel/v1/<kind:re:page|track>")
    def pixel(kind):
        request = bottle.request
        accepted = handle(
            kind,
            request.query.items(),
            request.environ["REMOTE_ADDR"],
            request.get_header("User-Agent", ""),
            request.get_header("Accept-Language", ""),
            request.get_header("Referer", ""),
        )
        return bottle.HTTPResponse(GIF, 200 if accepted else 400, dict(HEADERS) | {"Content-Type": "image/gif"})

    return app


def flask_app():
    app = flask.Flask("peer")

    @app.get("/pixel/v1/<any(page, track):kind>")
    def pixel(kind):
        request = flask.request
        accepted = handle(
            kind,
            request.args.items(),
            request.remote_addr,
            request.headers.get("User-Agent", ""),
            request.headers.get("Accept-Language", ""),
            request.headers.get("Referer", ""),
        )
        return flask.Response(GIF, 200 if accepted else 400, HEADERS, content_type="image/gif")

    return app


def pyramid_app():
    def pixel(request):
        accepted = handle(
            request.matchdict["kind"],
            request.GET.items(),
            request.remote_addr,
            request.user_agent or "",
            request.headers.get("Accept-Language", ""),
            request.referer or "",
        )
        response = Response(GIF, 200 if accepted else 400, content_type="image/gif")
        response.headers.update(HEADERS)
        return response

    with Configurator() as config:
        config.add_route("pixel", "/pixel/v1/{kind:page|track}", request_method="GET")
        config.add_view(pixel, route_name="pixel")
        return config.make_wsgi_app()


def ours():
    return PixelMiddleware(hello, sink)


PEERS = {"Falcon": falcon_app, "Bottle": bottle_app, "Pyramid": pyramid_app, "Flask": flask_app}
