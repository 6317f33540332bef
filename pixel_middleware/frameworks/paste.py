"""The middleware in the ini file of a Paste deployment, as `pserve` and others read it.

[filter:pixels]
use = egg:pixel-middleware
sink = myapp.analytics:collect
write_keys = key-of-the-shop key-of-the-blog

[app:main]
filter-with = pixels
"""

from collections.abc import Mapping
from wsgiref.types import WSGIApplication

from pixel_middleware.frameworks.options import sink_and_options
from pixel_middleware.middleware import PixelMiddleware


def filter_app_factory(app: WSGIApplication, global_conf: Mapping[str, str], **local_conf: str) -> PixelMiddleware:
    """`PixelMiddleware(app, ...)` with the sink and the options of an ini section; see `sink_and_options`."""
    make_sink, options = sink_and_options(local_conf)
    return PixelMiddleware(app, make_sink(), **options)
