"""The sink and the options of a framework's own configuration: text from an ini file, or values from Python."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pixel_middleware import settings, texts
from pixel_middleware.destinations import named
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.sinks.files import sink_to


def sink_and_options(given: Mapping[str, Any]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """What makes the sink, and the checked options of `PixelMiddleware`.

    The sink is `sink`, itself or as `package.module:name`; or `output`, a file, with the other options of
    `settings.OUTPUT_SETTINGS`. Nothing is opened before the sink is made. Text is read as in an ini file, also in a
    list of processors; `{env:NAME}` and `{file:PATH}` in it are filled in. Raises `ConfigurationError`, which names the
    option.
    """
    references = texts.References()
    try:
        # A URL is taken apart first: what is filled in need not be quoted for it.
        filled = {
            name: references.fill(name, value) if isinstance(value, str) and name != "forward_to" else value
            for name, value in given.items()
        }
        options = settings.read(filled, (*settings.OUTPUT_SETTINGS, *settings.SETTINGS), also=("sink",))
        sink = options.pop("sink", None)
        kept = {row.name: options.pop(row.name, None) for row in settings.OUTPUT_SETTINGS}
        output, forward_to = kept.pop("output"), kept.pop("forward_to")
        if (output is None) == (sink is None):
            raise ConfigurationError("sink", "set either sink or output")
        if output is None and (further := [name for name in ("forward_to", *kept) if given.get(name) is not None]):
            raise ConfigurationError(
                further[0], f"{further[0]} needs output, the file that keeps what is still to be sent"
            )
        if isinstance(options.get("processors"), list | tuple):
            options["processors"] = [
                texts.processor("processors", one) if isinstance(one, str) else one for one in options["processors"]
            ]
        settings.check(**options)
        if output is not None:
            return partial(sink_to, output, named(forward_to or (), references), **kept), options
        if isinstance(sink, str):
            sink = texts.named("sink", sink)
        return lambda: sink, options
    except ConfigurationError as error:
        raise references.hidden(error) from None
