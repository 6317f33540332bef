"""One table of all options: what each is, what it is if not given, how it is checked, and how its text is read.

`PixelMiddleware`'s signature has the same names and defaults, with types; a test holds them equal. Ini files, TOML, the
environment, the command line and the reference in the docs read the tables.
"""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from pixel_middleware import checks, texts
from pixel_middleware.errors import ConfigurationError

_DEEPEST = 200  # json.dumps and our own recursion must stay clear of Python's limit of 1,000 frames


class Setting(NamedTuple):
    """A row: `check(name, given)` returns the checked value, `read(name, text)` makes a value of its text.

    `kind` says what the value is, and how it is written where everything is text.
    """

    name: str
    default: Any
    kind: str
    check: checks.Check
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


_KEYS = "a list of keys, or `module:name` of a callable"
_SWITCH = "true or false"
_NUMBER = "a whole number"

SETTINGS: tuple[Setting, ...] = (
    Setting("prefix", "/pixel/v1", "a path", checks.as_prefix, texts.plain, "where the pixels are"),
    Setting(
        "response",
        "auto",
        "`auto`, `text` or `gif`",
        checks.as_image_mode,
        texts.plain,
        '"text" or "gif" answer so whatever the client asks for',
    ),
    Setting(
        "write_keys",
        None,
        _KEYS,
        checks.as_key_check,
        texts.keys,
        "a collection, or a callable (key) -> bool; None accepts any",
    ),
    Setting("require_anonymous_id", True, _SWITCH, checks.as_flag, texts.switch, "False: a userId may stand in"),
    Setting(
        "processors",
        (),
        "a list of names of ours, or of `module:name`",
        checks.as_processors,
        texts.processors,
        "(event, request) -> event, or None to drop it",
    ),
    Setting(
        "trusted_proxies",
        0,
        _NUMBER,
        checks.number_from(0),
        texts.whole_number,
        "how many of your proxies append to X-Forwarded-For",
    ),
    Setting(
        "amp",
        False,
        _SWITCH,
        checks.as_flag,
        texts.switch,
        "True: serve <prefix>/amp.json, a configuration for amp-analytics",
    ),
    Setting(
        "beacons",
        False,
        _SWITCH,
        checks.as_flag,
        texts.switch,
        "True: a POST, as sendBeacon() makes it, records like a GET",
    ),
    Setting(
        "max_query_bytes", 32768, _NUMBER, checks.number_from(1), texts.whole_number, "longer query strings are refused"
    ),
    Setting("max_params", 1000, _NUMBER, checks.number_from(1), texts.whole_number, "more parameters are refused"),
    Setting(
        "max_depth", 32, _NUMBER, checks.number_from(1, _DEEPEST), texts.whole_number, "names of more parts are refused"
    ),
    Setting(
        "max_event_bytes",
        65536,
        _NUMBER,
        checks.number_from(1024),
        texts.whole_number,
        "events whose JSON is longer are refused",
    ),
    Setting(
        "refused",
        None,
        "`module:name`",
        checks.as_refused,
        texts.named,
        "gets each request that was refused, like log.refused",
    ),
)
"""Every option of `PixelMiddleware` beside its app and its sink."""

OUTPUT_SETTINGS: tuple[Setting, ...] = (
    Setting(
        "output",
        "events.db",
        "a path",
        checks.as_name,
        texts.plain,
        "file for the events: an event log if its name ends in .db or .sqlite, JSON Lines if in .jsonl",
    ),
    Setting(
        "forward_to", (), "a list of `NAME=URL`", checks.as_texts, texts.words, "where an event log sends its events"
    ),
    Setting(
        "max_bytes",
        None,
        _NUMBER,
        checks.or_none(checks.number_from(65536)),
        texts.whole_number,
        "of an event log; with destinations 1 GiB by default, without them the disk is the bound",
    ),
    Setting(
        "keep_days",
        None,
        "a number",
        checks.or_none(checks.as_days),
        texts.number,
        "events older than this go, once delivered",
    ),
)
"""What keeps the events, where no sink is made in Python."""

SERVE_SETTINGS: tuple[Setting, ...] = (
    Setting("live", True, _SWITCH, checks.as_flag, texts.switch, "whether / shows the events as they come"),
    Setting(
        "allow",
        (),
        "a list of networks",
        checks.as_networks,
        texts.items,
        "who may see the live view without its token",
    ),
    Setting("host", "127.0.0.1", "a name or an address", checks.as_name, texts.plain, "what `serve` listens on"),
    Setting(
        "port", 8080, _NUMBER, checks.number_from(0, 65535), texts.whole_number, "the port of `serve`; 0: any free one"
    ),
    Setting("workers", 1, _NUMBER, checks.number_from(1, 256), texts.whole_number, "processes of `serve`"),
    Setting(
        "threads",
        32,
        _NUMBER,
        checks.number_from(1, 512),
        texts.whole_number,
        "threads of each process of `serve` for its pages, and as many for processors that may wait",
    ),
    Setting("quiet", False, _SWITCH, checks.as_flag, texts.switch, "whether `serve` prints no events"),
)
"""What only the collector has."""

COLLECTOR_SETTINGS: tuple[Setting, ...] = (
    *OUTPUT_SETTINGS,
    *(row for row in SETTINGS if row.name != "refused"),  # its event log keeps what is refused
    *SERVE_SETTINGS,
)
