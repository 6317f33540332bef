"""Pixels whose counts a Prometheus scrapes at /metrics; the page carries one to count."""

import os

import waitress
from prometheus_client import REGISTRY, make_wsgi_app

from pixel_middleware import Event, PixelMiddleware, pixel_tag
from pixel_middleware.watch.metrics import PixelCollector

metrics = make_wsgi_app()


def site(environ, start_response):
    if environ["PATH_INFO"] == "/metrics":
        return metrics(environ, start_response)
    tag = pixel_tag(f"http://{environ['HTTP_HOST']}", "page", write_key="demo", anonymous_id="a-visitor", name="Shop")
    body = f"<!doctype html><title>Shop</title><h1>Shop</h1>{tag}".encode()
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(body)))])
    return [body]


def collect(event: Event) -> None:
    print(event["type"], event.get("name"), event["context"].get("page"), flush=True)


app = PixelMiddleware(site, collect)
REGISTRY.register(PixelCollector(app))

if __name__ == "__main__":
    waitress.serve(app, host="127.0.0.1", port=int(os.environ.get("PORT", "6549")))
