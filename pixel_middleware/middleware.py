"""The middleware: match a pixel request, answer it, hand its event over. All else passes through.

>>> from pixel_middleware import PixelMiddleware
>>> events = []
>>> app = PixelMiddleware(lambda environ, start_response: [], events.append)
"""

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Literal, get_args
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from webob import Request

from pixel_middleware import answers, options
from pixel_middleware.amp import amp_config
from pixel_middleware.answers import Answer
from pixel_middleware.counters import OUTCOME, Counters, Outcome, Stats
from pixel_middleware.errors import BadPixel, Reason
from pixel_middleware.events import Event, Kind, Visit, make_event
from pixel_middleware.mapping import Limits, map_query
from pixel_middleware.proxies import client_address, public_origin

Sink = Callable[[Event], object]
"""Takes one event. It returned: accepted, the client reads 200. It raised: not accepted, 503.

Called from the thread that serves the request, so from several at once on a threaded server.
"""

Processor = Callable[[Event, Request], Event | None]
"""Changes or replaces an event before the sink sees it; `None` drops it. `BadPixel` refuses it with 400."""

WriteKeys = Collection[str] | Callable[[str], bool]
ResponseMode = Literal["auto", "text", "gif"]


_log = logging.getLogger("pixel_middleware")

_DEEPEST = 200  # json.dumps and our own recursion must stay clear of Python's limit of 1,000 frames


class PixelMiddleware:
    """Makes `app` a pixel endpoint that hands each event to `sink`; every other request passes through.

    Args:
        app: the WSGI app to wrap.
        sink: takes one event; see `Sink`.
        prefix: where the pixels are: `<prefix>/page` and `<prefix>/track`, also with `.gif`.
        response: what an accepted or refused pixel is answered with: `"text"`, `"gif"`, or
            `"auto"`, which asks the path and the request's headers whether an image is shown.
        write_keys: the write keys to accept, as a collection (copied) or a callable `(key) -> bool`;
            `None` accepts any. A write key is a public identifier, not a secret.
        require_anonymous_id: with `False`, a `userId` may stand in for the `anonymousId`.
        processors: called in order before the sink; see `Processor`.
        trusted_proxies: how many proxies of yours stand in front; see `proxies.client_address`.
        amp: whether to answer `<prefix>/amp.json`; see `amp`.
        max_query_bytes, max_params, max_depth: see `mapping.Limits`.

    Raises `ConfigurationError` for a wrong option. Thread-safe.
    """

    def __init__(
        self,
        app: WSGIApplication,
        sink: Sink,
        *,
        prefix: str = "/pixel/v1",
        response: ResponseMode = "auto",
        write_keys: WriteKeys | None = None,
        require_anonymous_id: bool = True,
        processors: Iterable[Processor] = (),
        trusted_proxies: int = 0,
        amp: bool = False,
        max_query_bytes: int = Limits.max_query_bytes,
        max_params: int = Limits.max_params,
        max_depth: int = Limits.max_depth,
    ) -> None:
        self.app: WSGIApplication = options.as_callable("app", app, "a WSGI app")
        self._sink: Sink = options.as_callable("sink", sink, "a callable that takes one event")
        self._processors: list[Processor] = options.as_callables(
            "processors", processors, "a callable that takes an event and a request"
        )
        self._is_known_key = options.as_key_check(write_keys)
        self._require_anonymous_id = options.as_flag("require_anonymous_id", require_anonymous_id)
        self._trusted_proxies = options.as_number("trusted_proxies", trusted_proxies, least=0)
        self._limits = Limits(
            max_query_bytes=options.as_number("max_query_bytes", max_query_bytes, least=1),
            max_params=options.as_number("max_params", max_params, least=1),
            max_depth=options.as_number("max_depth", max_depth, least=1, most=_DEEPEST),
        )
        self._image = options.as_image_mode(response)
        prefix = options.as_prefix(prefix)
        self._prefix = prefix.encode("latin-1").decode()
        self._below = f"{prefix}/"
        self._amp_path = f"{prefix}/amp.json" if options.as_flag("amp", amp) else None
        self._pixels: dict[str, tuple[Kind, bool]] = {
            f"{prefix}/{kind}{suffix}": (kind, suffix == ".gif") for kind in get_args(Kind) for suffix in ("", ".gif")
        }
        self._not_found = answers.not_found(self._prefix)
        self._counters = Counters()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI entry point."""
        path = environ.get("PATH_INFO", "")
        # `in` first: it takes half the time of startswith, and answers for nearly every request of the app.
        if self._below in path and path.startswith(self._below):
            return self._answer(environ, path)(environ, start_response)
        return self.app(environ, start_response)

    def stats(self) -> Stats:
        """A snapshot of what became of the pixel requests that this process has answered."""
        return self._counters.snapshot()

    def _answer(self, environ: WSGIEnvironment, path: str) -> Answer:
        pixel = self._pixels.get(path)
        if pixel is None and path != self._amp_path:
            self._refuse(environ, "not_found", "there is no such pixel")
            return self._not_found
        method = environ["REQUEST_METHOD"]
        if method == "OPTIONS":
            return answers.PREFLIGHT
        if method not in ("GET", "HEAD"):
            self._refuse(environ, "method_not_allowed", "a pixel takes GET, HEAD and OPTIONS")
            return answers.METHOD_NOT_ALLOWED
        return self._amp_config(environ) if pixel is None else self._answer_pixel(environ, *pixel)

    def _amp_config(self, environ: WSGIEnvironment) -> Answer:
        origin = public_origin(environ, self._trusted_proxies)
        mounted_at = environ.get("SCRIPT_NAME", "").encode("latin-1", "replace").decode("utf-8", "replace")
        # Compared with a pattern, so that the values of urllib's own parser will do.
        source_origin = parse_qs(environ.get("QUERY_STRING", "")).get("__amp_source_origin", [""])[0]
        return answers.amp_config(amp_config(origin, mounted_at + self._prefix), source_origin)

    def _answer_pixel(self, environ: WSGIEnvironment, kind: Kind, has_gif_suffix: bool) -> Answer:
        image = self._image if self._image is not None else has_gif_suffix or answers.wants_image(environ)
        try:
            event = self._event(environ, kind)
            if environ["REQUEST_METHOD"] == "GET":
                self._record(environ, event)
        except BadPixel as error:
            if environ["REQUEST_METHOD"] == "GET":
                self._refuse(environ, error.reason, error.message)
            return answers.rejected(error, image)
        except Exception:
            _log.exception("an event was not accepted, and its pixel was answered 503")
            self._count(environ, Outcome("failed"))
            return answers.failed(image)
        return answers.accepted(image)

    def _record(self, environ: WSGIEnvironment, event: Event) -> None:
        processed = self._processed(event, Request(environ)) if self._processors else event
        if processed is None:
            self._count(environ, Outcome("dropped"))
        else:
            self._hand_over(processed)
            self._count(environ, Outcome("accepted", processed))

    def _refuse(self, environ: WSGIEnvironment, reason: Reason, message: str) -> None:
        self._counters.reject(reason)
        environ[OUTCOME] = Outcome("rejected", None, reason, message)

    def _count(self, environ: WSGIEnvironment, outcome: Outcome) -> None:
        self._counters.count(outcome.name)
        environ[OUTCOME] = outcome

    def _processed(self, event: Event | None, request: Request) -> Event | None:
        for process in self._processors:
            if event is None:
                break
            event = process(event, request)
        return event

    def _event(self, environ: WSGIEnvironment, kind: Kind) -> Event:
        query = environ.get("QUERY_STRING", "")
        sent = map_query(kind, query, self._limits, require_anonymous_id=self._require_anonymous_id)
        if not self._is_known_key(sent["writeKey"]):
            raise BadPixel("invalid_write_key", "writeKey is not known here; use the key of a source of this site")
        return make_event(kind, sent, _visit(environ, self._trusted_proxies))

    def _hand_over(self, event: Event) -> None:
        try:
            self._sink(event)
        except BadPixel as error:
            # The event was fine when it came to the sink, so whatever the sink calls bad is its own failure.
            raise RuntimeError("the sink raised BadPixel, which is for processors") from error


def _visit(environ: WSGIEnvironment, trusted_proxies: int) -> Visit:
    locale = _header(environ, "HTTP_ACCEPT_LANGUAGE").partition(",")[0].partition(";")[0].strip()
    return Visit(
        client_address(environ, trusted_proxies),
        _header(environ, "HTTP_USER_AGENT"),
        "" if locale == "*" else locale,
        _header(environ, "HTTP_REFERER"),
    )


def _header(environ: WSGIEnvironment, key: str) -> str:
    # WSGI hands over one character for each byte; the bytes are UTF-8 where they are text at all.
    value: str = environ.get(key, "")
    return value if value.isascii() else value.encode("latin-1", "replace").decode("utf-8", "replace")
