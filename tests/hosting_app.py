"""An app that streams much both ways, wrapped; events go to the file `EVENTS`. Served by test_servers."""

import hashlib
import os

from pixel_middleware import PixelMiddleware
from pixel_middleware.sinks import JSONLines

BLOCK = bytes(range(256)) * 256
BLOCKS = 800  # 50 MiB


def download(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    for number in range(BLOCKS):
        yield number.to_bytes(4, "big") + BLOCK[4:]


def upload(environ, start_response):
    left, digest = int(environ["CONTENT_LENGTH"]), hashlib.sha256()
    while left and (block := environ["wsgi.input"].read(min(left, 65536))):
        digest.update(block)
        left -= len(block)
    body = digest.hexdigest().encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def host(environ, start_response):
    return (upload if environ["REQUEST_METHOD"] == "POST" else download)(environ, start_response)


trusted_proxies = int(os.environ.get("TRUSTED_PROXIES", "0"))
app = PixelMiddleware(host, JSONLines(os.environ["EVENTS"]), trusted_proxies=trusted_proxies)
