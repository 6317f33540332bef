"""One table of all options: what each is, what it is if not given, how it is checked, and how its text is read.

`PixelMiddleware`'s signature has the same names and defaults, with types; a test holds them equal. Ini files, TOML, the
environment, the command line and the reference in the docs read the tables.
"""

import difflib
import inspect
import ipaddress
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from pixel_middleware import texts
from pixel_middleware.errors import ConfigurationError

Check = Callable[[str, Any], Any]

_DEEPEST = 200  # json.dumps and our own recursion must stay clear of Python's limit of 1,000 frames


class Setting(NamedTuple):
    """A row: `check(name, given)` returns the checked value, `read(name, text)` makes a value of its text.

    `kind` says what the value is, and how it is written where everything is text.
    """

    name: str
    default: Any
    kind: str
    check: Check
    read: Callable[[str, str], Any]
    help: str


def check(**given: Any) -> dict[str, Any]:
    """The checked values of the middleware's options, their defaults where nothing is `given`.

    Raises `ConfigurationError`.
    """
    return {row.name: row.check(row.name, given.get(row.name, row.default)) for row in SETTINGS}


def read(given: Mapping[str, Any], rows: Iterable[Setting], also: Collection[str] = ()) -> dict[str, Any]:
    """The values of options given as text; those named in `also` stay text, and what is no text stays as it is.

    Raises `ConfigurationError`; of an unknown option it names the nearest.
    """
    by_name = {row.name: row for row in rows}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in also:
            values[name] = value.strip() if isinstance(value, str) else value
        elif name in by_name:
            values[name] = by_name[name].read(name, value.strip()) if isinstance(value, str) else value
        else:
            known = [*also, *by_name]
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


def _or_none(check: Check) -> Check:
    return lambda option, given: None if given is None else check(option, given)


def as_days(option: str, given: Any) -> float:
    """A number of days."""
    if not is_number(given, 0):
        raise ConfigurationError.must_be(option, "None or a number of days, 0 or more", given)
    return float(given)


def _named(option: str, given: Any) -> str:
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):
        raise ConfigurationError.must_be(option, "text that is not empty", given)
    return os.fspath(given)


def _texts(option: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Collection):
        raise ConfigurationError.must_be(option, "a list of texts", type(given).__name__)
    if not all(isinstance(text, str) for text in given):
        raise ConfigurationError(option, f"{option} must be a list of texts, and one of its items is none")
    return tuple(given)


def _networks(option: str, given: Any) -> tuple[str, ...]:
    networks = _texts(option, given)
    try:
        for network in networks:
            ipaddress.ip_network(network)
    except ValueError as error:
        raise ConfigurationError(option, f"{option} must be networks like 10.0.0.0/8: {error}") from error
    return networks


_KEYS = "a list of keys, or `module:name` of a callable"
_SWITCH = "true or false"
_NUMBER = "a whole number"

SETTINGS: tuple[Setting, ...] = (
    Setting("prefix", "/pixel/v1", "a path", as_prefix, texts.plain, "where the pixels are"),
    Setting(
        "response",
        "auto",
        "`auto`, `text` or `gif`",
        _image_mode,
        texts.plain,
        '"text" or "gif" answer so whatever the client asks for',
    ),
    Setting(
        "write_keys", None, _KEYS, _key_check, texts.keys, "a collection, or a callable (key) -> bool; None accepts any"
    ),
    Setting("require_anonymous_id", True, _SWITCH, _flag, texts.switch, "False: a userId may stand in"),
    Setting(
        "processors",
        (),
        "a list of names of ours, or of `module:name`",
        _processors,
        texts.processors,
        "(event, request) -> event, or None to drop it",
    ),
    Setting(
        "trusted_proxies",
        0,
        _NUMBER,
        _number_from(0),
        texts.whole_number,
        "how many of your proxies append to X-Forwarded-For",
    ),
    Setting(
        "amp", False, _SWITCH, _flag, texts.switch, "True: serve <prefix>/amp.json, a configuration for amp-analytics"
    ),
    Setting(
        "beacons", False, _SWITCH, _flag, texts.switch, "True: a POST, as sendBeacon() makes it, records like a GET"
    ),
    Setting("max_query_bytes", 32768, _NUMBER, _number_from(1), texts.whole_number, "longer query strings are refused"),
    Setting("max_params", 1000, _NUMBER, _number_from(1), texts.whole_number, "more parameters are refused"),
    Setting("max_depth", 32, _NUMBER, _number_from(1, _DEEPEST), texts.whole_number, "names of more parts are refused"),
    Setting(
        "max_event_bytes",
        65536,
        _NUMBER,
        _number_from(1024),
        texts.whole_number,
        "events whose JSON is longer are refused",
    ),
    Setting(
        "refused", None, "`module:name`", _refused, texts.named, "gets each request that was refused, like log.refused"
    ),
)
"""Every option of `PixelMiddleware` beside its app and its sink."""

OUTPUT_SETTINGS: tuple[Setting, ...] = (
    Setting(
        "output",
        "events.db",
        "a path",
        _named,
        texts.plain,
        "file for the events: an event log if its name ends in .db or .sqlite, JSON Lines if in .jsonl",
    ),
    Setting("forward_to", (), "a list of `NAME=URL`", _texts, texts.words, "where an event log sends its events"),
    Setting(
        "max_bytes",
        None,
        _NUMBER,
        _or_none(_number_from(65536)),
        texts.whole_number,
        "of an event log; with destinations 1 GiB by default, without them the disk is the bound",
    ),
    Setting(
        "keep_days", None, "a number", _or_none(as_days), texts.number, "events older than this go, once delivered"
    ),
)
"""What keeps the events, where no sink is made in Python."""

SERVE_SETTINGS: tuple[Setting, ...] = (
    Setting("live", True, _SWITCH, _flag, texts.switch, "whether / shows the events as they come"),
    Setting("allow", (), "a list of networks", _networks, texts.items, "who may see the live view without its token"),
    Setting("host", "127.0.0.1", "a name or an address", _named, texts.plain, "what `serve` listens on"),
    Setting("port", 8080, _NUMBER, _number_from(0, 65535), texts.whole_number, "the port of `serve`; 0: any free one"),
    Setting("workers", 1, _NUMBER, _number_from(1, 256), texts.whole_number, "processes of `serve`"),
    Setting(
        "threads",
        32,
        _NUMBER,
        _number_from(1, 512),
        texts.whole_number,
        "threads of each process of `serve`; those that wait for the disk share a flush",
    ),
    Setting("quiet", False, _SWITCH, _flag, texts.switch, "whether `serve` prints no events"),
)
"""What only the collector has."""

COLLECTOR_SETTINGS: tuple[Setting, ...] = (
    *OUTPUT_SETTINGS,
    *(row for row in SETTINGS if row.name != "refused"),  # its event log keeps what is refused
    *SERVE_SETTINGS,
)
