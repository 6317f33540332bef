"""Django: a middleware that `manage.py runserver`, the test client and `LiveServerTestCase` go through as well.

    MIDDLEWARE = ["pixel_middleware.frameworks.django.PixelMiddleware", ...]  # first
    INSTALLED_APPS = ["pixel_middleware.frameworks.django.PixelsConfig", ...]  # for `manage.py check`
    PIXELS = {"sink": "shop.analytics.log", "write_keys": ["key-of-the-shop"]}

`PIXELS` has the sink, itself or its dotted name, and the options of `pixel_middleware.PixelMiddleware`; in place of
`sink` there may be `output` and `forward_to`; see `frameworks.options`. Under ASGI, if all middleware below is
async too, the sink may be an `async def`.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any
from wsgiref.types import WSGIEnvironment

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse

from pixel_middleware.async_endpoint import AsyncEndpoint
from pixel_middleware.endpoint import Endpoint, start
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.frameworks.options import sink_and_options
from pixel_middleware.wire.answers import Answer


class PixelMiddleware:
    """Answers pixels and hands their events to the sink of `settings.PIXELS`; all other requests go on.

    Raises `ImproperlyConfigured` for a wrong setting.

    New in 0.1.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response
        self._async_endpoint: AsyncEndpoint | None = None
        try:
            make_sink, options = _configured()
            sink = make_sink()
            if iscoroutinefunction(get_response):
                markcoroutinefunction(self)
                self._async_endpoint = AsyncEndpoint(sink, **options)
                below = self._async_endpoint.below
            else:
                self._endpoint = Endpoint(sink, **options)
                below = self._endpoint.below
                start(sink)
            self._below = below.encode("latin-1").decode()
        except ConfigurationError as error:
            raise ImproperlyConfigured(f"PIXELS: {error}") from error

    def __call__(self, request: Any) -> Any:
        """The response, or, under ASGI, what becomes it when it is awaited."""
        if self._async_endpoint is not None:
            return self._answer_later(request, self._async_endpoint)
        if not request.path_info.startswith(self._below):
            return self._get_response(request)
        environ = _environ_of(request)
        return _response(self._endpoint.answer(environ), environ)

    async def _answer_later(self, request: Any, endpoint: AsyncEndpoint) -> Any:
        if not request.path_info.startswith(self._below):
            return await self._get_response(request)
        environ = _environ_of(request)
        return _response(await endpoint.answer(environ), environ)


class PixelsConfig(AppConfig):  # type: ignore[misc]  # Django has no types of its own
    """In `INSTALLED_APPS`, has `manage.py check` and `runserver` say what is wrong with `PIXELS`.

    New in 0.1.
    """

    name = "pixel_middleware.frameworks.django"
    label = "pixels"

    def ready(self) -> None:
        """Register the check."""
        checks.register(check_setting)


def check_setting(**kwargs: Any) -> list[checks.CheckMessage]:
    """Django's system check of `PIXELS`; it opens no file."""
    try:
        _configured()
    except ConfigurationError as error:
        return [checks.Error(f"PIXELS: {error}", id="pixels.E001")]
    return []


def _configured() -> tuple[Callable[[], Any], dict[str, Any]]:
    given = getattr(django_settings, "PIXELS", None)
    if not isinstance(given, Mapping):
        raise ConfigurationError.must_be("PIXELS", 'a dict like {"sink": "shop.analytics.log"}', given)
    return sink_and_options(given)


def _environ_of(request: Any) -> WSGIEnvironment:
    """The WSGI environ of a request; of one that came by ASGI, Django knows the most of it."""
    if hasattr(request, "environ"):
        return request.environ  # type: ignore[no-any-return]
    as_bytes = {name: request.META[name].encode().decode("latin-1") for name in _TEXTS}
    no_body = {"wsgi.input": io.BytesIO(), "CONTENT_LENGTH": "0"}
    return {"SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": request.scheme, **request.META, **as_bytes, **no_body}


_TEXTS = ("PATH_INFO", "SCRIPT_NAME", "QUERY_STRING")


def _response(answer: Answer, environ: WSGIEnvironment) -> HttpResponse:
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else answer.body
    headers = dict(answer.headers)
    response = HttpResponse(body, status=int(answer.status[:3]), headers=headers)
    if "Content-Type" not in headers:
        del response["Content-Type"]  # Django's own, of a 204
    return response
