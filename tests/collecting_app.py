"""The app that tests start under servers: pixels go into an event log, configured by the environment.

Its path `/stats` answers the log's stats.
"""

import json
import os

import coverage_lock  # noqa: F401, before anything that forks

from pixel_middleware import PixelMiddleware
from pixel_middleware.destinations import named
from pixel_middleware.events import Visit, make_event
from pixel_middleware.sinks import EventLog

log = EventLog(
    os.environ["LOG"],
    named(os.environ["FORWARD_TO"].split()),
    batch_size=int(os.environ.get("BATCH_SIZE", "500")),
    retry_min_s=0.01,
    retry_max_s=0.1,
)


def host(environ, start_response):
    is_stats = environ["PATH_INFO"] == "/stats"
    body = json.dumps(log.stats() | {"process": os.getpid()}).encode() if is_stats else b"host"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


app = PixelMiddleware(host, log)
match os.environ.get("USE_BEFORE_FORK"):  # what a module may do when a server imports it
    case "an event":
        sent = {"writeKey": "k", "anonymousId": "a", "event": "e", "messageId": "before"}
        log(make_event("track", sent, Visit()))
    case "start":
        log.start()
