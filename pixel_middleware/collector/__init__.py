"""The collector that stands alone, without an app around it.

    gunicorn "pixel_middleware.collector:create_app('pixels.toml')"

`pixel-middleware serve` runs the same app.
"""

from pixel_middleware.collector.app import create_app

__all__ = ["create_app"]
