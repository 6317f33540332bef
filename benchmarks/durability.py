"""Durable events a second, and how long one put takes under load, against this disk's own fdatasync.

    python benchmarks/durability.py [--seconds 3] [--directory .]

The contenders take turns in each round, so that a slow moment of the machine is everybody's.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import sqlite3
import tempfile
import threading
import time
import uuid
from statistics import median

from pixel_middleware.events import Visit, make_event, to_json
from pixel_middleware.sinks import JSONLines, SQLite


def an_event():
    sent = {"writeKey": "k", "anonymousId": str(uuid.uuid4()), "event": "e", "properties": {"text": "x" * 700}}
    return make_event("track", sent, Visit("192.0.2.1", "Mozilla/5.0"))


EVENT = an_event()


class FdatasyncEach:
    """The physical limit of not sharing: append one event, flush, return."""

    def __init__(self, path):
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._lock = threading.Lock()

    def __call__(self, event):
        line = to_json(event).encode() + b"\n"
        with self._lock:
            os.write(self._fd, line)
            os.fdatasync(self._fd)


class CommitEach:
    """SQLite as one would write it first: a connection a thread, a commit an event."""

    def __init__(self, path):
        self._path = path
        self._local = threading.local()
        with contextlib.closing(self._connect()) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, event TEXT)")

    def _connect(self):
        connection = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def __call__(self, event):
        if not hasattr(self._local, "connection"):
            self._local.connection = self._connect()
        self._local.connection.execute("INSERT INTO events (event) VALUES (?)", (to_json(event),))


def persist_queue(path):
    import persistqueue

    queue = persistqueue.SQLiteQueue(path, auto_commit=True, multithreading=True, timeout=60)
    return lambda event: queue.put(to_json(event))


CONTENDERS = {
    "fdatasync each": FdatasyncEach,
    "SQLite commit each": CommitEach,
    "persist-queue": persist_queue,
    "our JSONLines": JSONLines,
    "our SQLite": SQLite,
}


def closed_loop(name, path, threads, seconds, start, results):
    """Each thread puts as fast as it can; reports how many were stored."""
    sink = CONTENDERS[name](path)
    counts = [0] * threads
    start.wait()
    end = time.perf_counter() + seconds

    def put(number):
        while time.perf_counter() < end:
            sink(EVENT)
            counts[number] += 1

    run_threads(threads, put)
    results.put(sum(counts))


def open_loop(name, path, threads, seconds, start, results, rate):
    """Each thread puts at random moments, `rate` a second; reports latencies from the moment it was due."""
    sink = CONTENDERS[name](path)
    latencies = []
    start.wait()

    def put(number):
        due = time.perf_counter()
        end = due + seconds
        while due < end:
            due += random.expovariate(rate)
            time.sleep(max(0.0, due - time.perf_counter()))
            sink(EVENT)
            latencies.append(time.perf_counter() - due)

    run_threads(threads, put)
    results.put(latencies)


def run_threads(count, work):
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_processes(count, work, directory, name, *arguments):
    """What `work` reports from each of `count` processes on one file."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=directory) as place:
        start, results = context.Barrier(count), context.Queue()
        threads, seconds, *rest = arguments
        parameters = (name, os.path.join(place, "events"), threads, seconds, start, results, *rest)
        processes = [context.Process(target=work, args=parameters) for _ in range(count)]
        for process in processes:
            process.start()
        reported = [results.get() for _ in processes]
        for process in processes:
            process.join()
    return reported


def throughput(directory, seconds, rounds):
    print(f"{'durable events/s':20} " + " ".join(f"{label:>14}" for label in ("1x1", "8x1", "32x1", "1x4", "8x4")))
    shapes = [(1, 1), (8, 1), (32, 1), (1, 4), (8, 4)]
    rates = {(name, shape): [] for name in CONTENDERS for shape in shapes}
    for _ in range(rounds):
        for shape in shapes:
            for name in CONTENDERS:
                stored = sum(in_processes(shape[1], closed_loop, directory, name, shape[0], seconds))
                rates[name, shape].append(stored / seconds)
    for name in CONTENDERS:
        cells = []
        for shape in shapes:
            rate, base = median(rates[name, shape]), median(rates["fdatasync each", shape])
            cells.append(f"{rate:>7.0f} {rate / base:>5.2f}x")
        print(f"{name:20} " + " ".join(cells))


def latency(directory, seconds, rate):
    print(f"\nput latency at {rate} events/s, open loop, 8 threads x 4 processes, in ms")
    for name in CONTENDERS:
        reported = in_processes(4, open_loop, directory, name, 8, seconds, rate / 32)
        latencies = sorted(1000 * one for process in reported for one in process)
        p50, p99 = (latencies[int(len(latencies) * share)] for share in (0.5, 0.99))
        print(f"{name:20} p50 {p50:8.2f}  p99 {p99:8.2f}  max {latencies[-1]:8.2f}  n {len(latencies)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--directory", default=".", help="a directory on the disk in question")
    options = parser.parse_args()
    print("threads x processes; ratio: against fdatasync each, in the same run\n")
    throughput(options.directory, options.seconds, options.rounds)
    latency(options.directory, options.seconds * 3, options.rate)
