"""Events a second through the outbox into a broker, against plain produce(); and the latency of a put meanwhile.

The broker is the one of the tests: it keeps all in memory, on the same two cores.
"""

import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import broker as brokers
from confluent_kafka import Producer
from durability import an_event
from measure import Result
from processes import reserved_port

from pixel_middleware.destinations import Kafka
from pixel_middleware.destinations.kafka import DEFAULTS
from pixel_middleware.events import to_json
from pixel_middleware.sinks import Outbox, SQLite

COUNT = 20_000
ROUNDS = 3


def results():
    with reserved_port() as port:
        broker = brokers.Broker(port)
        try:
            broker.create("events")
            yield from throughput(broker)
            yield from latency(broker)
        finally:
            broker.kill()


def throughput(broker):
    rates = {"plain": [], "drain": [], "whole": []}
    for _ in range(ROUNDS):
        rates["plain"].append(plain(broker))
        drain, whole = through_the_outbox(broker)
        rates["drain"].append(drain)
        rates["whole"].append(whole)
    rate = {name: median(taken) for name, taken in rates.items()}
    peer = "plain produce(), acks=all, idempotent"
    yield Result("Kafka: outbox to broker", peer, rate["drain"], rate["plain"], None, "events/s", True)
    yield Result("Kafka: put, stored, sent, 32 threads", peer, rate["whole"], rate["plain"], None, "events/s", True)


def plain(broker):
    producer = Producer(DEFAULTS | {"bootstrap.servers": broker.address})
    values = [to_json(an_event()).encode() for _ in range(COUNT)]
    started = time.perf_counter()
    for value in values:
        producer.produce("events", value)
        producer.poll(0)
    producer.flush()
    return COUNT / (time.perf_counter() - started)


def through_the_outbox(broker):
    """(events/s of sending what was stored before, events/s from the first put to the last acknowledgement)"""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        kafka = Kafka("events", {"bootstrap.servers": broker.address})
        outbox = Outbox(f"{folder}/outbox.db", kafka, batch_size=2000)
        events = [an_event() for _ in range(COUNT)]
        outbox.start = lambda: None  # store first
        put_all(outbox, events)
        del outbox.start
        started = time.perf_counter()
        outbox.flush(600)
        drained = time.perf_counter() - started
        started = time.perf_counter()
        put_all(outbox, events)
        outbox.flush(600)
        whole = time.perf_counter() - started
        outbox.close()
    return COUNT / drained, COUNT / whole


def put_all(sink, events, threads=32):
    def put(number):
        for event in events[number::threads]:
            sink(event)

    running = [threading.Thread(target=put, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def latency(broker):
    """The p99 of a put at 500 a second, in seconds: into SQLite alone, with the broker up, and with it down."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        alone = p99(SQLite(f"{folder}/alone.db"))
        outbox = Outbox(f"{folder}/outbox.db", Kafka("events", {"bootstrap.servers": broker.address}))
        up = p99(outbox)
        broker.pause()
        down = p99(outbox)
        broker.resume()
        outbox.flush(600)
        outbox.close()
    yield Result("Kafka: p99 of a put, broker up", "SQLite alone", up, alone, None, "ms")
    yield Result("Kafka: p99 of a put, broker down", "broker up", down, up, None, "ms")


def p99(sink, seconds=4, rate=500):
    taken = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        event = an_event()
        started = time.perf_counter()
        sink(event)
        taken.append(time.perf_counter() - started)
        time.sleep(1 / rate)
    return sorted(taken)[int(len(taken) * 0.99)]
