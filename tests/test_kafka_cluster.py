"""Through the event log into a real cluster of Apache Kafka: nothing is missing, whatever happens to the brokers."""

import json
import threading
import time

import pytest
from processes import PATIENCE_S, until

from pixel_middleware import Rejected, RetryLater
from pixel_middleware.destinations import Kafka
from pixel_middleware.destinations.base import Record
from pixel_middleware.sinks import EventLog

pytestmark = pytest.mark.real
kafka_cluster = pytest.importorskip("kafka_cluster", reason="confluent-kafka is not installed")

VISITORS = 40


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    reason = kafka_cluster.missing()
    if reason:
        pytest.skip(reason)
    cluster = kafka_cluster.Cluster(tmp_path_factory.mktemp("kafka"))
    yield cluster
    cluster.close()


@pytest.fixture
def topic(cluster, request):
    """A topic of this test's own, on brokers that are all up."""
    name = request.node.name.replace("[", "-").strip("]").replace(" ", "-")[-200:]
    cluster.create(name)
    return name


@pytest.fixture
def kafka(cluster):
    """A destination on the cluster; options of librdkafka may be given by their names, with `_` for dots."""
    made = []

    def make(topic, secure=False, dead_letters=None, **config):
        options = {name.replace("_", "."): value for name, value in config.items()}
        address = cluster.secure_address if secure else cluster.address
        made.append(Kafka(topic, {"bootstrap.servers": address} | options, dead_letters=dead_letters))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Load:
    """Events into a log, each visitor's numbered, until `stop()`; `stored` has the messageIds that were taken."""

    def __init__(self, log, make_event):
        self.stored = []
        self._log, self._make_event = log, make_event
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._put, args=(number,)) for number in range(4)]
        for thread in self._threads:
            thread.start()

    def _put(self, number):
        count = 0
        while not self._stopping.is_set():
            event = self._make_event(str(count), anonymousId=f"{number}-{count % (VISITORS // 4)}")
            self._log(event)
            self.stored.append(event["messageId"])
            count += 1
            time.sleep(0.004)

    def stop(self):
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def ids(messages):
    return [dict(message.headers())["messageId"].decode() for message in messages]


def killed_one_by_one(cluster):
    for node in kafka_cluster.NODES:
        cluster.kill(node)
        time.sleep(3)
        cluster.start(node)
        cluster.until_all_are_up()


def killed_all_together(cluster):
    cluster.kill(*kafka_cluster.NODES)
    time.sleep(5)
    for node in kafka_cluster.NODES:
        cluster.start(node)
    cluster.until_all_are_up()


def restarted_in_turn(cluster):
    for node in kafka_cluster.NODES:
        cluster.shut_down(node)
        cluster.start(node)
        cluster.until_all_are_up()


def one_paused(cluster):
    cluster.pause(2)
    time.sleep(12)
    cluster.resume(2)


def all_paused(cluster):
    cluster.pause(*kafka_cluster.NODES)
    time.sleep(8)
    cluster.resume(*kafka_cluster.NODES)


@pytest.mark.parametrize(
    "trouble",
    [killed_one_by_one, killed_all_together, restarted_in_turn, one_paused, all_paused],
    ids=lambda trouble: trouble.__name__,
)
def test_nothing_is_missing_when_brokers_are(cluster, topic, kafka, tmp_path, make_event, trouble):
    log = EventLog(tmp_path / "events.db", {"lake": kafka(topic)}, retry_min_s=0.1, retry_max_s=1)
    load = Load(log, make_event)
    time.sleep(1)
    trouble(cluster)
    time.sleep(1)
    load.stop()
    assert log.flush(PATIENCE_S), log.stats()
    stats = log.stats()["destinations"]["lake"]
    log.close()
    messages = []

    def are_all_here():
        # A broker that was away may take itself for a leader yet, and say that a partition ends where it ended then.
        messages[:] = cluster.consume(topic)
        return set(load.stored) <= set(ids(messages))

    until(are_all_here, "all that was stored")
    assert (stats["dead"], stats["given_up"], len(load.stored) > 1000) == (0, 0, True)
    assert in_order_but_for_repeats(messages)


def in_order_but_for_repeats(messages):
    """Whether each visitor's events, the first time that each is seen, come in the order of their numbers."""
    seen, newest = set(), {}
    for message in messages:
        event = json.loads(message.value())
        if event["messageId"] not in seen:
            seen.add(event["messageId"])
            if int(event["event"]) < newest.get(message.key(), -1):
                return False
            newest[message.key()] = int(event["event"])
    return True


def test_a_topic_that_is_missing_holds_nothing_else_and_is_sent_to_once_it_is_made(
    cluster, topic, kafka, tmp_path, make_event, monkeypatch
):
    monkeypatch.setattr("pixel_middleware.destinations.librdkafka.WRONG_TOPIC_RETRY_S", 0.5)
    missing = f"{topic}-later"
    log = EventLog(tmp_path / "events.db", {"lake": kafka(lambda event: event["event"])}, retry_min_s=0.1)
    put_in = {topic: [], missing: []}
    for number in range(200):
        event = make_event((topic, missing)[number % 2])
        log(event)
        put_in[event["event"]].append(event["messageId"])
    until(lambda: log.stats()["destinations"]["lake"]["sent"] == 100, "the events of the good topic")
    assert sorted(ids(cluster.consume(topic))) == sorted(put_in[topic])
    until(lambda: log.stats()["destinations"]["lake"]["held"] == 100, "those of the missing one, on hold")
    stats = log.stats()["destinations"]["lake"]
    assert "UNKNOWN_TOPIC_OR_PART" in stats["last_error"]
    cluster.create(missing)
    assert log.flush(PATIENCE_S)
    log.close()
    assert sorted(ids(cluster.consume(missing))) == sorted(put_in[missing])


def test_twenty_missing_topics_are_each_named_and_the_good_one_gets_all(cluster, topic, kafka, make_event):
    events = [make_event(f"none-{number % 20}" if number % 2 else topic) for number in range(400)]
    with pytest.raises(RetryLater, match="UNKNOWN_TOPIC_OR_PART") as caught:
        kafka(lambda event: event["event"]).send(events)
    assert (caught.value.hold, caught.value.cause) == (True, "topic_missing")
    assert caught.value.events == [event for event in events if event["event"] != topic]
    assert sorted(ids(cluster.consume(topic))) == sorted(
        event["messageId"] for event in events if event["event"] == topic
    )


def test_an_event_above_the_topics_limit_is_rejected_alone_and_nothing_arrives_twice(cluster, kafka, make_event):
    cluster.create("small", partitions=2, max_message_bytes=20_000)
    events = [make_event(str(number), properties={"text": "x" * 700}) for number in range(1000)]
    # Compression would make it fit.
    events[500] = make_event("large", properties={"text": "x" * 30_000})
    with pytest.raises(Rejected, match="MSG_SIZE_TOO_LARGE") as caught:
        kafka("small", compression_type="none").send(events)
    assert caught.value.events == [events[500]]
    arrived = ids(cluster.consume("small"))
    assert sorted(arrived) == sorted(event["messageId"] for event in events if event["event"] != "large")


def test_what_brokers_refuse_for_another_reason_is_rejected_alone(cluster, kafka, make_event):
    """They refuse the whole record batch that it is in."""
    cluster.create("recent", partitions=2, message_timestamp_before_max_ms=3_600_000)
    events = [make_event(str(number)) for number in range(300)]
    events[7]["receivedAt"] = events[8]["receivedAt"] = "2020-01-01T00:00:00.000Z"
    with pytest.raises(Rejected, match=r"INVALID_(TIMESTAMP|RECORD)") as caught:
        kafka("recent").send(events)
    assert [event["event"] for event in caught.value.events] == ["7", "8"]
    arrived = ids(cluster.consume("recent"))
    assert sorted(arrived) == sorted(event["messageId"] for event in events if event["event"] not in ("7", "8"))


def test_dead_letters_stand_on_a_topic_of_their_own(cluster, topic, kafka, tmp_path, make_event):
    cluster.create("pixels.dead", partitions=1)
    cluster.create(f"{topic}-limited", max_message_bytes=20_000)
    destination = kafka(f"{topic}-limited", dead_letters="pixels.dead", compression_type="none")
    log = EventLog(tmp_path / "events.db", {"lake": destination})
    log(make_event("fine"))
    log(make_event("large", properties={"text": "x" * 30_000}))
    assert log.flush(PATIENCE_S)
    log.close()
    (fine,) = cluster.consume(f"{topic}-limited")
    (dead,) = cluster.consume("pixels.dead")
    assert [json.loads(message.value())["event"] for message in (fine, dead)] == ["fine", "large"]
    assert b"MSG_SIZE_TOO_LARGE" in dict(dead.headers())["reason"]


SECURE = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "pixel"}


def test_tls_and_a_password_are_librdkafkas_options(cluster, topic, kafka, make_event):
    ca = str(cluster.certificate)
    kafka(topic, secure=True, sasl_password="right", ssl_ca_location=ca, **SECURE).send([make_event("e")])
    assert len(cluster.consume(topic)) == 1


@pytest.mark.parametrize(
    ("options", "cause", "said"),
    [
        ({"sasl_password": "wrong"}, "authentication", "the brokers refuse user and password: .*Invalid username"),
        ({"sasl_password": "right", "ssl_ca_location": None}, "tls", "no TLS with the brokers: .*ssl.ca.location"),
    ],
    ids=["wrong password", "unknown authority"],
)
def test_why_nothing_gets_through_can_be_read(cluster, topic, kafka, tmp_path, make_event, options, cause, said):
    options = {"ssl_ca_location": str(cluster.certificate)} | options | SECURE
    options = {name: value for name, value in options.items() if value is not None}
    destination = kafka(topic, secure=True, **options)
    record = Record.of(make_event("e"))
    with pytest.raises(RetryLater, match=said) as caught:
        destination.begin([record])()
    assert (caught.value.cause, caught.value.events, caught.value.hold) == (cause, [record], False)
    assert "wrong" not in str(caught.value)


def test_why_nothing_gets_through_stands_in_the_logs_stats(cluster, topic, kafka, tmp_path, make_event):
    destination = kafka(topic, secure=True, sasl_password="wrong", ssl_ca_location=str(cluster.certificate), **SECURE)
    log = EventLog(tmp_path / "events.db", {"lake": destination})
    log(make_event("e"))
    said = "the brokers refuse user and password"
    until(lambda: said in log.stats()["destinations"]["lake"]["last_error"], "the reason")
    stats = log.stats()["destinations"]["lake"]
    log.close()
    assert (stats["dead"], stats["sent"]) == (0, 0)


def test_partitions_are_those_of_a_java_producer(cluster, topic, kafka, make_event):
    """So that joins with what Java, Streams or ksqlDB put there hold."""
    keys = [f"visitor-{number}" for number in range(50)]
    kafka(topic).send([make_event("e", anonymousId=key) for key in keys])
    partitions = {message.key().decode(): message.partition() for message in cluster.consume(topic)}
    assert partitions == {key: murmur2_partition(key.encode(), 6) for key in keys}


def murmur2_partition(key, partitions):
    """Kafka's partition of a key, by the published algorithm: MurmurHash2 with its seed, the sign dropped."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    hash_ = (0x9747B28C ^ len(key)) & mask
    whole = len(key) // 4 * 4
    for start in range(0, whole, 4):
        k = int.from_bytes(key[start : start + 4], "little") * m & mask
        hash_ = hash_ * m & mask ^ (k ^ k >> 24) * m & mask
    if whole < len(key):
        hash_ = (hash_ ^ int.from_bytes(key[whole:], "little")) * m & mask
    hash_ = (hash_ ^ hash_ >> 13) * m & mask
    return ((hash_ ^ hash_ >> 15) & 0x7FFFFFFF) % partitions
