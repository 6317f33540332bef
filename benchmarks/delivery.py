"""The event log at work: draining, putting meanwhile, a file that is full, and a flood of made-up write keys."""

import itertools
import tempfile
import threading
import time
from pathlib import Path

from durability import an_event
from measure import Result

from pixel_middleware import RetryLater
from pixel_middleware.destinations import Destination
from pixel_middleware.events import to_json
from pixel_middleware.sinks import EventLog

BACKLOG = 200_000
RATE = 2000  # puts a second while a backlog drains
SECONDS = 10
FLOODS = {3000: 1, 100_000: 500}  # made-up write keys, and how many of them come at once
ANSWER_S = 0.005  # of a data plane that does not know a key


class Nowhere(Destination):
    """Takes everything, and looks at nothing."""

    def send(self, events):
        """Delivered."""


class Reader(Destination):
    """Looks at each event."""

    def send(self, events):
        for event in events:
            event["event"]


def results():
    with tempfile.TemporaryDirectory(dir=".") as folder:
        yield from draining(Path(folder))
        yield from putting_meanwhile(Path(folder))
        yield from in_a_full_file(Path(folder))
        for keys, at_once in FLOODS.items():
            yield from flood(Path(folder), keys, at_once)


def fill(log, count):
    events = [an_event() for _ in range(1000)]
    for _ in range(count // 1000):
        log.put_many(events)


def draining(folder):
    """Events a second from the file to a destination, against what decoding their JSON would take alone."""
    texts = [to_json(an_event()) for _ in range(20_000)]
    import json

    started = time.perf_counter()
    for text in texts:
        json.loads(text)
    decoding = len(texts) / (time.perf_counter() - started)
    for name, destination in {"looks at nothing": Nowhere(), "reads each event": Reader()}.items():
        log = EventLog(folder / f"{name}.db")
        fill(log, BACKLOG)
        log.close()
        log = EventLog(folder / f"{name}.db", {"it": destination})
        log.rewind("it")
        started = time.perf_counter()
        log.flush(600)
        rate = BACKLOG / (time.perf_counter() - started)
        log.close()
        yield Result(f"drain to what {name}", "json.loads of each alone", rate, decoding, None, "events/s", True)


def putting_meanwhile(folder):
    """Puts at a fixed rate while a backlog drains, with `stats()` once a second."""
    log = EventLog(folder / "meanwhile.db", {"it": Nowhere()})
    log.put_many([an_event()])
    log.flush(60)
    fill(log, BACKLOG)
    log.rewind("it")
    asked = []
    stop = threading.Event()

    def ask():
        while not stop.wait(1.0):
            started = time.perf_counter()
            log.stats()
            asked.append(time.perf_counter() - started)

    asking = threading.Thread(target=ask)
    asking.start()
    reached, p99 = put_at(log, RATE, SECONDS)
    stop.set()
    asking.join()
    log.close()
    yield Result("puts/s while a backlog drains", f"{RATE} asked", reached, RATE, 0.99, "events/s", True)
    yield Result("p99 of a put meanwhile", "5 ms", p99, 0.005, 1.0, "ms")
    yield Result("the slowest stats() meanwhile", "5 ms", max(asked), 0.005, 1.0, "ms")


def put_at(log, rate, seconds, threads=8):
    """(puts a second that were reached, p99 of their duration), each started when it is due."""
    taken, numbers, started = [], itertools.count(), time.perf_counter()

    def put():
        while (due := started + next(numbers) / rate) < started + seconds:
            time.sleep(max(0.0, due - time.perf_counter()))
            event = an_event()
            begun = time.perf_counter()
            log(event)
            taken.append(time.perf_counter() - begun)

    running = [threading.Thread(target=put) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return len(taken) / (time.perf_counter() - started), sorted(taken)[int(len(taken) * 0.99)]


def in_a_full_file(folder):
    """The median put of one thread, in a file that trims what is delivered, against one with room."""
    medians = {}
    for name, max_bytes in {"with room": 1 << 30, "full": 8 << 20}.items():
        log = EventLog(folder / f"{name}.db", {"it": Nowhere()}, max_bytes=max_bytes)
        for _ in range(20):
            fill(log, 1000)
            log.flush(60)
        taken = []
        for _ in range(3000):
            event = an_event()
            begun = time.perf_counter()
            log(event)
            taken.append(time.perf_counter() - begun)
        medians[name] = sorted(taken)[len(taken) // 2]
        log.close()
    yield Result("a put in a full file that trims", "one with room", medians["full"], medians["with room"], 1.2, "ms")


class Plane(Destination):
    """Knows one key; says so of others after a while."""

    def __init__(self):
        self.delays = []

    def lane(self, event):
        return event["writeKey"]

    def send(self, events):
        if events[0]["writeKey"] == "good":
            self.delays += [time.time() - event["properties"]["put"] for event in events]
            return
        time.sleep(ANSWER_S)
        raise RetryLater("HTTP 401", hold=True)


def flood(folder, keys, at_once):
    """How long good events take while made-up keys pour in, and afterwards: the p99, against 2 seconds."""
    plane = Plane()
    log = EventLog(folder / f"flood-{keys}.db", {"it": plane})

    def event(key):
        return an_event() | {"writeKey": key, "properties": {"put": time.time()}}

    log(event("good"))
    log.flush(60)
    good = 1
    for number in range(0, keys, at_once):
        log.put_many([event(f"made up {number + one}") for one in range(at_once)])
        if number % max(30, at_once) == 0:
            log(event("good"))
            good += 1
            time.sleep(0.1 if at_once > 1 else 0)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        log(event("good"))
        good += 1
        time.sleep(0.1)
    while len(plane.delays) < good:
        time.sleep(0.1)
    log.close()
    p99 = sorted(plane.delays)[int(len(plane.delays) * 0.99)]
    yield Result(f"p99 of a delivery beside {keys:,} made-up keys", "2 s", p99 * 1000, 2000, 1.0, "ms, absolute")
