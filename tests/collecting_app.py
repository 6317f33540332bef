"""The app that tests start under gunicorn: pixels go into an outbox, configured by the environment."""

import os

from pixel_middleware import PixelMiddleware
from pixel_middleware.destinations import from_url
from pixel_middleware.sinks import EventLog


def host(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"host"]


log = EventLog(
    os.environ["OUTBOX"],
    {"plane": from_url(os.environ["FORWARD_TO"])},
    batch_size=int(os.environ["BATCH_SIZE"]),
    retry_min_s=0.01,
    retry_max_s=0.1,
)
app = PixelMiddleware(host, log)
