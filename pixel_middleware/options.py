"""Options become their checked form at construction; a wrong one raises `ConfigurationError`."""

import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Any

from pixel_middleware.errors import ConfigurationError

RESPONSE_MODES = {"auto": None, "text": False, "gif": True}
"""`response` option -> whether to answer with an image; `None` asks the request."""


def as_callable(option: str, given: Any, what: str) -> Any:
    """A callable that does its work when it is called, and so no coroutine function."""
    if not callable(given):
        raise ConfigurationError(option, given, what)
    if inspect.iscoroutinefunction(given) or inspect.iscoroutinefunction(type(given).__call__):
        # Nobody would await it: its events would be answered 200 and be gone.
        raise ConfigurationError(option, given, f"{what} and no coroutine function")
    return given


def as_callables(option: str, given: Any, what: str) -> list[Any]:
    """A list of what `as_callable` lets pass."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigurationError(option, given, f"a list, each of it {what}")
    return [as_callable(option, one, what) for one in given]


def as_key_check(given: Any) -> Callable[[str], bool]:
    """Says whether a write key is known. A collection is copied; `None` knows every key."""
    if given is None:
        return lambda key: True
    if callable(given):
        check: Callable[[str], bool] = as_callable("write_keys", given, "a callable (key) -> bool")
        return check
    if isinstance(given, str | bytes) or not isinstance(given, Collection) or not given:
        raise ConfigurationError("write_keys", given, "None, a collection of keys, or a callable (key) -> bool")
    for key in given:
        if not isinstance(key, str) or not key.strip():
            raise ConfigurationError("write_keys", key, "strings that are not blank")
    return frozenset(given).__contains__


def as_image_mode(given: Any) -> bool | None:
    """Whether to answer with an image; `None` where the request is to say."""
    if not isinstance(given, str) or given not in RESPONSE_MODES:
        raise ConfigurationError("response", given, '"auto", "text" or "gif"')
    return RESPONSE_MODES[given]


def as_prefix(given: Any) -> str:
    """The prefix in the form of a `PATH_INFO`: one character for each byte of its UTF-8."""
    if not isinstance(given, str) or not given.startswith("/") or given.endswith("/") or "?" in given:
        raise ConfigurationError("prefix", given, 'a path like "/pixel/v1", with a slash before and none behind')
    return given.encode().decode("latin-1")


def as_flag(option: str, given: Any) -> bool:
    """`True` or `False` itself, and no stand-in for it such as `"false"`."""
    if not isinstance(given, bool):
        raise ConfigurationError(option, given, "True or False")
    return given


def as_number(option: str, given: Any, *, least: int, most: int | None = None) -> int:
    """A whole number within its bounds."""
    if isinstance(given, bool) or not isinstance(given, int) or given < least or (most and given > most):
        upto = "" if most is None else f" and at most {most}"
        raise ConfigurationError(option, given, f"a whole number of at least {least}{upto}")
    return given
