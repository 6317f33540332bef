"""The collector on its own server, 2 workers and 64 connections: what it costs to store, to send on, and to be seen.

Also the apps for granian: `collector:app`, which are told apart by `COLLECTOR`.
"""

import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from measure import Result
from served import REQUESTS, requests_a_second, write_script

from pixel_middleware.asgi import PixelMiddleware
from pixel_middleware.collector import create_app, create_asgi_app
from pixel_middleware.destinations import Destination
from pixel_middleware.sinks import EventLog

HERE = Path(__file__).parent
ROUNDS = 5
CONNECTIONS = 64
SERVER = ("-m", "granian", "--host=127.0.0.1", "--port={port}", "--workers=2", "--interface=asginl", "collector:app")
BY_WSGI = (*SERVER[:-2], "--interface=wsgi", "--blocking-threads=32", "collector:app")


class Free(Destination):
    """Takes everything, and does nothing."""

    def send(self, events):
        pass


class Nothing:
    """A sink that does nothing, at once."""

    def __call__(self, event):
        pass

    def put_soon(self, event, done):
        done(None)


class Unseen(Nothing):
    """A log without counts, refusals and a live view."""

    def __init__(self):
        self.put_soon = EventLog("events.db").put_soon


async def nobody(scope, receive, send):
    """The app around which there are pixels alone."""


APPS = {
    "nothing": lambda: PixelMiddleware(nobody, Nothing()),
    "unseen": lambda: PixelMiddleware(nobody, Unseen()),
    "stored": lambda: create_asgi_app({"output": "events.db"}),
    "sent": lambda: create_asgi_app({"output": "events.db", "destinations": {"free": "collector:Free"}}),
    "stored by WSGI": lambda: create_app({"output": "events.db"}),
}
if __name__ == "collector" and "COLLECTOR" in os.environ:
    app = APPS[os.environ["COLLECTOR"]]()
    gc.freeze()  # as the workers of serve do


def results():
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed; apt-get install wrk")
    rates = {name: [] for name in APPS}
    for _ in range(ROUNDS):
        for name, taken in rates.items():
            with tempfile.TemporaryDirectory() as folder:
                environment = os.environ | {"COLLECTOR": name, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
                script = write_script(folder)
                server = BY_WSGI if name == "stored by WSGI" else SERVER
                taken.append(requests_a_second(server, script, CONNECTIONS, cwd=folder, env=environment))
    rate = {name: median(taken) for name, taken in rates.items()}
    what = "collector on granian, 64 connections"
    yield Result(f"{what}: stored", "a sink that does nothing", rate["stored"], rate["nothing"], 0.55, REQUESTS, True)
    yield Result(f"{what}: stored and sent", "likewise", rate["sent"], rate["nothing"], 0.45, REQUESTS, True)
    yield Result(f"{what}: stored", "the same by WSGI", rate["stored"], rate["stored by WSGI"], 1.0, REQUESTS, True)
    yield Result(f"{what}: counted and shown", "stored alone", rate["stored"], rate["unseen"], 0.95, REQUESTS, True)
