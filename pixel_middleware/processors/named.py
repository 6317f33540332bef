"""Processors as a configuration file says them: a name, or a name with what it is given.

processors = ["honor_gpc", { convert = { "properties.total" = "float" } }, { "myapp.pixels:judge" = { strict = true } }]
"""

import inspect
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from pixel_middleware import texts
from pixel_middleware.errors import ConfigurationError

_OPTION = "processors"
_TYPES = {"int": int, "float": float, "bool": bool}


def named(given: Any, folder: str = "", *, touch: bool = True) -> Any:
    """The processor that a text, or a table of one name and its arguments, says.

    A table as argument is keyword arguments, anything else the only argument; paths are relative to `folder`. A
    processor that is no text and no table is itself. Without `touch`, none is made that would make a file: `None` is in
    its place. Raises `ConfigurationError`.
    """
    if isinstance(given, str):
        return texts.processor(_OPTION, given)
    if not isinstance(given, Mapping):
        return given
    if len(given) != 1:
        right = 'a name, or a table of one name and its arguments, like { convert = { "properties.total" = "float" } }'
        raise ConfigurationError(_OPTION, f"{_OPTION} must be, each, {right}")
    ((name, argument),) = given.items()
    make = texts.processor(_OPTION, str(name))
    arguments = argument if isinstance(argument, Mapping) else None
    if name == "convert" and arguments is not None:
        argument, arguments = {path: _type(path, to) for path, to in arguments.items()}, None
    elif name in ("suppress", "daily_visitor", "require_schema") and isinstance(argument, str):
        argument = os.path.join(folder, argument)
        if name == "require_schema":
            argument = _schema(argument)
        elif name == "daily_visitor" and not touch:
            return _checked_folder(argument)
    elif name == "require_schema":
        arguments = None
    try:
        signature = inspect.signature(make)
        if arguments is None:
            signature.bind(argument)
        else:
            signature.bind(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(_OPTION, f"{_OPTION}: {name} does not take what it is given: {error}") from error
    try:
        return make(argument) if arguments is None else make(**arguments)
    except ConfigurationError as error:
        raise ConfigurationError(_OPTION, f"{_OPTION}: {name}: {error}") from error


def _type(path: str, to: Any) -> Callable[[str], Any]:
    if isinstance(to, str) and to in _TYPES:
        return _TYPES[to]
    if isinstance(to, str) and ":" in to:
        made: Callable[[str], Any] = texts.named(_OPTION, to)
        return made
    right = '"int", "float", "bool", or package.module:name of a callable'
    raise ConfigurationError(_OPTION, f"{_OPTION}: convert makes of {path!r} {right}, and not {to!r}")


def _schema(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        sentence = f"{_OPTION}: require_schema cannot read {path}: {error.strerror}"
        raise ConfigurationError(_OPTION, sentence) from error
    except ValueError as error:
        raise ConfigurationError(_OPTION, f"{_OPTION}: require_schema: {path} is no JSON: {error}") from error


def _checked_folder(path: str) -> None:
    folder = os.path.dirname(path) or "."
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigurationError(_OPTION, f"{_OPTION}: daily_visitor cannot make {path}: {folder} cannot be written")
