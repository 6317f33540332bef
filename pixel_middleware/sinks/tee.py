"""One event to several sinks."""

from collections.abc import Callable

from pixel_middleware import checks
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.events import Event, Sink


def tee(*sinks: Sink) -> Callable[[Event], None]:
    """A sink that hands each event to every one of `sinks`, in order.

    Any failure is a failure: the client reads 503 and may send the event again, which those sinks
    that had taken it then see twice. So put the one that fails most first. Raises `ConfigurationError`.

    New in 0.1.
    """
    if not sinks:
        raise ConfigurationError("sinks", "tee takes at least one sink; with none, every event would be lost")
    for sink in sinks:
        checks.as_sink("sinks", sink)

    def hand_to_each(event: Event) -> None:
        for sink in sinks:
            checks.done(sink(event), "a sink of tee")

    return hand_to_each
