"""A processor that holds events to a tracking plan (extra `[schema]`)."""

import json
from collections.abc import Mapping
from typing import Any

from webob import Request

from pixel_middleware.errors import BadPixel, ConfigurationError
from pixel_middleware.events import Event
from pixel_middleware.runtime.extras import needed_by
from pixel_middleware.wire.printable import shorten

MOST_CHARACTERS = 2048  # a usual pattern for mail addresses takes 13 ms for so many, and 3.4 s for 32,768
MOST_ITEMS = 100  # `uniqueItems` compares each with each


class require_schema:
    """Refuse (400, `schema_mismatch`) an event that a JSON Schema does not allow: a tracking plan.

    The error names the path at fault and the rule that it breaks, and never the value. Put `convert` before it, since
    what a client sends is text. Strings of more than `MOST_CHARACTERS` and lists of more than `MOST_ITEMS` are refused
    unseen, since rules can take very long for them; a `pattern` of yours may still be exponential. Every `$ref` must
    lead to a place in the schema itself: nothing is fetched. Raises `ConfigurationError` for a schema that is none.

    New in 0.1.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        with needed_by("require_schema", "jsonschema", extra="schema"):
            import jsonschema
            import referencing.jsonschema
            from jsonschema_specifications import REGISTRY  # the drafts themselves, so that they need not be fetched
        try:
            kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
            kind.check_schema(schema)
        except (jsonschema.SchemaError, TypeError, AttributeError) as error:
            raise ConfigurationError.must_be(
                "schema", f"a JSON Schema ({str(error).splitlines()[0]})", type(schema)
            ) from error

        draft = referencing.jsonschema.specification_with(kind.META_SCHEMA["$schema"])
        root = draft.create_resource(schema)
        todo = [(root, REGISTRY.resolver_with_root(root))]
        seen = set()
        while todo:  # through the schema, and along each $ref that it has
            resource, resolver = todo.pop()
            if id(resource.contents) in seen or not isinstance(resource.contents, dict):
                continue
            seen.add(id(resource.contents))
            todo += [(child, resolver.in_subresource(child)) for child in resource.subresources()]
            for name in ("$ref", "$dynamicRef"):
                if (reference := resource.contents.get(name)) is not None:
                    try:
                        found = resolver.lookup(reference)
                    except referencing.exceptions.Unresolvable as error:
                        raise ConfigurationError(
                            "schema", f"schema has a {name} to {reference!r}, which is not in it; nothing is fetched"
                        ) from error
                    if not isinstance(found.contents, dict | bool):
                        raise ConfigurationError("schema", f"schema has a {name} to {reference!r}, which is no schema")
                    todo.append((draft.create_resource(found.contents), found.resolver))
        self._best_match = jsonschema.exceptions.best_match
        self._validator = kind(schema, registry=REGISTRY)

    def __call__(self, event: Event, request: Request) -> Event:
        todo: list[tuple[str, Any]] = [("", event)]
        while todo:
            path, node = todo.pop()
            if isinstance(node, str) and len(node) > MOST_CHARACTERS:
                raise BadPixel("schema_mismatch", f"{shorten(path)} is longer than {MOST_CHARACTERS} characters")
            if isinstance(node, list):
                if len(node) > MOST_ITEMS:
                    raise BadPixel("schema_mismatch", f"{shorten(path)} has more than {MOST_ITEMS} items")
                todo += [(f"{path}.{index}", child) for index, child in enumerate(node)]
            if isinstance(node, dict):
                todo += [(f"{path}.{key}".lstrip("."), child) for key, child in node.items()]
                todo += [("a name", key) for key in node]

        error = self._best_match(self._validator.iter_errors(event))
        if error is None:
            return event
        path = ".".join(map(str, error.absolute_path)) or "the event"
        rule = json.dumps({error.validator: error.validator_value}, ensure_ascii=True)
        raise BadPixel("schema_mismatch", f"{shorten(path)} must keep to {rule[:200]} of the tracking plan")
