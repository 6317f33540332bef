"""The whole decision: what a request below the prefix is answered, and what becomes of its event."""

import inspect
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, cast, get_args
from wsgiref.types import WSGIEnvironment

from webob import Request

from pixel_middleware import checks, settings
from pixel_middleware.destinations.base import Destination
from pixel_middleware.errors import BadPixel, ConfigurationError
from pixel_middleware.events import Event, Kind, Processor, Sink, make_event, may_wait, to_json
from pixel_middleware.outcomes import Outcome, Outcomes, Stats
from pixel_middleware.wire import amp, answers
from pixel_middleware.wire.answers import Answer
from pixel_middleware.wire.mapping import map_query
from pixel_middleware.wire.query import LIMITS, Limits, split_pairs
from pixel_middleware.wire.request import public_origin, text, visit

_log = logging.getLogger("pixel_middleware")


def start(sink: Callable[[Event], object]) -> None:
    """Call the sink's `start()` if it has one, by which an event log sends what waits in it, before any event comes.

    Not if it is an `async def`, which only the app can await.
    """
    begin = getattr(sink, "start", None)
    if callable(begin) and not inspect.iscoroutinefunction(begin):
        begin()


class Taken(NamedTuple):
    """An event that a request asks the sink to take, and whether an image is the answer."""

    event: Event
    image: bool


class Endpoint:
    """Answers pixel requests, and hands their events to `sink`. Thread-safe.

    `options` are those of `settings.SETTINGS`. Raises `ConfigurationError`.
    """

    def __init__(self, sink: Sink, **options: Any) -> None:
        checked = settings.check(**options)
        if isinstance(sink, Destination):
            name = type(sink).__name__
            raise ConfigurationError("sink", f"{name} is a destination, not a sink; put it into an EventLog, as sink")
        self._sink: Sink = checks.as_sink("sink", sink)
        self._processors: list[tuple[str, Processor]] = checked["processors"]
        self._is_known_key: Callable[[str], bool] | None = checked["write_keys"]
        self._require_anonymous_id: bool = checked["require_anonymous_id"]
        gives_id = any(getattr(processor, "gives_anonymous_id", False) for _, processor in self._processors)
        self._require_id = self._require_anonymous_id or not gives_id
        self._trusted_proxies: int = checked["trusted_proxies"]
        self._expects_forwarded = self._trusted_proxies > 0
        self._limits = Limits(
            max_query_bytes=checked["max_query_bytes"],
            max_params=checked["max_params"],
            max_depth=checked["max_depth"],
            max_event_bytes=checked["max_event_bytes"],
        )
        # A byte of a query or a Referer is 12 at most in JSON (a control character, on both sides of a page event),
        # and all else is 8,192 at most: no JSON need be made of nearly all events to know that they are short enough.
        self._surely_short = (self._limits.max_event_bytes - 8192) // 12
        prefix: str = checked["prefix"]
        self.below = f"{prefix}/"
        """What every path of ours begins with, in the form of a `PATH_INFO`."""
        self._prefix = prefix.encode("latin-1").decode()
        self._amp_path = f"{prefix}/amp.json" if checked["amp"] else None
        image: bool | None = checked["response"]
        self._pixels: dict[str, tuple[Kind, bool | None]] = {}
        """By path: the kind, and whether to answer with an image; `None` where the request is to say."""
        for kind in get_args(Kind):
            self._pixels[f"{prefix}/{kind}"] = (kind, image)
            self._pixels[f"{prefix}/{kind}.gif"] = (kind, True if image is None else image)
        methods = answers.METHODS_WITH_BEACONS if checked["beacons"] else answers.METHODS
        self._methods = frozenset(methods.split(", "))
        self._preflight = answers.preflight(methods)
        self._method_not_allowed = answers.method_not_allowed(methods)
        self._not_found = answers.not_found(self._prefix)
        self._outcomes = Outcomes(checked["refused"], self._trusted_proxies)
        if callable(getattr(sink, "keep_counts", None)):
            self.keep_counts(sink)
        called = [process for _, process in self._processors]
        called += [given for given in (options.get("write_keys"), options.get("refused")) if callable(given)]
        self.may_wait = any(map(may_wait, called))
        """Whether `decide` or `settle` calls what is not marked with `never_waits`."""

    def stats(self) -> Stats:
        """What became of the pixel requests that this process has answered."""
        return self._outcomes.stats()

    def counts(self) -> dict[tuple[str, str], int]:
        """How many requests of this process had which outcome and reason."""
        return self._outcomes.counts()

    def keep_counts(self, log: Any) -> None:
        """Keep the counts in the file of an event log too; see `EventLog.keep_counts`."""
        self._outcomes.keep_in(log)

    def answer(self, environ: WSGIEnvironment) -> Answer:
        """The answer to a request whose path begins with `below`. The body of the request is not read."""
        decided = self.decide(environ)
        if isinstance(decided, Answer):
            return decided
        try:
            returned = self._sink(decided.event)
            if returned is not None:
                checks.done(returned, "the sink")
        except Exception as error:  # a BadPixel too: the request was good
            return self.settle(environ, decided, error)
        return self.settle(environ, decided, None)

    def decide(self, environ: WSGIEnvironment) -> Answer | Taken:
        """What is to be answered, or the event that the sink is to take first."""
        record = self._outcomes.record
        path = environ["PATH_INFO"]
        pixel = self._pixels.get(path)
        if pixel is None and path != self._amp_path:
            record(environ, Outcome("rejected", None, "not_found", "there is no such pixel"))
            return self._not_found

        method = environ["REQUEST_METHOD"]
        if method == "OPTIONS":
            return self._preflight
        if method not in self._methods:
            record(environ, Outcome("rejected", None, "method_not_allowed", "a pixel takes no such method"))
            return self._method_not_allowed
        if pixel is None:
            return self._amp_configuration(environ)

        kind, image = pixel
        if image is None:
            image = answers.wants_image(environ)
        try:
            query = environ.get("QUERY_STRING", "")
            sent = map_query(
                kind,
                query,
                self._limits,
                require_anonymous_id=self._require_anonymous_id,
                require_id=self._require_id,
            )
            if self._is_known_key is not None and not self._is_known_key(sent["writeKey"]):
                raise BadPixel("invalid_write_key", "writeKey is not known here; use the key of a source of this site")
            if self._expects_forwarded and "HTTP_X_FORWARDED_FOR" not in environ:
                self._expects_forwarded = False  # said once
                _log.warning(_NOT_FORWARDED, self._trusted_proxies)
            who = visit(environ, self._trusted_proxies)
            event = make_event(kind, sent, who)
            if len(query) + len(who.referer) > self._surely_short:
                most = self._limits.max_event_bytes
                if len(to_json(event).encode()) > most:
                    raise BadPixel("event_too_long", f"the event is longer than {most} bytes of JSON; send less")
            if method == "HEAD":
                return answers.accepted(image)

            if self._processors:
                environ[LIMITS] = self._limits
                request = Request(environ)
                for name, process in self._processors:
                    processed = checks.done(process(event, request), f"processor {name}")
                    if processed is None:
                        record(environ, Outcome("dropped", by=name))
                        return answers.accepted(image)
                    if not isinstance(processed, dict):
                        was = type(processed).__name__
                        raise TypeError(
                            f"processor {name} returned {was}; it must return the event, or None to drop it"
                        )
                    event = cast(Event, processed)
        except BadPixel as error:
            if method != "HEAD":
                record(environ, Outcome("rejected", None, error.reason, error.message))
            return answers.rejected(error, image)
        except Exception as error:
            return self._failed(environ, error, image)
        return Taken(event, image)

    def settle(self, environ: WSGIEnvironment, taken: Taken, error: Exception | None) -> Answer:
        """The answer once the sink has taken the event, or has raised `error`."""
        if error is not None:
            return self._failed(environ, error, taken.image)
        self._outcomes.accept(environ, taken.event)
        return answers.accepted(taken.image)

    def fail(self, environ: WSGIEnvironment, error: Exception) -> Answer:
        """The answer to a request that could not even be looked at, because of `error`."""
        _, image = self._pixels.get(environ["PATH_INFO"], (None, False))
        return self._failed(environ, error, answers.wants_image(environ) if image is None else image)

    def _failed(self, environ: WSGIEnvironment, error: Exception, image: bool) -> Answer:
        self._outcomes.record(environ, Outcome("failed", by=type(error).__qualname__), error)
        return answers.failed(image)

    def _amp_configuration(self, environ: WSGIEnvironment) -> Answer:
        try:
            pairs = dict(reversed([*split_pairs(environ.get("QUERY_STRING", ""), self._limits)]))
        except BadPixel as error:
            if error.reason != "invalid_character":  # AMP need not be told of a NUL, which is no origin
                self._outcomes.record(environ, Outcome("rejected", None, error.reason, error.message))
                return answers.rejected(error, image=False)
            pairs = {}
        origin = public_origin(environ, self._trusted_proxies)
        path = text(environ, "SCRIPT_NAME") + self._prefix
        return answers.amp(amp.configuration(origin, path), pairs.get("__amp_source_origin", ""))


_NOT_FORWARDED = (
    "trusted_proxies=%d, but a request has no X-Forwarded-For, so that its client's address is the connection's: either"
    " it did not come through the proxy, or the server takes the header out, as waitress does unless it is told"
    " clear_untrusted_proxy_headers=False"
)
