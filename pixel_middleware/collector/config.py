"""What configures the collector: flags, before the environment (`PIXEL_<OPTION>`), before a file (TOML).

output = "events.db"
write_keys = ["shop", "blog"]
trusted_proxies = 1
processors = ["honor_gpc", "anonymize_ip", { convert = { "properties.total" = "float" } }]

[destinations]
rudderstack = "https://hosted.rudderlabs.com"
lake = { url = "kafka://kafka-1:9092/events", "sasl.password" = "{env:KAFKA_PASSWORD}" }
"""

import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pixel_middleware import settings, texts
from pixel_middleware.destinations import Destination, from_table, named
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.processors.named import named as processor_named
from pixel_middleware.sinks.files import is_log

PREFIX = "PIXEL_"
FILE = "PIXEL_CONFIG"
"""The environment variable that names the file, where nothing else does."""

_ROWS = {row.name: row for row in settings.COLLECTOR_SETTINGS}
_TARGETS = ("forward_to", "destinations")
"""Two ways to say one thing: what goes before the others replaces both."""


class Made(NamedTuple):
    """What a configuration comes to: values by option, and the destinations by name."""

    values: dict[str, Any]
    destinations: dict[str, Destination]

    @property
    def options(self) -> dict[str, Any]:
        """Those of `PixelMiddleware`."""
        return {row.name: self.values[row.name] for row in settings.SETTINGS if row.name in self.values}


@dataclass(frozen=True)
class Config:
    """Options as they were written, without what they refer to. Can be pickled if it came as text."""

    given: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    """By option, where it was written."""
    folder: str = ""
    """What the paths of a file are relative to."""

    def made(self, *, touch: bool = True) -> Made:
        """All values, checked, with the references filled in. Opens nothing; without `touch`, makes no file either.

        Raises `ConfigurationError`, which names where the option was written, and repeats nothing secret.
        """
        folder = os.path.abspath(self.folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for processors and destinations of one's own
        references = texts.References(self.folder)
        try:
            return self._made(references, touch)
        except ConfigurationError as error:
            hidden = references.hidden(error)
            origin = self.origins.get(hidden.option.partition(".")[0])
            raise ConfigurationError(hidden.option, f"{origin}: {hidden}" if origin else str(hidden)) from None

    def _made(self, references: texts.References, touch: bool) -> Made:
        filled = {
            name: value if name in _TARGETS else references.fill(name, value) for name, value in self.given.items()
        }
        tables = filled.pop("destinations", {})
        if not isinstance(tables, Mapping):
            raise ConfigurationError("destinations", "destinations must be a table of names and URLs")
        values = {row.name: row.default for row in _ROWS.values()}
        values |= settings.read(filled, _ROWS.values(), also=())
        origin = self.origins.get("output", "")
        if origin and not origin.startswith(PREFIX):
            values["output"] = os.path.join(self.folder, values["output"])
        if isinstance(values["processors"], list | tuple):
            made = [processor_named(one, self.folder, touch=touch) for one in values["processors"]]
            values["processors"] = [one for one in made if one is not None]
        for name, value in values.items():
            _ROWS[name].check(name, value)
        destinations = named(values["forward_to"], references)
        for name, given in tables.items():
            if name in destinations:
                raise ConfigurationError("destinations", f"two destinations are called {name}; rename one")
            destinations[name] = from_table(name, given, references)
        bounds = {name: values[name] for name in ("max_bytes", "keep_days")}
        is_log(values["output"], destinations, **bounds)
        return Made(values, destinations)


def load(
    path: str | os.PathLike[str] | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """The options of a file, of the environment and of flags together, unchecked but for their names.

    Raises `ConfigurationError`, also if the file cannot be read.
    """
    path = path or environ.get(FILE)
    given: dict[str, Any] = {}
    origins: dict[str, str] = {}
    variables = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environ.items()
        if name.startswith(PREFIX) and name != FILE
    }
    for layer, origin in (
        ({} if path is None else _of_file(Path(path)), str(path)),
        (variables, PREFIX),
        (flags or {}, ""),
    ):
        try:
            settings.read(dict.fromkeys(layer), _ROWS.values(), also=("destinations",))  # for their names
        except ConfigurationError as error:
            raise ConfigurationError(error.option, f"{origin}: {error}" if origin else str(error)) from None
        if not layer.keys().isdisjoint(_TARGETS):
            given = {name: value for name, value in given.items() if name not in _TARGETS}
        given |= layer
        origins |= {name: f"{PREFIX}{name.upper()}" if origin == PREFIX else origin for name in layer}
    return Config(given, origins, "" if path is None else os.path.dirname(path))


def _of_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError("config", f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise ConfigurationError("config", f"{path} is no TOML: {error}") from error
