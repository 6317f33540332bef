"""Processors: what may happen to an event before its sink sees it.

    from pixel_middleware.processors import anonymize_ip, convert, honor_gpc

    PixelMiddleware(app, sink, processors=[honor_gpc, anonymize_ip, convert({"properties.total": float})])

They run in the order given, and a processor of yours is any callable `(event, request) -> event`, or `None` to drop
the event. `flag_automation` and `drop_automation` need the extra `[bots]`, `require_schema` needs `[schema]`.
"""

import ipaddress
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from webob import Request

from pixel_middleware.errors import BadPixel, ConfigurationError
from pixel_middleware.events import Event
from pixel_middleware.mapping import shorten, split_pairs
from pixel_middleware.signatures import SIGNATURE, is_signed

ANONYMOUS_BITS = {4: 24, 6: 48}
"""How much of an address `anonymize_ip` keeps: a network, and nobody in it."""


def anonymize_ip(event: Event, request: Request) -> Event:
    """Keep the network of the client's address, /24 or /48, in `context.ip` and `request_ip`; and no other text."""
    event["request_ip"] = _network(event["request_ip"])
    address = event["context"].pop("ip", "")
    if kept := _network(address):
        event["context"]["ip"] = kept
    return event


def drop_ip(event: Event, request: Request) -> Event:
    """Forget the client's address: no `context.ip`, and a `request_ip` of `""`."""
    event["request_ip"] = ""
    event["context"].pop("ip", None)
    return event


def honor_gpc(event: Event, request: Request) -> Event | None:
    """Drop the event of a client that sends `Sec-GPC: 1`, Global Privacy Control; it is counted as dropped."""
    return None if request.environ.get("HTTP_SEC_GPC") == "1" else event


def honor_dnt(event: Event, request: Request) -> Event | None:
    """Drop the event of a client that sends `DNT: 1`, Do Not Track; it is counted as dropped."""
    return None if request.environ.get("HTTP_DNT") == "1" else event


class convert:
    """Make numbers, or what you like, of text: `convert({"context.screen.width": int, "properties.total": float})`.

    A path leads through lists to each of their items. What does not convert stays the string that it is.
    """

    def __init__(self, types: Mapping[str, Callable[[str], Any]]) -> None:
        if not isinstance(types, Mapping) or not all(map(callable, types.values())):
            raise ConfigurationError(
                "types", types, 'a mapping of paths to callables, like {"properties.total": float}'
            )
        self._types = [(path.split("."), _CAREFUL.get(make, make)) for path, make in types.items()]

    def __call__(self, event: Event, request: Request) -> Event:
        for path, make in self._types:
            _convert_at(event, path, make)
        return event


class require_schema:
    """Refuse (400, `schema_mismatch`) an event that a JSON Schema does not allow: a tracking plan.

    The error names the path at fault and the rule that it breaks, and never the value. Put `convert` before it, since
    what a client sends is text. Raises `ConfigurationError` for a schema that is none.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        try:
            import jsonschema
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "require_schema needs jsonschema: pip install 'pixel-middleware[schema]'", name=error.name
            ) from error
        try:
            kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
            kind.check_schema(schema)
        except (jsonschema.SchemaError, TypeError, AttributeError) as error:
            raise ConfigurationError("schema", type(schema), f"a JSON Schema ({str(error).splitlines()[0]})") from error
        self._best_match = jsonschema.exceptions.best_match
        self._validator = kind(schema)

    def __call__(self, event: Event, request: Request) -> Event:
        error = self._best_match(self._validator.iter_errors(event))
        if error is None:
            return event
        path = ".".join(map(str, error.absolute_path)) or "the event"
        rule = json.dumps({error.validator: error.validator_value}, ensure_ascii=True)
        raise BadPixel("schema_mismatch", f"{shorten(path)} must keep to {rule[:200]} of the tracking plan")


class verify_signature:
    """Refuse (400, `invalid_signature`) a pixel that `pixel_url(..., signing_key=)` did not make with one of `keys`.

    Several keys allow for rotation: sign with the new one, and verify with both while old mails are read.
    """

    def __init__(self, keys: str | Collection[str]) -> None:
        self._keys = [keys] if isinstance(keys, str) else list(keys)
        if not self._keys or not all(isinstance(key, str) and key for key in self._keys):
            raise ConfigurationError("keys", type(keys), "a secret, or several; strings that are not empty")

    def __call__(self, event: Event, request: Request) -> Event:
        if not is_signed(event["type"], split_pairs(request.environ.get("QUERY_STRING", "")), self._keys):
            raise BadPixel("invalid_signature", "the signature is missing or wrong; use the URL as it was made")
        cast(dict[str, Any], event).pop(SIGNATURE)
        return event


def __getattr__(name: str) -> Any:
    # They need an extra, and should miss it when the app starts rather than at the first pixel.
    if name in ("flag_automation", "drop_automation"):
        from pixel_middleware import automation

        return getattr(automation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    network = ipaddress.ip_network((int(parsed), ANONYMOUS_BITS[parsed.version]), strict=False)
    return str(network.network_address)


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
        node[key] = _converted(value, make)


def _converted(text: str, make: Callable[[str], Any]) -> Any:
    try:
        return make(text)
    except (ValueError, TypeError, ArithmeticError):
        return text


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
