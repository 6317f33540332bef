"""A processor that holds events to a tracking plan (extra `[schema]`)."""

import json
from collections.abc import Mapping
from typing import Any

from webob import Request

from pixel_middleware.errors import BadPixel, ConfigurationError
from pixel_middleware.events import Event
from pixel_middleware.runtime.extras import needed_by
from pixel_middleware.wire.printable import shorten


class require_schema:
    """Refuse (400, `schema_mismatch`) an event that a JSON Schema does not allow: a tracking plan.

    The error names the path at fault and the rule that it breaks, and never the value. Put `convert` before it, since
    what a client sends is text. Raises `ConfigurationError` for a schema that is none.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        with needed_by("require_schema", "jsonschema", extra="schema"):
            import jsonschema
        try:
            kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
            kind.check_schema(schema)
        except (jsonschema.SchemaError, TypeError, AttributeError) as error:
            raise ConfigurationError.must_be(
                "schema", f"a JSON Schema ({str(error).splitlines()[0]})", type(schema)
            ) from error
        self._best_match = jsonschema.exceptions.best_match
        self._validator = kind(schema)

    def __call__(self, event: Event, request: Request) -> Event:
        error = self._best_match(self._validator.iter_errors(event))
        if error is None:
            return event
        path = ".".join(map(str, error.absolute_path)) or "the event"
        rule = json.dumps({error.validator: error.validator_value}, ensure_ascii=True)
        raise BadPixel("schema_mismatch", f"{shorten(path)} must keep to {rule[:200]} of the tracking plan")
