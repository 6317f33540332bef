"""Flask: `app` stays the app, with its `config`, `test_client` and command line.

    Pixels(app, log)

    pixels = Pixels()                   # or with an app factory
    pixels.init_app(app)                # app.config["PIXELS_SINK"], app.config["PIXELS_WRITE_KEYS"], ...

`app.extensions["pixels"]` is the `PixelMiddleware`, with `stats()`. For Quart see `pixel_middleware.asgi`.
"""

from typing import Any

from pixel_middleware.errors import ConfigurationError
from pixel_middleware.frameworks.options import sink_and_options
from pixel_middleware.middleware import PixelMiddleware

_CONFIG = "PIXELS_"


class Pixels:
    """Makes Flask apps pixel endpoints; the options are those of `PixelMiddleware`.

    What is given here overrides `PIXELS_...` of an app's `config`, each option in capitals. In place of `sink` there
    may be `output` and `forward_to`; see `frameworks.options`. Raises `ConfigurationError`.

    New in 0.1.
    """

    def __init__(self, app: Any = None, sink: Any = None, **options: Any) -> None:
        self._given = options if sink is None else {"sink": sink, **options}
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Any) -> None:
        """Wrap `app.wsgi_app`."""
        if "pixels" in app.extensions:
            raise ConfigurationError("app", f"{app!r} has its pixels already; call init_app once for each app")
        configured = {
            name.removeprefix(_CONFIG).lower(): value for name, value in app.config.items() if name.startswith(_CONFIG)
        }
        make_sink, options = sink_and_options(configured | self._given)
        app.wsgi_app = app.extensions["pixels"] = PixelMiddleware(app.wsgi_app, make_sink(), **options)
