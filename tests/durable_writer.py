"""A program that stores events as a busy site does, for `test_power_cut`: python durable_writer.py KIND FOLDER.

It prints `accepted ID` when the sink has taken an event, and `delivered ID` when the destination has got it.
"""

import os
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

from pixel_middleware.destinations import Destination
from pixel_middleware.events import Visit, make_event
from pixel_middleware.sinks import EventLog, JSONLines

KINDS = ("JSONLines", "EventLog", "EventLog with a destination")
THREADS = 4
MAX_BYTES = 3_000_000  # of the log with a destination: it has to trim


class Plane(Destination):
    """Hands the messageIds of what it gets to `got`."""

    def __init__(self, got):
        self._got = got

    def send(self, events):
        self._got([event["messageId"] for event in events])


def open_sink(kind, folder, got, **forwarding):
    """The sink under test, on a file in `folder`; `got(ids)` is told of what a destination gets."""
    match kind:
        case "JSONLines":
            return JSONLines(folder / "events.jsonl")
        case "EventLog":
            return EventLog(folder / "events.db")
        case "EventLog with a destination":
            return EventLog(folder / "events.db", {"plane": Plane(got)}, **forwarding)


def new_event(length=0):
    # Letters of two bytes, so that a torn line may end inside one.
    sent = {"writeKey": "k", "anonymousId": "a", "event": "é" * 200, "properties": {"text": "x" * length}}
    return make_event("track", sent, Visit("192.0.2.1", "tests"))


def say(word, ids):
    os.write(1, "".join(f"{word} {id}\n" for id in ids).encode())


def write(kind, folder):
    def deliver(ids):
        time.sleep(0.005)  # as on a network, so that others store events while these are under way
        say("delivered", ids)

    sink = open_sink(kind, folder, deliver, batch_size=10, max_bytes=MAX_BYTES)

    def put(count, length=0):
        for number in range(count):
            event = new_event(length + number)
            sink(event)
            say("accepted", [event["messageId"]])

    def put_many(count, length):
        events = [new_event(length + number) for number in range(count)]
        sink.put_many(events)
        say("accepted", [event["messageId"] for event in events])

    def in_threads(meanwhile):
        threads = [threading.Thread(target=put, args=(20, 1000 * number)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        meanwhile()
        for thread in threads:
            thread.join()

    def rotate(number):
        (folder / "events.jsonl").rename(folder / f"events.jsonl.{number}")

    def checkpoint():
        """As another connection may at any time: the next commit then writes over the WAL from its start."""
        with closing(sqlite3.connect(folder / "events.db", timeout=60)) as connection:
            connection.execute("PRAGMA wal_checkpoint").fetchall()

    for number in range(1, 4):
        in_threads(lambda: rotate(number) if kind == "JSONLines" else checkpoint())  # noqa: B023, it is called at once
        put_many(10, 500)
        if number == 2:
            sink.close()
    if kind != "JSONLines":
        for _ in range(2):  # more than the 1,000 pages after which SQLite makes a checkpoint of its own
            if kind == "EventLog with a destination":
                sink.flush(timeout_s=60)  # so that there is something to trim
            put_many(20, 110_000)
            put(2)
    sink.close()


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
