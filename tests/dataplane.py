"""A data plane of the tests: a real HTTP server that speaks rudder-server's `POST /v1/batch`, and can misbehave.

As a program: `python dataplane.py PORT LOG SEED` appends to LOG the messageId of each event that it stores, and whether
it answered. It answers 15 % of the requests with 429 or 5xx, and hangs up on 7.5 % of them when it has stored their
events.
"""

import base64
import gzip
import json
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class DataPlane:
    """Listens on 127.0.0.1. `answer(write_key, batch)` may return (status, headers), and nothing is stored."""

    def __init__(self, answer=lambda write_key, batch: None, port=0):
        self.answer = answer
        self.requests = []
        self.stored = []
        self.connections = 0
        plane = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                plane.connections += 1
                super().setup()

            def do_POST(self):
                plane.handle(self)

            def log_message(self, *args):
                """Quiet."""

        ThreadingHTTPServer.request_queue_size = 128
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc_info):
        self.server.shutdown()
        self.server.server_close()

    def handle(self, request):
        body = request.rfile.read(int(request.headers["Content-Length"]))
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        scheme, _, credentials = request.headers["Authorization"].partition(" ")
        write_key = base64.b64decode(credentials).decode()
        assert (scheme, request.path, write_key[-1]) == ("Basic", "/v1/batch", ":")
        assert request.headers["Content-Type"] == "application/json"
        batch = json.loads(body)["batch"]
        self.requests.append((write_key[:-1], len(body), batch))
        status, headers = self.answer(write_key[:-1], batch) or (200, {})
        if status in (200, None):
            self.store(batch, is_answered=status == 200)
        if status is None:  # stored, and the answer is lost
            request.close_connection = True
            return
        request.send_response(status)
        text = b"ok" if status == 200 else b"no such luck"
        for name, value in ({"Content-Length": str(len(text))} | headers).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(text)

    def store(self, batch, is_answered):
        self.stored += batch

    def stored_ids(self):
        return [event["messageId"] for event in self.stored]


class LoggingDataPlane(DataPlane):
    """Stores in a file, so that it can be counted after everybody died."""

    def __init__(self, answer, port, log):
        super().__init__(answer, port)
        self.log = open(log, "a", buffering=1)  # noqa: SIM115

    def store(self, batch, is_answered):
        word = "answered" if is_answered else "lost"
        self.log.write("".join(f"{event['messageId']} {word}\n" for event in batch))


def flaky(seed):
    chance = random.Random(seed)

    def answer(write_key, batch):
        roll = chance.random()
        if any(event.get("event") == "poison" for event in batch):
            return 400, {}
        if roll < 0.05:
            return 429, {"Retry-After": "0"}
        if roll < 0.15:
            return 503, {}
        return (None, {}) if roll < 0.225 else None

    return answer


if __name__ == "__main__":
    with LoggingDataPlane(flaky(int(sys.argv[3])), int(sys.argv[1]), sys.argv[2]) as plane:
        plane.thread.join()
