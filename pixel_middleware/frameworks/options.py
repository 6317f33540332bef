"""The sink and the options of a framework's own configuration: text from an ini file, or values from Python."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pixel_middleware import settings
from pixel_middleware.destinations import named
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.sinks.files import sink_to


def sink_and_options(given: Mapping[str, Any]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """What makes the sink, and the checked options of `PixelMiddleware`.

    The sink is `sink`, itself or as `package.module:name`; or `output`, a file, with `forward_to`, one or more
    `NAME=URL`, if its events are to be sent on; see `sinks.files`. Nothing is opened before the sink is made. Text is
    read as in an ini file, also in a list of processors. Raises `ConfigurationError`, which names the option.
    """
    options = settings.read(given, also=("sink", "output", "forward_to"))
    sink, output, forward_to = (options.pop(name, None) for name in ("sink", "output", "forward_to"))
    if (output is None) == (sink is None):
        raise ConfigurationError("sink", "set either sink or output")
    if forward_to is not None and output is None:
        raise ConfigurationError("forward_to", "forward_to needs output, the file that keeps what is still to be sent")
    if isinstance(options.get("processors"), list | tuple):
        options["processors"] = [
            settings.as_object("processors", one) if isinstance(one, str) else one for one in options["processors"]
        ]
    settings.check(**options)
    if output is not None:
        return partial(sink_to, output, named((forward_to or "").split())), options
    if isinstance(sink, str):
        sink = settings.as_object("sink", sink)
    return lambda: sink, options
