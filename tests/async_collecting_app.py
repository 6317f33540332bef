"""The app of `collecting_app` behind the ASGI face."""

from asgi_driver import as_asgi
from collecting_app import host, log

from pixel_middleware.asgi import PixelMiddleware

app = PixelMiddleware(as_asgi(host), log)
