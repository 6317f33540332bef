"""A Bottle app whose page carries a pixel."""

import os

import waitress
from bottle import Bottle, request

from pixel_middleware import Event, PixelMiddleware, pixel_tag

shop = Bottle()


@shop.get("/")
def page():
    base = f"{request.urlparts.scheme}://{request.urlparts.netloc}{request.script_name}"
    tag = pixel_tag(base, "page", write_key="demo", anonymous_id="a-visitor", name="Shop")
    return f"<!doctype html><title>Shop</title><h1>Shop</h1>{tag}"


def collect(event: Event) -> None:
    print(event["type"], event.get("name"), event["context"].get("page"), flush=True)


app = PixelMiddleware(shop, collect)

if __name__ == "__main__":
    waitress.serve(app, host="127.0.0.1", port=int(os.environ.get("PORT", "6544")))
