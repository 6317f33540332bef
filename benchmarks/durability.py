"""Durable events a second, and how long one put takes under load, against this disk's own fdatasync.

The contenders take turns in each round, so that a slow moment of the machine is everybody's.
"""

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

from measure import Result

from pixel_middleware.events import Visit, make_event, to_json
from pixel_middleware.sinks import EventLog, JSONLines


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

    os.makedirs(path, exist_ok=True)  # its own way to do so fails when several processes start at once
    queue = persistqueue.SQLiteQueue(path, auto_commit=True, multithreading=True, timeout=60)
    return lambda event: queue.put(to_json(event))


BASE = "fdatasync each"
CONTENDERS = {
    BASE: FdatasyncEach,
    "SQLite commit each": CommitEach,
    "persist-queue": persist_queue,
    "our JSONLines": JSONLines,
    "our EventLog": EventLog,
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


SHAPES = [(1, 1), (8, 1), (32, 1), (1, 4), (8, 4)]


def throughput(directory, seconds, rounds):
    """Median stored events a second, by (contender, (threads, processes))."""
    rates = {(name, shape): [] for name in CONTENDERS for shape in SHAPES}
    for _ in range(rounds):
        for shape in SHAPES:
            for name in CONTENDERS:
                stored = sum(in_processes(shape[1], closed_loop, directory, name, shape[0], seconds))
                rates[name, shape].append(stored / seconds)
    return {which: median(taken) for which, taken in rates.items()}


def latency(directory, seconds, rate):
    """Sorted put latencies in seconds, by contender, from 8 threads x 4 processes that keep to `rate` together."""
    taken = {}
    for name in CONTENDERS:
        reported = in_processes(4, open_loop, directory, name, 8, seconds, rate / 32)
        taken[name] = sorted(one for process in reported for one in process)
    return taken


def results(directory=".", seconds=2, rounds=3, rate=2000):
    rates = throughput(directory, seconds, rounds)
    for name in CONTENDERS:
        for threads, processes in SHAPES:
            if name != BASE:
                what = f"durable events/s, {name}, {threads} threads x {processes} processes"
                is_goal = name.startswith("our") and threads == 32
                yield Result(
                    what,
                    BASE,
                    rates[name, (threads, processes)],
                    rates[BASE, (threads, processes)],
                    3.0 if is_goal else None,
                    "events/s",
                    at_least=True,
                )
    for name, taken in latency(directory, seconds * 3, rate).items():
        p99 = taken[int(len(taken) * 0.99)]
        goal = 1.0 if name.startswith("our") else None
        yield Result(f"p99 of a put at {rate:,} events/s, {name}", "10 ms", p99, 0.010, goal, "ms")
