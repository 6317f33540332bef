"""The middleware in the ini file of a Paste deployment, as `pserve` and others read it.

[filter:pixels]
use = egg:pixel-middleware
sink = myapp.analytics:collect
write_keys = key-of-the-shop key-of-the-blog

[app:main]
filter-with = pixels
"""

import difflib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any
from wsgiref.types import WSGIApplication

from pixel_middleware.destinations import sink_to
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.middleware import PixelMiddleware

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


def filter_app_factory(app: WSGIApplication, global_conf: Mapping[str, str], **local_conf: str) -> PixelMiddleware:
    """`PixelMiddleware(app, ...)` with the options of an ini section.

    Its sink is `sink`, a `package.module:name`; or `output`, a file, with `forward_to` if its events
    are to be sent on; see `destinations`. Raises `ConfigurationError`, which names the option.
    """
    given = {option: _convert(option, text.strip()) for option, text in local_conf.items()}
    output, forward_to = given.pop("output", None), given.pop("forward_to", None)
    if (output is None) == ("sink" not in given):
        raise ConfigurationError("sink", local_conf.get("sink"), "given, or else output, and not both")
    if forward_to is not None and output is None:
        raise ConfigurationError("forward_to", forward_to, "given together with output")
    sink = given.pop("sink", None) or sink_to(output, forward_to)
    return PixelMiddleware(app, sink, **given)


def _convert(option: str, text: str) -> Any:
    if option not in CONVERTERS:
        nearest = difflib.get_close_matches(option, CONVERTERS, n=1, cutoff=0)[0]
        others = ", ".join(sorted(CONVERTERS.keys() - {nearest}))
        raise ConfigurationError("an option", option, f"{nearest}, or one of {others}")
    return CONVERTERS[option](option, text)


def _as_text(option: str, text: str) -> str:
    return text


def _as_flag(option: str, text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise ConfigurationError(option, text, "true or false")
    return text.lower() in _TRUE


def _as_number(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigurationError(option, text, "a whole number") from None


def _as_words(option: str, text: str) -> list[str]:
    return text.replace(",", " ").split()


def _as_object(option: str, text: str) -> Any:
    try:
        return pkgutil.resolve_name(text)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(option, text, f"package.module:name of something to import ({error})") from error


def _as_objects(option: str, text: str) -> list[Any]:
    return [_as_object(option, word) for word in _as_words(option, text)]


def _as_write_keys(option: str, text: str) -> Any:
    return _as_object(option, text) if ":" in text else _as_words(option, text)


CONVERTERS: dict[str, Callable[[str, str], Any]] = {
    "sink": _as_object,
    "output": _as_text,
    "forward_to": _as_text,
    "prefix": _as_text,
    "response": _as_text,
    "write_keys": _as_write_keys,
    "require_anonymous_id": _as_flag,
    "processors": _as_objects,
    "trusted_proxies": _as_number,
    "amp": _as_flag,
    "max_query_bytes": _as_number,
    "max_params": _as_number,
    "max_depth": _as_number,
}
"""What makes each option of an ini file out of its text."""
