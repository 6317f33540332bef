"""The WSGI face: requests below the prefix go to the endpoint, all others pass through.

>>> from pixel_middleware import PixelMiddleware
>>> events = []
>>> app = PixelMiddleware(lambda environ, start_response: [], events.append)
"""

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Literal
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from pixel_middleware import checks
from pixel_middleware.endpoint import Endpoint, start
from pixel_middleware.events import Processor, Refusal, Sink
from pixel_middleware.outcomes import Stats

if TYPE_CHECKING:
    from pixel_middleware.sinks import EventLog

WriteKeys = Collection[str] | Callable[[str], bool]
ResponseMode = Literal["auto", "text", "gif"]


class PixelMiddleware:
    """Makes `app` a pixel endpoint that hands each event to `sink`; every other request passes through.

    Args:
        app: the WSGI app to wrap.
        sink: takes one event; see `Sink`. Its `start()` is called once, if it has one.
        prefix: where the pixels are: `<prefix>/page` and `<prefix>/track`, also with `.gif`.
        response: what an accepted or refused pixel is answered with: `"text"`, `"gif"`, or
            `"auto"`, which asks the path and the request's headers whether an image is shown.
        write_keys: the write keys to accept, as a collection (copied) or a callable `(key) -> bool`;
            `None` accepts any. A write key is a public identifier, not a secret.
        require_anonymous_id: with `False`, a `userId` may stand in for the `anonymousId`.
        processors: called in order before the sink; see `Processor`.
        trusted_proxies: how many proxies of yours stand in front; see `wire.request.client_address`.
        amp: whether to answer `<prefix>/amp.json`; see `wire.amp`.
        beacons: whether a POST, as `navigator.sendBeacon(url)`, `<a ping>` and AMP's default transport send it,
            records like a GET; its body is not read. Else it is answered 405, as RudderStack's Pixel API does.
        max_query_bytes, max_params, max_depth, max_event_bytes: see `wire.query.Limits`.
        refused: gets a `Refusal` for each request that was rejected, failed or dropped, such as `log.refused` of an
            `EventLog`, which keeps the newest. Called from the thread that serves the request.

    Raises `ConfigurationError` for a wrong option. Thread-safe.

    New in 0.1.
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
        beacons: bool = False,
        max_query_bytes: int = 32768,
        max_params: int = 1000,
        max_depth: int = 32,
        max_event_bytes: int = 65536,
        refused: Callable[[Refusal], object] | None = None,
    ) -> None:
        self.app: WSGIApplication = checks.as_wsgi_app("app", app)
        self._endpoint = Endpoint(
            sink,
            prefix=prefix,
            response=response,
            write_keys=write_keys,
            require_anonymous_id=require_anonymous_id,
            processors=processors,
            trusted_proxies=trusted_proxies,
            amp=amp,
            beacons=beacons,
            max_query_bytes=max_query_bytes,
            max_params=max_params,
            max_depth=max_depth,
            max_event_bytes=max_event_bytes,
            refused=refused,
        )
        self._below = self._endpoint.below
        self.prefix = prefix
        """Where the pixels are."""
        start(sink)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI entry point."""
        path = environ.get("PATH_INFO", "")
        # `in` first: it takes half the time of startswith, and answers for nearly every request of the app.
        if self._below in path and path.startswith(self._below):
            return self._endpoint.answer(environ)(environ, start_response)
        return self.app(environ, start_response)

    def stats(self) -> Stats:
        """A snapshot of what became of the pixel requests that this process has answered."""
        return self._endpoint.stats()

    def counts(self) -> dict[tuple[str, str], int]:
        """How many requests had which outcome and reason, in this process."""
        return self._endpoint.counts()

    def keep_counts(self, log: "EventLog") -> None:
        """Keep these counts in the file of `log` too, where `log.counts()` is the sum of all processes.

        Nothing to do if `log` is the sink.
        """
        self._endpoint.keep_counts(log)
