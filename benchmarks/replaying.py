"""Lines a second that `replay` reads, maps and stores: an access log of pixels among other requests."""

import re
import tempfile
import time
from itertools import islice
from pathlib import Path

import workload
from measure import Result

from pixel_middleware.replay import Replay, opened
from pixel_middleware.sinks import EventLog

LINES = 100_000
GOAL = 20_000


OTHER = b'192.0.2.1 - - [10/Oct/2026:13:55:%02d +0000] "GET /shop HTTP/1.1" 200 9 "-" "Mozilla/5.0"\n'


def results():
    pixels = [_line(kind, query) for kind, query in workload.mixed(4000)]
    mixed = [line for pixel in pixels for line in (pixel, OTHER, OTHER, OTHER)]
    for name, log in (("pixels only", pixels), ("one pixel in four lines", mixed)):
        yield Result(f"replay, {name}", "the goal", _lines_a_second(log), GOAL, 1.0, "lines/s", at_least=True)


def _line(kind, query):
    # The same pixels come again, at another second, so that each line is an event of its own.
    query = re.sub("&messageId=[^&]*", "", query).replace("%", "%%")
    return (
        f'192.0.2.1 - - [10/Oct/2026:13:55:%02d +0000] "GET /pixel/v1/{kind}?{query} HTTP/1.1" 200 43 '
        f'"https://shop.example/" "{workload.AGENTS[0]}"\n'
    ).encode()


def _lines_a_second(log):
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "access.log")
        rounds = LINES // len(log)
        path.write_bytes(b"".join(line % second for second in range(rounds) for line in log))
        sink = EventLog(Path(folder, "events.db"))
        replay = Replay()
        started = time.perf_counter()
        with path.open("rb") as raw:
            events = replay.events(opened(raw))
            while batch := list(islice(events, 2000)):
                sink.put_many(batch)
        return rounds * len(log) / (time.perf_counter() - started)
