"""Outbox: what was accepted is delivered at least once, or kept, or buried with a reason."""

import fcntl
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from pixel_middleware import ConfigurationError, Rejected, RetryLater, StorageError
from pixel_middleware.sinks import Outbox, tee
from pixel_middleware.sinks.backlog import Backlog
from pixel_middleware.sinks.courier import Courier
from pixel_middleware.sinks.sqlite import SQLite


class Recorder:
    """A sender that keeps what it delivered, and raises what its `trouble(events)` returns."""

    def __init__(self, trouble=lambda events: None):
        self.trouble = trouble
        self.batches = []

    def send(self, events):
        error = self.trouble(events)
        if error is not None:
            raise error
        self.batches.append([event["event"] for event in events])

    @property
    def sent(self):
        return [name for batch in self.batches for name in batch]


class ByKey(Recorder):
    def lane(self, event):
        return event["writeKey"]


class Rig:
    """A courier with its backlog, worked by hand: no thread, no waiting."""

    def __init__(self, path, sender, batch_size=500):
        self.store = SQLite(path)
        self.backlog = Backlog(self.store)
        self.sender = sender
        self.courier = Courier(self.backlog, sender, batch_size=batch_size, retry_min_s=0.5, retry_max_s=30)

    def put(self, *events):
        for event in events:
            self.store(event)

    def end_holds(self):
        self.store.transaction(lambda connection: connection.execute("UPDATE holds SET retry_at = 0"))


@pytest.fixture
def make_rig(tmp_path):
    rigs = []

    def make(sender, **options):
        rigs.append(Rig(tmp_path / "outbox.db", sender, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.store.close()


@pytest.fixture
def make_outbox(tmp_path):
    outboxes = []

    def make(sender, **options):
        options = {"retry_min_s": 0.01, "retry_max_s": 0.02} | options
        outboxes.append(Outbox(tmp_path / "outbox.db", sender, **options))
        return outboxes[-1]

    yield make
    for outbox in outboxes:
        outbox.close()


# One round of the courier


def test_batches_go_out_in_order_and_are_forgotten(make_rig, make_event):
    rig = make_rig(Recorder(), batch_size=2)
    rig.put(*(make_event(name) for name in "abc"))
    assert [rig.courier.run_once() for _ in range(3)] == [0.0, 0.0, None]
    assert (rig.sender.batches, rig.backlog.count_waiting(), rig.courier.sent) == ([["a", "b"], ["c"]], 0, 3)


def test_what_a_destination_cannot_take_now_is_kept(make_rig, make_event, caplog):
    rig = make_rig(Recorder(lambda events: RetryLater("down")))
    rig.put(make_event("a"))
    pauses = [rig.courier.run_once() for _ in range(20)]
    assert pauses[0] == 0.5
    assert all(0.5 <= pause <= 30 for pause in pauses)
    assert (rig.backlog.count_waiting(), rig.courier.retried) == (1, 20)
    assert [record.getMessage() for record in caplog.records] == [
        "outbox: nothing could be sent, and the events are kept: down"
    ]
    rig.sender.trouble = lambda events: None
    assert (rig.courier.run_once(), rig.sender.sent) == (0.0, ["a"])


def test_a_destination_says_itself_when_to_come_back(make_rig, make_event):
    rig = make_rig(Recorder(lambda events: RetryLater(after=7)))
    rig.put(make_event())
    assert rig.courier.run_once() == 7


def test_a_bug_in_a_sender_loses_nothing(make_rig, make_event, caplog):
    rig = make_rig(Recorder(lambda events: ZeroDivisionError()))
    rig.put(make_event())
    assert rig.courier.run_once() == 0.5
    assert (rig.backlog.count_waiting(), "ZeroDivisionError" in caplog.text) == (1, True)


def test_one_poison_event_is_found_and_buried_with_its_reason(make_rig, make_event):
    def trouble(events):
        return Rejected("HTTP 400: not like this") if any(event["event"] == "poison" for event in events) else None

    rig = make_rig(Recorder(trouble))
    rig.put(*(make_event(name) for name in ["a", "b", "poison", "c", "d", "e", "f"]))
    rig.courier.run_once()
    assert (rig.sender.sent, rig.backlog.count_waiting()) == (["a", "b", "c", "d", "e", "f"], 0)
    ((letter),) = rig.backlog.dead(limit=10)
    assert (letter["reason"], '"event":"poison"' in letter["event"]) == ("HTTP 400: not like this", True)
    assert (rig.backlog.count_dead(), rig.courier.buried) == (1, 1)
    rig.sender.trouble = lambda events: None
    assert rig.backlog.requeue_dead() == 1
    rig.courier.run_once()
    assert (rig.sender.sent[-1], rig.backlog.count_dead()) == ("poison", 0)


def test_a_sender_may_name_the_poison_events_itself(make_rig, make_event):
    def trouble(events):
        poison = [event for event in events if event["event"].startswith("poison")]
        return Rejected("too large", events=poison) if poison else None

    rig = make_rig(Recorder(trouble))
    rig.put(*(make_event(name) for name in ["a", "poison 1", "b", "poison 2"]))
    rig.courier.run_once()
    assert (rig.courier.sent, rig.courier.buried, rig.backlog.count_waiting()) == (2, 2, 0)
    assert [letter["reason"] for letter in rig.backlog.dead(limit=10)] == ["too large", "too large"]
    assert rig.sender.sent == []  # the others were not sent again


def test_a_bad_lane_is_set_aside_and_the_others_go_on(make_rig, make_event, caplog):
    def trouble(events):
        return RetryLater("HTTP 401", after=60, hold=True) if events[0]["writeKey"] == "bad" else None

    rig = make_rig(ByKey(trouble))
    rig.put(make_event("1", "bad"), make_event("2"), make_event("3", "bad"))
    rig.courier.run_once()
    rig.put(make_event("4", "bad"), make_event("5"))
    rig.courier.run_once()
    assert (rig.sender.sent, rig.backlog.count_waiting(), rig.backlog.holds()) == (["2", "5"], 3, {"bad": "HTTP 401"})
    assert rig.backlog.has_waiting_up_to(1)
    assert "the events of lane 'bad' are set aside: HTTP 401" in caplog.text
    rig.end_holds()
    rig.courier.run_once()
    assert (rig.sender.sent, rig.backlog.holds()) == (["2", "5"], {"bad": "HTTP 401"})
    rig.sender.trouble = lambda events: None
    rig.end_holds()
    rig.courier.run_once()
    assert (rig.sender.sent, rig.backlog.holds(), rig.backlog.count_waiting()) == (["2", "5", "1", "3", "4"], {}, 0)


def test_a_bad_lane_alone_is_set_aside_too(make_rig, make_event):
    rig = make_rig(ByKey(lambda events: RetryLater("HTTP 404", hold=True)))
    rig.put(make_event("1", "bad"))
    assert (rig.courier.run_once(), rig.courier.run_once()) == (0.0, None)
    assert (rig.backlog.count_waiting(), rig.backlog.head(10)) == (1, [])


def test_a_lane_that_fails_while_others_do_not_is_set_aside(make_rig, make_event):
    rig = make_rig(ByKey(lambda events: RetryLater("HTTP 500") if events[0]["writeKey"] == "bad" else None))
    rig.put(make_event("1", "bad"), make_event("2"))
    rig.courier.run_once()
    assert (rig.sender.sent, rig.backlog.holds()) == (["2"], {"bad": "HTTP 500"})


def test_a_destination_that_fails_for_all_lanes_is_down_and_order_is_kept(make_rig, make_event):
    rig = make_rig(ByKey(lambda events: RetryLater("HTTP 503")))
    rig.put(make_event("1", "x"), make_event("2", "y"))
    assert rig.courier.run_once() == 0.5
    assert (rig.backlog.holds(), [one.id for one in rig.backlog.head(10)]) == ({}, [1, 2])


def test_held_events_can_be_buried(make_rig, make_event):
    rig = make_rig(ByKey(lambda events: RetryLater("x", hold=True)))
    rig.put(make_event("1", "bad"))
    rig.courier.run_once()
    rig.sender.trouble = lambda events: Rejected("never")
    rig.end_holds()
    rig.courier.run_once()
    assert (rig.backlog.count_dead(), rig.backlog.count_waiting(), rig.backlog.holds()) == (1, 0, {})


def test_a_clock_that_was_set_back_does_not_hold_a_lane_for_ever(make_rig):
    rig = make_rig(ByKey())
    rig.backlog.hold("bad", 60, "x")
    assert rig.backlog.lanes_to_retry() == []
    ten_years = 10 * 365 * 86400
    rig.store.transaction(lambda it: it.execute("UPDATE holds SET retry_at = retry_at + ?", (ten_years,)))
    assert rig.backlog.lanes_to_retry() == ["bad"]


def test_a_hold_on_nothing_ends(make_rig):
    rig = make_rig(ByKey())
    rig.backlog.hold("idle", -1, "x")
    assert (rig.courier.run_once(), rig.backlog.holds(), rig.sender.batches) == (0.0, {}, [])


# The outbox


def fill(sink, make_event):
    while True:
        sink(make_event(properties={"text": "x" * 5000}))


def test_an_event_is_stored_and_then_delivered(make_outbox, make_event):
    outbox = make_outbox(Recorder())
    outbox(make_event("a"))
    assert outbox.flush(timeout_s=20)
    assert outbox._courier._sender.sent == ["a"]
    assert outbox.stats() == {"waiting": 0, "oldest_age_s": 0.0, "sent": 1, "retried": 0, "dead": 0}


def test_what_waits_is_counted_with_its_age_and_survives_a_restart(make_outbox, make_event):
    down = make_outbox(Recorder(lambda events: RetryLater()))
    down(make_event("a") | {"receivedAt": "2026-01-01T00:00:00.000Z"})
    down(make_event("b"))
    assert not down.flush(timeout_s=0.05)
    stats = down.stats()
    assert (stats["waiting"], stats["oldest_age_s"] > 86400, stats["sent"]) == (2, True, 0)
    down.close()
    up = make_outbox(Recorder())
    up.start()
    assert up.flush(timeout_s=20)
    assert up._courier._sender.sent == ["a", "b"]


def test_a_destination_that_comes_back_gets_everything_in_order(make_outbox, make_event):
    failures = iter([RetryLater(), OSError("reset"), RetryLater(after=0.01)])
    outbox = make_outbox(Recorder(lambda events: next(failures, None)))
    for number in range(20):
        outbox(make_event(str(number)))
    assert outbox.flush(timeout_s=20)
    assert outbox._courier._sender.sent == [str(number) for number in range(20)]
    assert outbox.stats()["retried"] == 3


def test_only_one_of_two_outboxes_on_one_file_delivers(make_outbox, make_event):
    one, two = make_outbox(Recorder()), make_outbox(Recorder())
    one(make_event("a"))
    assert one.flush(timeout_s=20)
    for number in range(10):
        two(make_event(str(number)))
    assert two.flush(timeout_s=20)
    assert (len(one._courier._sender.sent), two._courier._sender.sent) == (11, [])
    three = make_outbox(Recorder())
    three.start()
    three.close()
    one.close()
    two(make_event("b"))
    assert two.flush(timeout_s=20)
    assert two._courier._sender.sent == ["b"]


def test_a_full_outbox_refuses_and_takes_again_when_there_is_room(make_outbox, make_event):
    down = [True]
    outbox = make_outbox(Recorder(lambda events: RetryLater() if down else None), max_bytes=200_000)
    with pytest.raises(StorageError, match="full"):
        fill(outbox, make_event)
    down.clear()
    assert outbox.flush(timeout_s=20)
    outbox(make_event("again"))


def test_a_forked_child_stores_and_delivers_without_its_parents_lock(make_outbox, make_event, in_child, tmp_path):
    outbox = make_outbox(Recorder())
    outbox(make_event("parent"))
    assert outbox.flush(timeout_s=20)
    in_child(lambda: outbox(make_event("child")))
    assert outbox.flush(timeout_s=20)
    assert outbox._courier._sender.sent == ["parent", "child"]
    outbox.close()

    def deliver():
        outbox(make_event("alone"))
        assert outbox.flush(timeout_s=20)
        assert outbox._courier._sender.sent == ["parent", "child", "alone"]

    in_child(deliver)


def test_the_elections_lock_is_free_when_the_courier_stopped(make_outbox, make_event, tmp_path):
    outbox = make_outbox(Recorder())
    outbox(make_event())
    assert outbox.flush(timeout_s=20)
    outbox.close()
    with open(tmp_path / "outbox.db-courier") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_many_threads_start_one_courier(make_outbox, make_event, in_threads):
    outbox = make_outbox(Recorder())
    assert in_threads(16, lambda number: outbox(make_event(str(number)))) == []
    assert outbox.flush(timeout_s=20)
    assert sorted(outbox._courier._sender.sent, key=int) == [str(number) for number in range(16)]


def test_stats_can_be_read_by_anyone_with_sqlite(make_outbox, make_event, tmp_path):
    outbox = make_outbox(Recorder(lambda events: RetryLater()))
    outbox(make_event("a"))
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection:
        assert connection.execute("SELECT event ->> 'event' FROM events").fetchall() == [("a",)]


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ({"sender": print}, "sender must be an object with send(events)"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"retry_min_s": 0}, "retry_min_s must be above 0"),
        ({"retry_min_s": 31}, "at most retry_max_s, 30.0"),
        ({"max_bytes": -1}, "max_bytes must be"),
    ],
)
def test_a_wrong_option_says_what_is_accepted(tmp_path, options, accepted):
    with pytest.raises(ConfigurationError) as caught:
        Outbox(**{"path": tmp_path / "outbox.db", "sender": Recorder()} | options)
    assert accepted in str(caught.value)


ENDS_AT_ONCE = """
import sys, time
from pixel_middleware.events import Visit, make_event
from pixel_middleware.sinks import Outbox

class Slow:
    def send(self, events):
        started.append(1)
        time.sleep(0.3)
        print("delivered", len(events))

started = []
outbox = Outbox(sys.argv[1], Slow())
outbox(make_event("track", {"writeKey": "k", "anonymousId": "a", "event": "e"}, Visit()))
while not started:
    pass
"""


def test_an_exit_waits_for_the_batch_under_way(tmp_path):
    command = [sys.executable, "-c", ENDS_AT_ONCE, str(tmp_path / "outbox.db")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "delivered 1\n"


# tee


def test_tee_hands_each_event_to_every_sink(make_event):
    one, two = [], []
    event = make_event()
    tee(one.append, two.append)(event)
    assert (one, two) == ([event], [event])


def test_any_failure_of_a_tee_is_a_failure(make_event, make_client, caplog):
    def full(event):
        raise StorageError("full")

    taken = []
    make_client(tee(taken.append, full)).get("/pixel/v1/page?writeKey=k&anonymousId=a", status=503)
    assert len(taken) == 1
