"""The collector on its own server, 2 workers and 64 connections: what it costs to store, to send on, and to be seen.

Also the apps for granian: `collector:app`, which are told apart by `COLLECTOR`.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import peers
from measure import Result
from served import REQUESTS, requests_a_second, write_script

from pixel_middleware import PixelMiddleware
from pixel_middleware.collector import create_app
from pixel_middleware.destinations import Destination
from pixel_middleware.sinks import EventLog

HERE = Path(__file__).parent
ROUNDS = 5
CONNECTIONS = 64
SERVER = (
    *("-m", "granian", "--interface=wsgi", "--host=127.0.0.1", "--port={port}"),
    *("--workers=2", "--blocking-threads=32", "collector:app"),
)


class Free(Destination):
    """Takes everything, and does nothing."""

    def send(self, events):
        pass


def unseen():
    """A log without counts, refusals and a live view."""
    log = EventLog("events.db")
    return PixelMiddleware(peers.hello, lambda event: log(event))


APPS = {
    "nothing": lambda: PixelMiddleware(peers.hello, peers.sink),
    "unseen": unseen,
    "stored": lambda: create_app({"output": "events.db"}),
    "sent": lambda: create_app({"output": "events.db", "destinations": {"free": "collector:Free"}}),
}
if __name__ == "collector" and "COLLECTOR" in os.environ:
    app = APPS[os.environ["COLLECTOR"]]()


def results():
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed; apt-get install wrk")
    rates = {name: [] for name in APPS}
    for _ in range(ROUNDS):
        for name, taken in rates.items():
            with tempfile.TemporaryDirectory() as folder:
                environment = os.environ | {"COLLECTOR": name, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
                script = write_script(folder)
                taken.append(requests_a_second(SERVER, script, CONNECTIONS, cwd=folder, env=environment))
    rate = {name: median(taken) for name, taken in rates.items()}
    what = "collector on granian, 64 connections"
    yield Result(f"{what}: stored", "a sink that does nothing", rate["stored"], rate["nothing"], 0.55, REQUESTS, True)
    yield Result(f"{what}: stored and sent", "likewise", rate["sent"], rate["nothing"], 0.45, REQUESTS, True)
    yield Result(f"{what}: counted and shown", "stored alone", rate["stored"], rate["unseen"], 0.95, REQUESTS, True)
