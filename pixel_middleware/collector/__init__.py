"""The collector that stands alone, without an app around it.

    gunicorn "pixel_middleware.collector:create_app('pixels.toml')"

    granian --interface asgi --factory pixel_middleware.collector:create_asgi_app

`pixel-middleware serve` runs the second.
"""

from pixel_middleware.collector.app import create_app
from pixel_middleware.collector.asgi import create_asgi_app

__all__ = ["create_app", "create_asgi_app"]
