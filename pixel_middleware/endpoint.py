"""The whole decision: what a request below the prefix is answered, and what becomes of its event."""

import logging
from collections.abc import Callable
from typing import Any, get_args
from urllib.parse import parse_qs
from wsgiref.types import WSGIEnvironment

from webob import Request

from pixel_middleware import settings
from pixel_middleware.errors import BadPixel
from pixel_middleware.events import Event, Kind, Processor, Sink, make_event
from pixel_middleware.outcomes import Outcome, Outcomes, Stats
from pixel_middleware.wire import amp, answers
from pixel_middleware.wire.answers import Answer
from pixel_middleware.wire.mapping import map_query
from pixel_middleware.wire.query import Limits
from pixel_middleware.wire.request import public_origin, text, visit

_log = logging.getLogger("pixel_middleware")


class Endpoint:
    """Answers pixel requests, and hands their events to `sink`. Thread-safe.

    `options` are those of `settings.SETTINGS`. Raises `ConfigurationError`.
    """

    def __init__(self, sink: Sink, **options: Any) -> None:
        checked = settings.check(**options)
        self._sink: Sink = settings.as_callable("sink", sink, "a callable that takes one event")
        self._processors: list[Processor] = checked["processors"]
        self._is_known_key: Callable[[str], bool] = checked["write_keys"]
        self._require_anonymous_id: bool = checked["require_anonymous_id"]
        gives_id = any(getattr(processor, "gives_anonymous_id", False) for processor in self._processors)
        self._require_id = self._require_anonymous_id or not gives_id
        self._trusted_proxies: int = checked["trusted_proxies"]
        self._limits = Limits(
            max_query_bytes=checked["max_query_bytes"],
            max_params=checked["max_params"],
            max_depth=checked["max_depth"],
        )
        self._image: bool | None = checked["response"]
        prefix: str = checked["prefix"]
        self.below = f"{prefix}/"
        """What every path of ours begins with, in the form of a `PATH_INFO`."""
        self._prefix = prefix.encode("latin-1").decode()
        self._amp_path = f"{prefix}/amp.json" if checked["amp"] else None
        self._pixels: dict[str, tuple[Kind, bool]] = {
            f"{prefix}/{kind}{suffix}": (kind, suffix == ".gif") for kind in get_args(Kind) for suffix in ("", ".gif")
        }
        self._not_found = answers.not_found(self._prefix)
        self._outcomes = Outcomes()

    def stats(self) -> Stats:
        """What became of the pixel requests that this process has answered."""
        return self._outcomes.stats()

    def answer(self, environ: WSGIEnvironment) -> Answer:
        """The answer to a request whose path begins with `below`. The body of the request is not read."""
        record = self._outcomes.record
        path = environ["PATH_INFO"]
        pixel = self._pixels.get(path)
        if pixel is None and path != self._amp_path:
            record(environ, Outcome("rejected", None, "not_found", "there is no such pixel"))
            return self._not_found

        method = environ["REQUEST_METHOD"]
        if method == "OPTIONS":
            return answers.PREFLIGHT
        if method not in ("GET", "HEAD"):
            record(environ, Outcome("rejected", None, "method_not_allowed", "a pixel takes GET, HEAD and OPTIONS"))
            return answers.METHOD_NOT_ALLOWED
        if pixel is None:
            return self._amp_configuration(environ)

        kind, has_gif_suffix = pixel
        image = self._image if self._image is not None else has_gif_suffix or answers.wants_image(environ)
        try:
            query = environ.get("QUERY_STRING", "")
            sent = map_query(
                kind,
                query,
                self._limits,
                require_anonymous_id=self._require_anonymous_id,
                require_id=self._require_id,
            )
            if not self._is_known_key(sent["writeKey"]):
                raise BadPixel("invalid_write_key", "writeKey is not known here; use the key of a source of this site")
            if method == "HEAD":
                return answers.accepted(image)
            event: Event | None = make_event(kind, sent, visit(environ, self._trusted_proxies))
            if self._processors:
                event = self._processed(event, Request(environ))
        except BadPixel as error:
            if method == "GET":
                record(environ, Outcome("rejected", None, error.reason, error.message))
            return answers.rejected(error, image)
        except Exception:
            _log.exception("an event was not accepted, and its pixel was answered 503")
            record(environ, Outcome("failed"))
            return answers.failed(image)

        if event is None:
            record(environ, Outcome("dropped"))
            return answers.accepted(image)
        try:
            self._sink(event)
        except Exception:
            _log.exception("an event was not accepted, and its pixel was answered 503")
            record(environ, Outcome("failed"))
            return answers.failed(image)
        record(environ, Outcome("accepted", event))
        return answers.accepted(image)

    def _processed(self, event: Event | None, request: Request) -> Event | None:
        for process in self._processors:
            if event is None:
                break
            event = process(event, request)
        return event

    def _amp_configuration(self, environ: WSGIEnvironment) -> Answer:
        origin = public_origin(environ, self._trusted_proxies)
        # Compared with a pattern, so that the values of urllib's own parser will do.
        source_origin = parse_qs(environ.get("QUERY_STRING", "")).get("__amp_source_origin", [""])[0]
        path = text(environ, "SCRIPT_NAME") + self._prefix
        return answers.amp(amp.configuration(origin, path), source_origin)
