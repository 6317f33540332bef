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

from pixel_middleware import settings
from pixel_middleware.destinations import named
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.middleware import PixelMiddleware
from pixel_middleware.sinks.files import sink_to


def filter_app_factory(app: WSGIApplication, global_conf: Mapping[str, str], **local_conf: str) -> PixelMiddleware:
    """`PixelMiddleware(app, ...)` with the options of an ini section.

    Its sink is `sink`, a `package.module:name`; or `output`, a file, with `forward_to`, one or more `NAME=URL`, if its
    events are to be sent on; see `sinks.files`. Raises `ConfigurationError`, which names the option.
    """
    given = settings.read(local_conf, also=("sink", "output", "forward_to"))
    sink, output, forward_to = given.pop("sink", None), given.pop("output", None), given.pop("forward_to", None)
    if (output is None) == (sink is None):
        raise ConfigurationError("sink", "set either sink or output")
    if forward_to is not None and output is None:
        raise ConfigurationError("forward_to", "forward_to needs output, the file that keeps what is still to be sent")
    taken = settings.as_object("sink", sink) if output is None else sink_to(output, named((forward_to or "").split()))
    return PixelMiddleware(app, taken, **given)
