"""A Pyramid app with a page of its own, and pixels beside it. Run: python examples/pyramid_app.py"""

from wsgiref.simple_server import make_server

from pyramid.config import Configurator
from pyramid.response import Response

from pixel_middleware import Event, PixelMiddleware

PAGE = """<!doctype html><title>Shop</title><h1>Shop</h1>
<img src="/pixel/v1/page.gif?writeKey=demo&amp;anonymousId=a-visitor&amp;name=Shop" width="1" height="1" alt="">"""


def shop(request):
    return Response(PAGE)


def collect(event: Event) -> None:
    print(event["type"], event.get("name"), event["context"]["page"])


def make_app(sink=collect):
    with Configurator() as config:
        config.add_route("shop", "/")
        config.add_view(shop, route_name="shop")
        return PixelMiddleware(config.make_wsgi_app(), sink)


if __name__ == "__main__":
    print("Open http://127.0.0.1:6543/")
    make_server("127.0.0.1", 6543, make_app()).serve_forever()
