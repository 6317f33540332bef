"""Events a second from the event log into Kafka, against plain produce(); and the latency of a put meanwhile.

Three brokers of Apache Kafka where Java and Maven are, and else the small broker of the tests; on the same two cores.
"""

import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import kafka_cluster
from confluent_kafka import Producer
from durability import an_event
from measure import Result
from processes import reserved_port

from pixel_middleware.destinations import Kafka
from pixel_middleware.destinations.kafka import milliseconds
from pixel_middleware.destinations.librdkafka import DEFAULTS
from pixel_middleware.events import to_json
from pixel_middleware.sinks import EventLog

COUNT = 60_000
ROUNDS = 5
BATCH = 2000


def results():
    with brokers() as cluster:
        cluster.create("events")
        yield from throughput(cluster)
        yield from latency(cluster)


@contextmanager
def brokers():
    with tempfile.TemporaryDirectory() as folder, reserved_port() as port:
        cluster = small_broker(port) if kafka_cluster.missing() else kafka_cluster.Cluster(folder)
        try:
            yield cluster
        finally:
            cluster.close()


def small_broker(port):
    import broker

    one = broker.Broker(port)
    one.close = one.kill
    return one


def throughput(cluster):
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = f"{folder}/events.db"
        events = [an_event() for _ in range(COUNT)]
        log = EventLog(path)
        log.put_many(events)
        log.close()
        rates = {"plain": [], "drain": [], "whole": []}
        for number in range(ROUNDS):
            rates["plain"].append(plain(cluster, events))
            rates["drain"].append(drain(cluster, path))
            rates["whole"].append(whole(cluster, f"{folder}/whole{number}.db", events))
    rate = {name: median(taken) for name, taken in rates.items()}
    peer = "plain produce(), same settings, key and headers"
    yield Result("Kafka: event log to broker", peer, rate["drain"], rate["plain"], 0.4, "events/s", True)
    yield Result("Kafka: put, stored, sent, 32 threads", peer, rate["whole"], rate["plain"], None, "events/s", True)


def plain(cluster, events):
    """Of what is already encoded: nobody could be faster with this producer."""
    producer = Producer(DEFAULTS | {"bootstrap.servers": cluster.address})
    messages = [
        {
            "value": to_json(event).encode(),
            "key": event["anonymousId"].encode(),
            "timestamp": milliseconds(event["receivedAt"]),
            "headers": [
                ("content-type", b"application/json"),
                ("schemaVersion", b"1"),
                ("type", event["type"].encode()),
                ("messageId", event["messageId"].encode()),
                ("writeKey", event["writeKey"].encode()),
            ],
        }
        for event in events
    ]
    producer.produce("events", b"{}")  # connects
    producer.flush()
    started = time.perf_counter()
    for message in messages:
        producer.produce("events", **message)
        producer.poll(0)
    producer.flush()
    return COUNT / (time.perf_counter() - started)


def drain(cluster, path):
    """Events/s of sending what was stored before."""
    log = EventLog(path, {"lake": Kafka("events", {"bootstrap.servers": cluster.address})}, batch_size=BATCH)
    log.rewind("lake", since="9999")
    log(an_event())  # connects
    log.flush(60)
    started = time.perf_counter()
    count = log.rewind("lake")
    log.flush(600)
    taken = time.perf_counter() - started
    log.close()
    return count / taken


def whole(cluster, path, events):
    """Events/s from the first put to the last acknowledgement."""
    log = EventLog(path, {"lake": Kafka("events", {"bootstrap.servers": cluster.address})}, batch_size=BATCH)
    log(an_event())
    log.flush(60)
    started = time.perf_counter()
    put_all(log, events)
    log.flush(600)
    taken = time.perf_counter() - started
    log.close()
    return COUNT / taken


def put_all(sink, events, threads=32):
    def put(number):
        for event in events[number::threads]:
            sink(event)

    running = [threading.Thread(target=put, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def latency(cluster):
    """The p99 of a put at 500 a second, in seconds: into the log alone, with the brokers up, and with them hanging."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        alone = p99(EventLog(f"{folder}/alone.db"))
        log = EventLog(f"{folder}/events.db", {"lake": Kafka("events", {"bootstrap.servers": cluster.address})})
        up = p99(log)
        nodes = kafka_cluster.NODES if isinstance(cluster, kafka_cluster.Cluster) else ()
        cluster.pause(*nodes)
        down = p99(log)
        cluster.resume(*nodes)
        log.flush(600)
        log.close()
    yield Result("Kafka: p99 of a put, brokers up", "event log alone", up, alone, None, "ms")
    yield Result("Kafka: p99 of a put, brokers hanging", "brokers up", down, up, None, "ms")


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
