"""What an option may be: each check returns the value to work with, or raises a `ConfigurationError`."""

import inspect
import ipaddress
import os
from collections.abc import Callable, Collection, Iterable
from typing import Any

from pixel_middleware.errors import ConfigurationError

Check = Callable[[str, Any], Any]
"""Takes the option's name, for the error, and what was given."""


def as_callable(
    option: str, given: Any, what: str, takes: int, *, may_yield: bool = False, may_await: bool = False
) -> Any:
    """A callable of so many arguments, where its signature can be read, that does its work when it is called.

    With `may_yield` it may be a generator, and with `may_await` a coroutine function: somebody will run them.
    """
    if not callable(given):
        raise ConfigurationError.must_be(option, what, given)
    works = (given, type(given).__call__)
    is_coroutine = any(map(inspect.iscoroutinefunction, works)) and not may_await
    if is_coroutine or any(map(inspect.isasyncgenfunction, works)):
        # Nobody would await it: its events would be answered 200 and be gone.
        raise ConfigurationError.must_be(option, f"{what} and no coroutine function", given)
    if any(map(inspect.isgeneratorfunction, works)) and not may_yield:
        raise ConfigurationError.must_be(option, f"{what} and no generator, which nobody runs", given)
    try:
        # Its own signature: a decorator may have made a WSGI app of a function of one request, and keep its name.
        inspect.signature(given, follow_wrapped=False).bind(*range(takes))
    except ValueError:
        return given  # some callables in C tell no signature
    except TypeError as error:
        raise ConfigurationError.must_be(option, f"{what} ({error})", given) from error
    return given


def done(result: object, who: str) -> Any:
    """`result`, unless it is work that is still to be done: a coroutine, or what else is awaited, or a generator.

    Raises `TypeError` then, since nobody would do it.
    """
    if result is None or isinstance(result, bool | dict):
        return result
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        if inspect.iscoroutine(result):
            result.close()  # or Python would warn that it was never awaited
        raise TypeError(f"{who} returned a {type(result).__name__}, which nobody runs; use a plain function")
    return result


def as_wsgi_app(option: str, given: Any) -> Any:
    """A WSGI app; an ASGI app gets an error that names the face for it."""
    if any(map(inspect.iscoroutinefunction, (given, type(given).__call__))):
        raise ConfigurationError.must_be(
            option, "a WSGI app; for an ASGI app (FastAPI, Starlette) use pixel_middleware.asgi.PixelMiddleware", given
        )
    return as_callable(option, given, "a WSGI app", takes=2, may_yield=True)


def as_asgi_app(option: str, given: Any) -> Any:
    """An ASGI app, which takes scope, receive and send."""
    what = "an ASGI app (for a WSGI app use pixel_middleware.PixelMiddleware)"
    return as_callable(option, given, what, takes=3, may_await=True)


def as_sink(option: str, given: Any, *, may_await: bool = False) -> Any:
    """A callable of one event that is no class: events would be its arguments, and what it makes of them be lost."""
    what = "a callable that takes one event"
    if isinstance(given, type):
        raise ConfigurationError.must_be(
            option, f"{what}; {given.__name__} is a class, so make one: {given.__name__}(...)", given
        )
    return as_callable(option, given, what, takes=1, may_await=may_await)


def name_of(given: object) -> str:
    """What a log calls a callable: the name of a function, or of an object's class."""
    name: str = getattr(given, "__qualname__", None) or type(given).__qualname__
    return name


def as_processors(option: str, given: Any) -> list[tuple[str, Any]]:
    """The processors, each with its name."""
    what = "a callable that takes an event and a request"
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigurationError.must_be(option, f"a list, each of it {what}", given)
    processors = [*given]
    for one in processors:
        if isinstance(one, type):
            raise ConfigurationError.must_be(
                option, f"{what}; {one.__name__} is a class, so give it its arguments: {one.__name__}(...)", one
            )
    return [(name_of(one), as_callable(option, one, what, takes=2)) for one in processors]


def as_key_check(option: str, given: Any) -> Callable[[str], bool] | None:
    """Says whether a write key is known. A collection is copied; `None` knows every key."""
    if given is None:
        return None
    if callable(given):
        known = as_callable(option, given, "a callable (key) -> bool", takes=1)
        return lambda key: bool(done(known(key), "write_keys"))
    if isinstance(given, str | bytes) or not isinstance(given, Collection) or not given:
        raise ConfigurationError.must_be(option, "None, a collection of keys, or a callable (key) -> bool", given)
    for key in given:
        if not isinstance(key, str) or not key.strip():
            raise ConfigurationError.must_be(option, "strings that are not blank", key)
    return frozenset(given).__contains__


def as_refused(option: str, given: Any) -> Any:
    return None if given is None else as_callable(option, given, "None, or a callable that takes a Refusal", takes=1)


_IMAGE = {"auto": None, "text": False, "gif": True}


def as_image_mode(option: str, given: Any) -> bool | None:
    """Whether to answer with an image; `None` where the request is to say."""
    if not isinstance(given, str) or given not in _IMAGE:
        raise ConfigurationError.must_be(option, '"auto", "text" or "gif"', given)
    return _IMAGE[given]


def as_prefix(option: str, given: Any) -> str:
    """The prefix in the form of a `PATH_INFO`: one character for each byte of its UTF-8.

    `""` is for a mount where the pixels are: then every path that arrives is the endpoint's.
    """
    if given == "":
        return ""
    if not isinstance(given, str) or not given.startswith("/") or given.endswith("/") or "?" in given:
        what = 'a path like "/pixel/v1", with a slash before and none behind, or "" for a mount at that path'
        raise ConfigurationError.must_be(option, what, given)
    return given.encode().decode("latin-1")


def as_flag(option: str, given: Any) -> bool:
    """`True` or `False` itself, and no stand-in for it such as `"false"`."""
    if not isinstance(given, bool):
        raise ConfigurationError.must_be(option, "True or False", given)
    return given


def as_number(option: str, given: Any, *, least: int, most: int | None = None) -> int:
    """A whole number within its bounds."""
    if isinstance(given, bool) or not isinstance(given, int) or given < least or (most and given > most):
        upto = "" if most is None else f" and at most {most}"
        raise ConfigurationError.must_be(option, f"a whole number of at least {least}{upto}", given)
    return given


def is_number(given: Any, least: float) -> bool:
    """Whether it is a finite number of at least so much, whole or not."""
    return isinstance(given, int | float) and not isinstance(given, bool) and least <= given < float("inf")


def number_from(least: int, most: int | None = None) -> Check:
    return lambda option, given: as_number(option, given, least=least, most=most)


def or_none(check: Check) -> Check:
    return lambda option, given: None if given is None else check(option, given)


def as_days(option: str, given: Any) -> float:
    """A number of days."""
    if not is_number(given, 0):
        raise ConfigurationError.must_be(option, "None or a number of days, 0 or more", given)
    return float(given)


def as_name(option: str, given: Any) -> str:
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):
        raise ConfigurationError.must_be(option, "text that is not empty", given)
    return os.fspath(given)


def as_texts(option: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Collection):
        raise ConfigurationError.must_be(option, "a list of texts", type(given).__name__)
    if not all(isinstance(text, str) for text in given):
        raise ConfigurationError(option, f"{option} must be a list of texts, and one of its items is none")
    return tuple(given)


def as_networks(option: str, given: Any) -> tuple[str, ...]:
    networks = as_texts(option, given)
    try:
        for network in networks:
            ipaddress.ip_network(network)
    except ValueError as error:
        raise ConfigurationError(option, f"{option} must be networks like 10.0.0.0/8: {error}") from error
    return networks
