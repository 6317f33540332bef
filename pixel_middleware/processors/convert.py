"""A processor that makes numbers, or what you like, of the text that clients send."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from webob import Request

from pixel_middleware.errors import ConfigurationError
from pixel_middleware.events import Event


class convert:
    """Make numbers, or what you like, of text: `convert({"context.screen.width": int, "properties.total": float})`.

    A path leads through lists to each of their items. What does not convert stays the string that it is.

    New in 0.1.
    """

    def __init__(self, types: Mapping[str, Callable[[str], Any]]) -> None:
        if not isinstance(types, Mapping) or not all(map(callable, types.values())):
            raise ConfigurationError.must_be(
                "types", 'a mapping of paths to callables, like {"properties.total": float}', types
            )
        self.never_waits = _CAREFUL.keys() >= set(types.values())
        """An event loop may call it, with nothing of somebody else's."""
        self._types = [(path.split("."), _CAREFUL.get(make, make)) for path, make in types.items()]

    def __call__(self, event: Event, request: Request) -> Event:
        for path, make in self._types:
            _convert_at(event, path, make)
        return event


def _convert_at(node: Any, path: list[str], make: Callable[[str], Any]) -> None:
    if isinstance(node, list) and not (path and path[0].isdecimal()):
        for item in range(len(node)):
            _convert_at(node, [str(item), *path], make)
        return
    key: Any = int(path[0]) if isinstance(node, list) else path[0]
    if not isinstance(node, dict | list) or (key not in node if isinstance(node, dict) else key >= len(node)):
        return
    value = node[key]
    if len(path) > 1 or isinstance(value, list):
        _convert_at(value, path[1:], make)
    elif isinstance(value, str):
        with suppress(ValueError, TypeError, ArithmeticError, LookupError, RecursionError):
            node[key] = make(value)


def _careful_int(text: str) -> int:
    if "_" in text:
        raise ValueError("Python's own way to write a number")
    return int(text)


def _careful_float(text: str) -> float:
    number = float(text)
    if "_" in text or number - number != 0:
        raise ValueError("Python's own way to write a number, or none that JSON has")
    return number


def _careful_bool(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError("anything else is true for Python")
    return text.lower() in ("true", "1")


_CAREFUL: dict[Any, Callable[[str], Any]] = {int: _careful_int, float: _careful_float, bool: _careful_bool}
