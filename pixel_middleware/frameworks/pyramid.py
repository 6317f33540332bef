"""Pyramid: the pixels as a tween, so that the app that `make_wsgi_app()` returns stays Pyramid's own.

    config.include("pixel_middleware")
    config.add_pixels(log, write_keys=["key-of-the-shop"])

Or with settings alone, and no `add_pixels`:

    [app:main]
    pyramid.includes = pixel_middleware
    pixel.sink = myapp.analytics:log
    pixel.write_keys = key-of-the-shop key-of-the-blog

`registry["pixels"]` has `stats()`.
"""

from collections.abc import Callable
from typing import Any

from pixel_middleware.endpoint import Endpoint, start
from pixel_middleware.frameworks.options import sink_and_options

_SETTINGS = "pixel."


def includeme(config: Any) -> None:
    """Add the directive `add_pixels`, and call it if there are settings that begin with `pixel.`.

    New in 0.1.
    """
    config.add_directive("add_pixels", add_pixels)
    given = {
        name.removeprefix(_SETTINGS): value
        for name, value in config.get_settings().items()
        if name.startswith(_SETTINGS)
    }
    if given:
        config.add_pixels(**given)


def add_pixels(config: Any, sink: Any = None, **options: Any) -> None:
    """Answer pixels and hand their events to `sink`; the options are those of `PixelMiddleware`.

    In place of `sink` there may be `output` and `forward_to`; see `frameworks.options`. The tween goes above
    those that were added before; name `pixel_middleware.frameworks.pyramid.tween_factory` in `pyramid.tweens` where
    the order is explicit. Raises `ConfigurationError`; two calls are a conflict of Pyramid's own.

    New in 0.1.
    """
    make_sink, checked = sink_and_options(options if sink is None else {"sink": sink, **options})

    def register() -> None:
        taken = make_sink()
        config.registry["pixels"] = Endpoint(taken, **checked)
        start(taken)

    config.action("pixels", register)
    config.add_tween("pixel_middleware.frameworks.pyramid.tween_factory")


def tween_factory(handler: Callable[[Any], Any], registry: Any) -> Callable[[Any], Any]:
    """The tween: requests below the prefix go to the endpoint, all others to `handler`."""
    endpoint: Endpoint = registry["pixels"]

    def tween(request: Any) -> Any:
        if request.environ.get("PATH_INFO", "").startswith(endpoint.below):
            return request.get_response(endpoint.answer(request.environ))
        return handler(request)

    return tween
