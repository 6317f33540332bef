"""A Pyramid app whose page carries a pixel; also for `pserve examples/pyramid.ini http_port=6547`."""

import os

import waitress
from pyramid.config import Configurator
from pyramid.response import Response

from pixel_middleware import Event, PixelMiddleware, pixel_tag


def shop(request):
    tag = pixel_tag(request.application_url, "page", write_key="demo", anonymous_id="a-visitor", name="Shop")
    return Response(f"<!doctype html><title>Shop</title><h1>Shop</h1>{tag}")


def collect(event: Event) -> None:
    print(event["type"], event.get("name"), event["context"].get("page"), flush=True)


def main(global_config, **settings):
    """The app alone, as an ini file asks for it."""
    with Configurator(settings=settings) as config:
        config.add_route("shop", "/")
        config.add_view(shop, route_name="shop")
        return config.make_wsgi_app()


app = PixelMiddleware(main({}), collect)

if __name__ == "__main__":
    waitress.serve(app, host="127.0.0.1", port=int(os.environ.get("PORT", "6543")))
