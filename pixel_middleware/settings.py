"""One table of all options: what each is, what it is if not given, how it is checked, and how its text is read.

`PixelMiddleware`'s signature has the same names and defaults, with types; a test holds them equal. Ini files, and
whatever else configures by text, read the table.
"""

import difflib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from pixel_middleware.errors import ConfigurationError

Check = Callable[[str, Any], Any]

_DEEPEST = 200  # json.dumps and our own recursion must stay clear of Python's limit of 1,000 frames


class Setting(NamedTuple):
    """A row: `check(name, given)` returns the checked value, `read(name, text)` makes a value of its text."""

    name: str
    default: Any
    check: Check
    read: Callable[[str, str], Any]
    help: str


def check(**given: Any) -> dict[str, Any]:
    """The checked values of all options, their defaults where nothing is `given`. Raises `ConfigurationError`."""
    return {row.name: row.check(row.name, given.get(row.name, row.default)) for row in SETTINGS}


def read(given: Mapping[str, Any], also: Collection[str] = ()) -> dict[str, Any]:
    """The values of options given as text; those named in `also` stay text, and what is no text stays as it is.

    Raises `ConfigurationError`; of an unknown option it names the nearest.
    """
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in also:
            values[name] = value.strip() if isinstance(value, str) else value
        elif name in _BY_NAME:
            values[name] = _BY_NAME[name].read(name, value.strip()) if isinstance(value, str) else value
        else:
            known = [*also, *_BY_NAME]
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            others = ", ".join(sorted(set(known) - {nearest}))
            raise ConfigurationError(name, f"unknown option {name!r}; did you mean {nearest}? The others are {others}")
    return values


# What checks return is what the endpoint works with.


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


def _processors(option: str, given: Any) -> list[tuple[str, Any]]:
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


def _key_check(option: str, given: Any) -> Callable[[str], bool] | None:
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


def _refused(option: str, given: Any) -> Any:
    return None if given is None else as_callable(option, given, "None, or a callable that takes a Refusal", takes=1)


_IMAGE = {"auto": None, "text": False, "gif": True}


def _image_mode(option: str, given: Any) -> bool | None:
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


def _flag(option: str, given: Any) -> bool:
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


def _number_from(least: int, most: int | None = None) -> Check:
    return lambda option, given: as_number(option, given, least=least, most=most)


# What texts become, before they are checked.


def _text(option: str, text: str) -> str:
    return text


def _true_or_false(option: str, text: str) -> bool:
    if text.lower() not in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        raise ConfigurationError.must_be(option, "true or false", text)
    return text.lower() in ("true", "yes", "on", "1")


def _digits(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigurationError.must_be(option, "a whole number", text) from None


def as_object(option: str, text: str) -> Any:
    """What `package.module:name` names."""
    try:
        return pkgutil.resolve_name(text)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError.must_be(
            option, f"package.module:name of something to import ({error})", text
        ) from error


def _keys(option: str, text: str) -> Any:
    return as_object(option, text) if ":" in text else text.replace(",", " ").split()


SETTINGS: tuple[Setting, ...] = (
    Setting("prefix", "/pixel/v1", as_prefix, _text, "where the pixels are"),
    Setting("response", "auto", _image_mode, _text, '"text" or "gif" answer so whatever the client asks for'),
    Setting("write_keys", None, _key_check, _keys, "a collection, or a callable (key) -> bool; None accepts any"),
    Setting("require_anonymous_id", True, _flag, _true_or_false, "False: a userId may stand in"),
    Setting(
        "processors",
        (),
        _processors,
        lambda option, text: [as_object(option, word) for word in text.replace(",", " ").split()],
        "(event, request) -> event, or None to drop it",
    ),
    Setting("trusted_proxies", 0, _number_from(0), _digits, "how many of your proxies append to X-Forwarded-For"),
    Setting("amp", False, _flag, _true_or_false, "True: serve <prefix>/amp.json, a configuration for amp-analytics"),
    Setting("beacons", False, _flag, _true_or_false, "True: a POST, as sendBeacon() makes it, records like a GET"),
    Setting("max_query_bytes", 32768, _number_from(1), _digits, "longer query strings are refused"),
    Setting("max_params", 1000, _number_from(1), _digits, "more parameters are refused"),
    Setting("max_depth", 32, _number_from(1, _DEEPEST), _digits, "names of more parts are refused"),
    Setting("refused", None, _refused, as_object, "gets each request that was refused, like log.refused"),
    Setting("max_event_bytes", 65536, _number_from(1024), _digits, "events whose JSON is longer are refused"),
)
"""Every option of `PixelMiddleware` beside its app and its sink."""

_BY_NAME = {row.name: row for row in SETTINGS}
