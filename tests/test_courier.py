"""One round of a courier after the other, by hand, without a thread: what is accepted always leaves, in order."""

import itertools
import json
import sqlite3
import time
from contextlib import closing

import pytest
from processes import PATIENCE_S

from pixel_middleware import Rejected, RetryLater, StorageError
from pixel_middleware.destinations import Destination
from pixel_middleware.sinks import EventLog, courier, delivery, lanes
from pixel_middleware.sinks.courier import Courier
from pixel_middleware.sinks.pace import Pace
from pixel_middleware.sinks.positions import Positions
from pixel_middleware.sinks.retention import Retention


class Recorder(Destination):
    """Keeps what it delivered, and raises what its `trouble(events)` returns."""

    def __init__(self, trouble=lambda events: None):
        self.trouble = trouble
        self.requests = []
        self.batches = []
        self.buried = []

    def send(self, events):
        self.requests.append([event["event"] for event in events])
        error = self.trouble(events)
        if error is not None:
            raise error
        self.batches.append([event["event"] for event in events])

    def bury(self, record, reason):
        self.buried.append((record.name, reason))

    @property
    def sent(self):
        return [name for batch in self.batches for name in batch]


class ByKey(Recorder):
    def lane(self, event):
        return event["writeKey"]


class Rig:
    """A log with one destination, whose courier is worked by hand."""

    def __init__(self, path, destination, **options):
        self.path = path
        self.log = EventLog(path, max_bytes=options.pop("max_bytes", None))
        store = self.log._store
        self.positions = Positions(store, Retention(store.path, self.log._retention._max_bytes, None), "it")
        store.write(self.positions.claim)
        self.destination = destination
        self.options = {"batch_size": 500, "retry_min_s": 0.5, "retry_max_s": 30} | options
        self.restart()

    def restart(self):
        """As after a kill: memory is gone."""
        self.courier = Courier("it", self.destination, self.positions, **self.options)

    def put(self, *events):
        self.log.put_many(events)

    def rounds(self, most=50):
        """Work until nothing is left to do at once; pauses are skipped, holds stay."""
        for _ in range(most):
            self.courier._not_before = 0.0
            pause = self.courier.round()
            if pause is None or pause > courier.LINGER_S:
                break

    def end_holds(self):
        """As if an hour had passed."""
        with closing(sqlite3.connect(self.path)) as other, other:
            other.execute("UPDATE lanes SET retry_at = 0")
            other.execute("UPDATE setbacks SET retry_at = 0")
            other.execute("UPDATE destinations SET epoch = epoch + 1")
        self.courier._credit_s = 1.0

    @property
    def stats(self):
        return self.log.stats()["destinations"]["it"]

    def counts(self, *names):
        return tuple(self.stats[name] for name in names)

    def rows(self, query, *parameters):
        return self.log.read(query, *parameters)


@pytest.fixture
def make_rig(tmp_path):
    rigs = []

    def make(destination, **options):
        rigs.append(Rig(tmp_path / f"log{len(rigs)}.db", destination, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.log.close()


@pytest.fixture
def make_events(make_event):
    return lambda *names, key="k": [make_event(str(name), key) for name in names]


def failing_for(error, *names):
    """Trouble, with any request that has one of these events."""
    return lambda events: error if any(event["event"] in names for event in events) else None


# All is well


def test_batches_go_out_in_order_and_the_position_follows(make_rig, make_events):
    rig = make_rig(Recorder(), batch_size=2)
    rig.put(*make_events("a", "b", "c"))
    assert [rig.courier.round() for _ in range(3)] == [0.0, courier.LINGER_S, None]
    assert rig.destination.batches == [["a", "b"], ["c"]]
    assert rig.counts("lag", "held", "dead", "sent", "retried", "last_error") == (0, 0, 0, 3, 0, "")
    assert rig.rows("SELECT count(*) FROM events") == [(3,)]


def test_a_destination_with_a_rate_gets_its_share_and_then_nothing_for_a_while(make_rig, make_events):
    destination = Recorder()
    destination.max_per_second = 0.01
    rig = make_rig(destination)
    rig.put(*make_events("a", "b"))
    rig.rounds()
    rig.rounds()
    assert destination.batches == [["a"]]
    assert rig.counts("lag", "last_error") == (1, "")


@pytest.mark.parametrize(("rate", "batch"), [(None, 500), (10_000, 500), (2.5, 2), (0.1, 1)])
def test_a_batch_is_what_may_go_in_a_second(rate, batch):
    pace = Pace(rate)
    assert (pace.batch(500), pace.wait_s()) == (batch, 0.0)
    pace.note(1_000_000_000)
    pace.note(1_000_000_000)
    assert (pace.wait_s() > 0) == (rate is not None)


def test_what_fails_counts_for_the_rate_too(make_rig, make_events):
    """Or an outage of many logs would end with all of them at once."""
    destination = Recorder(lambda events: RetryLater("down", after=0))
    destination.max_per_second = 0.001
    rig = make_rig(destination)
    rig.put(*make_events("a", "b"))
    rig.rounds()
    assert destination.requests == [["a"]]
    assert rig.courier._requests.pace.wait_s() > 500


def test_a_restart_goes_on_where_it_was(make_rig, make_events):
    rig = make_rig(Recorder())
    rig.put(*make_events("a"))
    rig.rounds()
    rig.restart()
    rig.put(*make_events("b"))
    rig.rounds()
    assert rig.destination.sent == ["a", "b"]


def test_a_destination_gets_plain_events_and_may_slice_them(make_rig, make_event):
    seen = []

    class Slicing(Destination):
        def send(self, events):
            seen.append((len(events), list(events[1:]), events[0]))

    rig = make_rig(Slicing())
    events = [make_event(name) for name in "ab"]
    rig.put(*events)
    rig.rounds()
    assert seen == [(2, events[1:], events[0])]


# Down for a while


def test_what_a_destination_cannot_take_now_is_kept(make_rig, make_events, caplog):
    rig = make_rig(Recorder(lambda events: RetryLater("down")))
    rig.put(*make_events("a"))
    assert rig.courier.round() == 0.5
    rig.rounds(20)
    assert rig.counts("lag", "held", "dead", "sent") == (1, 0, 0, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "destination it: nothing can be delivered, and the events are kept: down"
    ]
    rig.destination.trouble = lambda events: None
    rig.rounds()
    assert (rig.destination.sent, rig.stats["lag"]) == (["a"], 0)


@pytest.mark.parametrize("error", [RetryLater("HTTP 503"), RuntimeError("HTTP 500"), SystemExit(), KeyError("x")])
def test_an_outage_of_any_kind_and_length_buries_nothing(make_rig, make_events, error):
    rig = make_rig(Recorder(lambda events: error), batch_size=10)
    rig.put(*make_events(*range(30)))
    for _ in range(40):
        rig.rounds(1)
        rig.end_holds()
    assert rig.counts("lag", "held", "dead") == (30, 0, 0)
    requests = len(rig.destination.requests)
    rig.rounds(10)
    assert len(rig.destination.requests) - requests <= 20, "at most two small requests a round while it is down"
    rig.destination.trouble = lambda events: None
    rig.rounds()
    assert sorted(rig.destination.sent, key=int) == [str(number) for number in range(30)]


def test_a_pause_grows_to_its_bound_with_jitter(make_rig, make_events):
    rig = make_rig(Recorder(lambda events: RetryLater("down")), retry_min_s=0.5, retry_max_s=4)
    rig.put(*make_events("a"))
    pauses = []
    for _ in range(20):
        rig.courier._not_before = 0.0
        pauses.append(rig.courier.round())
    assert (pauses[0], 2 < max(pauses) <= 4, min(pauses) >= 0.5, len(set(pauses)) > 3) == (0.5, True, True, True)


@pytest.mark.parametrize(
    ("after", "pause"),
    [(7, 7), (9999999999999, 10), (86400, 10), (-5, 0), (float("nan"), 0.5), ("soon", 0.5), (True, 0.5), ([], 0.5)],
)
def test_a_destination_says_itself_when_to_come_back_and_an_hour_is_the_most(make_rig, make_events, after, pause):
    rig = make_rig(Recorder(lambda events: RetryLater(after=after)))
    rig.put(*make_events("a"))
    assert rig.courier.round() == pause
    assert rig.courier._not_before - time.monotonic() <= 3600


def test_a_destination_that_is_down_is_left_alone_for_its_pause(make_rig, make_events):
    rig = make_rig(Recorder(lambda events: RetryLater("down")), retry_min_s=30)
    rig.put(*make_events("a"))
    rig.courier.round()
    rig.courier.round()
    assert rig.destination.requests == [["a"]]


def test_an_error_with_any_attribute_after_is_survived(make_rig, make_events):
    error = OSError("reset")
    error.after = "soon"
    rig = make_rig(Recorder(lambda events: error))
    rig.put(*make_events("a"))
    assert rig.courier.round() == 0.5


# Poison


def test_one_poison_event_is_found_and_buried_with_its_reason(make_rig, make_events):
    rig = make_rig(Recorder(failing_for(Rejected("HTTP 400: not like this"), "poison")))
    rig.put(*make_events("a", "b", "poison", "c", "d", "e", "f"))
    rig.rounds()
    assert rig.destination.sent == ["a", "b", "c", "d", "e", "f"]
    assert rig.rows("SELECT id, state, reason FROM setbacks") == [(3, "dead", "HTTP 400: not like this")]
    assert rig.counts("lag", "dead", "sent") == (0, 1, 6)
    assert rig.destination.buried == [("poison", "HTTP 400: not like this")]


@pytest.mark.parametrize("place", [0, 1, 250, 333, 498, 499])
def test_a_poison_event_costs_at_most_13_requests(make_rig, make_events, place):
    rig = make_rig(Recorder(failing_for(Rejected("HTTP 400"), "poison")))
    names = [str(number) for number in range(500)]
    names[place] = "poison"
    rig.put(*make_events(*names))
    rig.rounds()
    assert len(rig.destination.requests) <= 13 + 1
    assert rig.destination.sent == [name for name in names if name != "poison"]


def test_named_events_are_buried_and_the_others_count_as_delivered(make_rig, make_events):
    def trouble(events):
        poison = [event for event in events if event["event"].startswith("poison")]
        return Rejected("too large", events=poison) if poison else None

    rig = make_rig(Recorder(trouble))
    rig.put(*make_events("a", "poison 1", "b", "poison 2"))
    rig.rounds()
    assert rig.counts("lag", "sent", "dead") == (0, 2, 2)
    assert len(rig.destination.requests) == 1


def test_named_copies_that_are_equal_lose_nothing(make_rig, make_events):
    rig = make_rig(Recorder(lambda events: Rejected("no", events=[json.loads(json.dumps(events[1]))])))
    a, b, c = make_events("a", "b", "c")
    rig.put(a, b, dict(b), c)
    rig.rounds()
    assert rig.counts("lag", "sent", "dead") == (0, 2, 2)


def test_names_that_mean_nothing_are_no_names(make_rig, make_events):
    rig = make_rig(Recorder(failing_for(Rejected("no", events=[{"messageId": "?"}, 7, None]), "poison")))
    rig.put(*make_events("a", "poison", "b"))
    rig.rounds()
    assert (rig.destination.sent, rig.stats["dead"]) == (["a", "b"], 1)
    rig.destination.trouble = failing_for(Rejected("no", events=7), "poison 2")
    rig.put(*make_events("c", "poison 2", "d"))
    rig.rounds()
    assert (rig.destination.sent, rig.stats["dead"]) == (["a", "b", "c", "d"], 2)


@pytest.mark.parametrize("status", [403, 406, 415, 422, 431, 500])
def test_poison_with_any_status_does_not_stop_those_behind_it(make_rig, make_events, status):
    rig = make_rig(Recorder(failing_for(RuntimeError(f"HTTP {status}"), "poison")))
    rig.put(*make_events("poison"))
    rig.rounds(3)
    rig.put(*make_events(*range(50)))
    rig.rounds(1)
    rig.rounds()
    assert sorted(rig.destination.sent, key=int) == [str(number) for number in range(50)]
    assert rig.counts("lag", "held", "dead") == (0, 1, 0)


def test_poison_that_looks_like_an_outage_is_isolated_after_some_rounds(make_rig, make_events):
    rig = make_rig(Recorder(failing_for(RetryLater("HTTP 503"), "poison")))
    rig.put(*make_events("a", "poison", *range(50)))
    for _ in range(5):
        rig.rounds(1)
    assert rig.destination.sent == []
    rig.rounds()
    assert rig.counts("lag", "held", "dead", "sent") == (0, 1, 0, 51)


def test_an_event_that_is_named_as_failing_for_now_does_not_stop_those_behind_it(make_rig, make_events):
    down = [True]
    named = RetryLater("503 for this one")

    def trouble(events):
        named.events = [event for event in events if event["event"] == "bad"]
        return RetryLater("503") if down else named if named.events else None

    rig = make_rig(Recorder(trouble))
    rig.put(*make_events("a", "bad", "b"))
    for _ in range(5):
        rig.rounds()
    down.clear()
    rig.rounds()
    assert rig.counts("lag", "held", "dead", "sent") == (0, 1, 0, 2)


def test_an_event_that_alone_fails_8_times_beside_others_that_get_through_is_a_dead_letter(make_rig, make_events):
    rig = make_rig(Recorder(failing_for(RuntimeError("HTTP 500"), "poison")))
    rig.put(*make_events("a", "poison", "b"))
    rig.rounds()
    tries = [0]
    while rig.stats["held"] and tries[0] < 30:
        tries[0] += 1
        rig.end_holds()
        rig.rounds(1)
        rig.put(*make_events(f"good {tries[0]}"))
        rig.rounds(1)
    alone = rig.destination.requests.count(["poison"])
    assert (rig.stats["dead"], alone) == (1, 8)
    assert rig.rows("SELECT reason FROM setbacks") == [("RuntimeError: HTTP 500",)]


def test_no_try_counts_while_nothing_gets_through(make_rig, make_events):
    rig = make_rig(Recorder(failing_for(RuntimeError("HTTP 500"), "poison")))
    rig.put(*make_events("a", "poison", "b"))
    rig.rounds()
    for _ in range(30):
        rig.end_holds()
        rig.rounds(1)
    rig.put(*make_events("good"))  # the last try counts, and no other
    rig.rounds(1)
    assert rig.counts("held", "dead") == (1, 0)


def test_700_poison_events_in_a_row_do_not_stop_the_50_behind_them(make_rig, make_events):
    rig = make_rig(
        Recorder(lambda events: RuntimeError("500") if any(e["event"].startswith("bad") for e in events) else None)
    )
    rig.put(*make_events("ok"), *make_events(*(f"bad {number}" for number in range(700))), *make_events(*range(50)))
    rig.rounds()
    assert sorted(rig.destination.sent) == sorted(["ok", *map(str, range(50))])
    assert (rig.counts("lag", "held"), len(rig.destination.requests) < 1000) == ((0, 700), True)


def test_what_a_destination_cannot_even_build_is_a_setback_and_the_others_go_on(make_rig, make_events):
    rig = make_rig(Recorder(lambda events: [event["properties"]["total"] for event in events] and None))
    good = [event | {"properties": {"total": 1}} for event in make_events("a", "b", "c")]
    rig.put(good[0], *make_events("without"), *good[1:])
    rig.rounds()
    assert (rig.destination.sent, rig.counts("lag", "held")) == (["a", "b", "c"], (0, 1))


@pytest.mark.parametrize("lane", [KeyError("topic"), ["a", "list"], None, 7])
def test_a_lane_that_cannot_be_told_is_a_dead_letter(make_rig, make_events, lane):
    class Odd(Recorder):
        def lane(self, event):
            if event["event"] != "odd":
                return "x"
            if isinstance(lane, Exception):
                raise lane
            return lane

    rig = make_rig(Odd())
    rig.put(*make_events("a", "odd", "b"))
    rig.rounds()
    assert (rig.destination.sent, rig.counts("lag", "dead")) == (["a", "b"], (0, 1))


def test_a_row_that_is_no_json_stops_nothing(make_rig, make_events):
    rig = make_rig(ByKey())
    rig.put(*make_events("a", "b"))
    with closing(sqlite3.connect(rig.path)) as other, other:
        other.execute("UPDATE events SET event = 'half' WHERE id = 1")
    rig.rounds()
    assert (rig.destination.sent, rig.counts("lag", "dead")) == (["b"], (0, 1))


def test_a_note_of_a_dead_letter_that_fails_stops_nothing(make_rig, make_events):
    class Careless(Recorder):
        def bury(self, record, reason):
            raise OSError("no topic for it")

    rig = make_rig(Careless(failing_for(Rejected("no"), "poison")))
    rig.put(*make_events("poison", "a"))
    rig.rounds()
    assert (rig.destination.sent, rig.stats["dead"]) == (["a"], 1)


# Lanes


def unknown_key(events):
    return RetryLater("HTTP 401", hold=True) if any(event["writeKey"] == "bad" for event in events) else None


def test_a_bad_lane_is_held_in_its_order_and_the_others_go_on(make_rig, make_events):
    rig = make_rig(ByKey(unknown_key))
    rig.put(*make_events("1", key="bad"), *make_events("2"), *make_events("3", key="bad"))
    rig.rounds()
    rig.put(*make_events("4", key="bad"), *make_events("5"))
    rig.rounds()
    assert (rig.destination.sent, rig.counts("lag", "held", "dead")) == (["2", "5"], (0, 3, 0))
    assert rig.rows("SELECT lane, accepted, hold_s, reason FROM lanes WHERE lane = 'bad'") == [
        ("bad", 0, 60.0, "HTTP 401")
    ]
    rig.end_holds()
    rig.rounds()
    assert rig.rows("SELECT hold_s FROM lanes WHERE lane = 'bad'") == [(120.0,)]
    rig.destination.trouble = lambda events: None
    rig.end_holds()
    rig.rounds()
    assert (rig.destination.sent, rig.stats["held"]) == (["2", "5", "1", "3", "4"], 0)
    assert rig.rows("SELECT lane, accepted, hold_s FROM lanes ORDER BY lane") == [("bad", 1, 0.0), ("k", 1, 0.0)]


def test_a_restart_knows_which_lanes_were_accepted(make_rig, make_events):
    rig = make_rig(ByKey())
    rig.put(*make_events("1"))
    rig.rounds()
    assert rig.rows("SELECT lane, accepted FROM lanes") == [("k", 1)]


def test_a_hold_doubles_up_to_an_hour(make_rig, make_events):
    rig = make_rig(ByKey(unknown_key))
    rig.put(*make_events("1", key="bad"))
    holds = []
    for _ in range(9):
        rig.rounds(2)
        holds.append(rig.rows("SELECT hold_s FROM lanes")[0][0])
        rig.end_holds()
    assert holds == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0, 3600.0]


def test_a_held_lane_is_asked_with_one_event(make_rig, make_events):
    rig = make_rig(ByKey(unknown_key))
    rig.put(*make_events(*range(100), key="bad"))
    rig.rounds()
    rig.end_holds()
    rig.rounds()
    assert [len(request) for request in rig.destination.requests] == [100, 1]


def test_a_lane_that_was_accepted_before_and_fails_for_now_waits_shortly(make_rig, make_events):
    rig = make_rig(ByKey())
    rig.put(*make_events("1", key="x"), *make_events("2", key="y"))
    rig.rounds()
    rig.destination.trouble = lambda events: (
        RetryLater("HTTP 503", events=[e for e in events if e["writeKey"] == "x"])
        if any(event["writeKey"] == "x" for event in events)
        else None
    )
    rig.put(*make_events("3", key="x"), *make_events("4", key="y"))
    rig.rounds(1)
    assert rig.rows("SELECT hold_s FROM lanes WHERE lane = 'x'") == [(0.5,)]
    rig.destination.trouble = lambda events: None
    rig.end_holds()
    rig.rounds()
    assert (rig.destination.sent[:2], rig.destination.sent[-1], rig.counts("lag", "held")) == (["1", "2"], "3", (0, 0))


def test_a_sick_lane_that_the_destination_does_not_name_is_found(make_rig, make_events):
    rig = make_rig(ByKey())
    rig.put(*(event for key in "xyz" for event in make_events(key, key=key)))
    rig.rounds()
    rig.destination.trouble = failing_for(RetryLater("HTTP 503"), "bad")
    rig.put(*make_events("bad", key="x"), *make_events("1", key="y"), *make_events("2", key="z"))
    rig.rounds(1)
    assert (rig.destination.sent, rig.counts("lag", "held")) == (["x", "y", "z", "1", "2"], (0, 1))


def test_held_events_can_be_refused_for_good(make_rig, make_events):
    rig = make_rig(ByKey(unknown_key))
    rig.put(*make_events("1", "2", key="bad"))
    rig.rounds()
    rig.destination.trouble = lambda events: Rejected("never")
    rig.end_holds()
    rig.rounds()
    rig.end_holds()
    rig.rounds()
    assert rig.counts("held", "dead") == (0, 2)


def test_an_event_at_fault_in_a_held_lane_does_not_hold_it_for_ever(make_rig, make_events):
    rig = make_rig(ByKey(unknown_key))
    rig.put(*make_events("poison", "2", key="bad"), *make_events("ok"))
    rig.rounds()
    rig.destination.trouble = failing_for(RuntimeError("HTTP 500"), "poison")
    for _ in range(4):
        rig.end_holds()
        rig.rounds(2)
        rig.put(*make_events("ok"))
        rig.rounds(2)
    assert "2" in rig.destination.sent


def test_new_lanes_get_half_a_second_a_round_and_the_others_are_held_untried(make_rig, make_events):
    def slow(events):
        time.sleep(0.2)
        return RetryLater("HTTP 401", hold=True)

    rig = make_rig(ByKey(slow))
    rig.put(*(make_events("x", key=f"made up {number}")[0] for number in range(30)))
    rig.rounds(1)
    assert (len(rig.destination.requests) < 10, rig.counts("lag", "held")) == (True, (0, 30))
    assert {reason for (reason,) in rig.rows("SELECT DISTINCT reason FROM lanes")} == {
        "HTTP 401",
        "not tried yet: too many new lanes",
    }


def test_new_lanes_that_are_all_taken_share_requests(make_rig, make_event, monkeypatch):
    monkeypatch.setattr(delivery, "NEW_LANES_S", PATIENCE_S)
    rig = make_rig(ByKey())
    rig.put(*(make_event(str(number), f"key {number}") for number in range(500)))
    rig.rounds()
    assert rig.destination.sent == [str(number) for number in range(500)]
    assert len(rig.destination.batches) == 9
    assert rig.rows("SELECT count(*) FROM lanes WHERE accepted") == [(500,)]


def test_a_sick_lane_among_new_ones_is_found(make_rig, make_event):
    rig = make_rig(ByKey(failing_for(RetryLater("401", hold=True), "7")))
    rig.put(*(make_event(str(number), f"key {number}") for number in range(20)))
    rig.rounds()
    assert rig.destination.sent == [str(number) for number in range(20) if number != 7]
    assert rig.rows("SELECT lane FROM lanes WHERE hold_s > 0") == [("key 7",)]


def test_lanes_never_accepted_do_not_delay_those_that_were(make_rig, make_events):
    rig = make_rig(ByKey(lambda events: None if events[0]["writeKey"] == "k" else RetryLater("401", hold=True)))
    rig.put(*make_events("first"))
    rig.rounds()
    for number in range(20):
        rig.put(*(make_events("x", key=f"{number}.{n}")[0] for n in range(25)), *make_events(f"good {number}"))
        rig.rounds(1)
    assert rig.destination.sent == ["first", *(f"good {number}" for number in range(20))]


def test_more_lanes_than_have_a_row_each_are_still_delivered(make_rig, make_events, monkeypatch):
    monkeypatch.setattr(lanes, "MOST_LANES", 8)
    known = set()
    rig = make_rig(ByKey(lambda events: None if events[0]["writeKey"] in known else RetryLater("401", hold=True)))
    keys = [f"key {number}" for number in range(30)]
    rig.put(*(make_events(key, key=key)[0] for key in keys))
    rig.rounds()
    assert (rig.rows("SELECT count(*) FROM lanes"), rig.stats["held"]) == ([(8,)], 30)
    rig.restart()
    known.update(keys)
    for _ in range(20):
        rig.end_holds()
        rig.rounds(5)
    assert (sorted(rig.destination.sent), rig.stats["held"]) == (sorted(keys), 0)
    rig.put(*(make_events("again", key=key)[0] for key in keys))
    rig.rounds()
    assert (rig.destination.sent.count("again"), rig.rows("SELECT count(*) <= 8 FROM lanes")) == (30, [(1,)])


def test_a_clock_that_was_set_back_does_not_hold_a_lane_for_ever(make_rig, make_events, monkeypatch):
    rig = make_rig(ByKey(unknown_key))
    rig.put(*make_events("1", key="bad"))
    rig.rounds()
    with closing(sqlite3.connect(rig.path)) as other, other:
        other.execute("UPDATE lanes SET retry_at = retry_at + 10 * 365 * 86400")
    rig.restart()
    rig.rounds()
    assert rig.courier._lanes.of("bad").retry_at <= time.time() + 3600
    rig.courier._lanes.of("bad").retry_at += 86400
    rig.courier._clock += 86400  # it was a day later a moment ago
    rig.rounds()
    assert rig.courier._lanes.of("bad").retry_at <= time.time() + 3600


def test_a_hold_on_nothing_ends(make_rig, make_events):
    rig = make_rig(ByKey(unknown_key))
    rig.put(*make_events("1", key="bad"))
    rig.rounds()
    with closing(sqlite3.connect(rig.path)) as other, other:
        other.execute("DELETE FROM setbacks")
    rig.end_holds()
    rig.rounds()
    assert rig.rows("SELECT * FROM lanes") == []


# What was acknowledged


def test_what_was_acknowledged_is_not_sent_again_while_the_position_cannot_be_written(
    make_rig, make_events, caplog, monkeypatch
):
    monkeypatch.setattr("pixel_middleware.sinks.store.WAIT_S", 0.0)
    rig = make_rig(Recorder(), batch_size=10)
    rig.put(*make_events(*range(100)))
    with closing(sqlite3.connect(rig.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        rig.rounds(1)  # waits for the lock, and gives up
        other.rollback()
    assert "cannot be written, and is kept in memory" in caplog.text
    rig.rounds()
    assert rig.destination.sent == [str(number) for number in range(100)]
    assert rig.stats["lag"] == 0


def test_a_partly_delivered_batch_is_not_delivered_twice(make_rig, make_events):
    rig = make_rig(Recorder())
    rig.put(*make_events("warm"))
    rig.rounds()
    failures = [lambda events: RetryLater("reset", events=list(events[3:]))]
    rig.destination.trouble = lambda events: failures.pop()(events) if failures else None
    rig.put(*make_events("a", "b", "c", "d", "e"))
    rig.rounds()
    rig.end_holds()
    rig.rounds()
    assert (rig.destination.sent, rig.stats["sent"], rig.counts("lag", "held")) == (["warm", "d", "e"], 6, (0, 0))


def test_a_setback_that_cannot_be_written_at_first_is_written_later(make_rig, make_events, monkeypatch):
    monkeypatch.setattr("pixel_middleware.sinks.store.WAIT_S", 0.0)
    rig = make_rig(Recorder(failing_for(Rejected("no"), "1")))
    rig.put(*make_events("1", "2"))
    with closing(sqlite3.connect(rig.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        rig.rounds(1)
        other.rollback()
    rig.rounds()
    assert (rig.destination.sent, rig.counts("lag", "dead")) == (["2"], (0, 1))


@pytest.fixture
def replace_by_copy(make_events):
    """Puts a copy in the place of a log's file, with another event behind it."""

    def replace(rig, copy, event):
        copy.rename(rig.path)
        with pytest.raises(StorageError, match="was moved or deleted"):
            rig.put(*make_events("refused"))
        rig.put(*make_events(event))

    return replace


def copied(path):
    copy = path.with_name("copy.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def test_an_older_copy_of_the_file_goes_on_from_its_own_position(make_rig, make_events, replace_by_copy):
    rig = make_rig(Recorder())
    rig.put(*make_events("a"))
    rig.rounds()
    copy = copied(rig.path)
    rig.put(*make_events("b", "c"))
    rig.rounds()
    replace_by_copy(rig, copy, "d")
    rig.rounds()
    assert (rig.destination.sent, rig.stats["lag"]) == (["a", "b", "c", "d"], 0)


def test_a_position_is_not_written_into_another_file(make_rig, make_events, replace_by_copy):
    rig = make_rig(Recorder())
    rig.put(*make_events("a"))
    rig.rounds()

    def replace(events):
        rig.destination.trouble = lambda events: None
        replace_by_copy(rig, copied(rig.path), "c")

    rig.put(*make_events("b"))
    rig.destination.trouble = replace
    rig.rounds()
    assert rig.destination.sent == ["a", "b", "b", "c"]  # of the copy, nobody had had "b"


def test_a_rewind_by_another_process_is_noticed_at_once(make_rig, make_events):
    rig = make_rig(Recorder())
    rig.put(*make_events("a", "b"))
    rig.rounds()
    with closing(EventLog(rig.path)) as another:
        assert another.rewind("it") == 2
    rig.put(*make_events("c"))
    rig.rounds()
    assert rig.destination.sent == ["a", "b", "a", "b", "c"]


def test_a_position_that_somebody_else_moved_meanwhile_is_not_written_over(make_rig, make_events):
    class Rewinding(Recorder):
        def send(self, events):
            super().send(events)
            if len(self.batches) == 1:
                rig.log.rewind("it")

    rig = make_rig(Rewinding())
    rig.put(*make_events("a"))
    rig.rounds()
    rig.rounds()
    assert rig.destination.sent == ["a", "a"]


def test_a_position_that_is_not_where_it_was_is_not_written_over(make_rig, make_events):
    """As if an older copy of the file had been put in its place, and read with what stood beside the file before."""
    rig = make_rig(Recorder())
    rig.put(*make_events("a"))
    rig.rounds()

    def move_back(events):
        rig.destination.trouble = lambda events: None
        with closing(sqlite3.connect(rig.path)) as other, other:
            other.execute("UPDATE destinations SET position = 0")

    rig.put(*make_events("b"))
    rig.destination.trouble = move_back
    rig.rounds()
    assert rig.destination.sent == ["a", "b", "a", "b"]


def test_a_destination_that_was_dropped_gets_nothing_more(make_rig, make_events, caplog):
    rig = make_rig(Recorder())
    rig.put(*make_events("a"))
    rig.log.drop("it")
    assert rig.courier.round() is None
    assert (rig.destination.sent, "it was dropped" in caplog.text) == ([], True)


# Two batches in flight


class Ahead(Recorder):
    """Delivers in the background, as a producer does: `begin` returns at once."""

    def __init__(self, trouble=lambda events: None):
        super().__init__(trouble)
        self.in_flight = self.most_in_flight = 0

    def begin(self, records):
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

        def end():
            self.in_flight -= 1
            self.send([record.event for record in records])

        return end


def test_a_second_batch_begins_while_the_first_is_under_way(make_rig, make_events):
    rig = make_rig(Ahead(), batch_size=10)
    rig.put(*make_events(*range(100)))
    rig.rounds()
    assert (rig.destination.sent, rig.destination.most_in_flight) == ([str(number) for number in range(100)], 2)
    assert (rig.stats["lag"], rig.destination.in_flight) == (0, 0)


@pytest.mark.parametrize("error", [Rejected("no"), RuntimeError("HTTP 500"), RetryLater("later")])
def test_a_failure_behind_which_a_batch_is_under_way_delivers_all_the_others_once(make_rig, make_events, error):
    rig = make_rig(Ahead(failing_for(error, "35")), batch_size=10)
    rig.put(*make_events(*range(100)))
    for _ in range(7):
        rig.rounds()
    assert sorted(rig.destination.sent, key=int) == [str(number) for number in range(100) if number != 35]
    assert (rig.stats["lag"], rig.stats["held"] + rig.stats["dead"], rig.destination.in_flight) == (0, 1, 0)


def test_a_batch_that_cannot_even_begin_repeats_nothing_of_what_it_delivered(make_rig, make_events):
    class Stumbling(Ahead):
        def begin(self, records):
            if len(self.batches) >= 3 and not self.buried:
                self.buried.append("once")
                self.batches.append([record.name for record in records[:6]])
                raise RetryLater("no room", events=records[6:])
            return super().begin(records)

    rig = make_rig(Stumbling(), batch_size=10)
    rig.put(*make_events(*range(100)))
    for _ in range(10):
        rig.rounds()
    assert sorted(rig.destination.sent, key=int) == [str(number) for number in range(100)]


def test_what_is_under_way_is_finished_when_the_courier_stops(make_rig, make_events):
    rig = make_rig(Ahead(), batch_size=10)
    rig.put(*make_events(*range(40)))
    for _ in range(3):
        rig.courier.round()
    assert rig.destination.in_flight == 1
    rig.courier.finish()
    assert (rig.destination.in_flight, 40 - rig.stats["lag"]) == (0, len(rig.destination.sent))


# Bounds


def test_strangers_lanes_and_dead_letters_give_way_beyond_a_quarter(make_rig, make_event, caplog, monkeypatch):
    monkeypatch.setattr("pixel_middleware.sinks.retention._GIVE_UP_EVERY_S", 0.0)
    big = {"properties": {"text": "x" * 5000}}
    rig = make_rig(ByKey(), max_bytes=2_000_000, batch_size=20)
    rig.put(make_event("ok"), *(make_event(f"held {number}", "good", **big) for number in range(10)))
    rig.rounds()
    rig.destination.trouble = lambda events: RetryLater("404", hold=True) if events[0]["writeKey"] == "good" else None
    rig.put(*(make_event(f"theirs {number}", "good", **big) for number in range(20)))
    rig.rounds()
    rig.destination.trouble = lambda events: None if events[0]["writeKey"] == "k" else RetryLater("401", hold=True)
    for number in range(150):
        rig.put(make_event("x", f"made up {number}", **big))
        rig.rounds(2)
    rig.rounds()
    assert rig.rows("SELECT count(*) FROM setbacks WHERE lane = 'good'") == [(20,)]
    few = "SELECT sum(bytes) < 500000 FROM setbacks WHERE lane <> 'good'"
    for number in itertools.count():  # what is too much is counted now and then
        if rig.rows(few) == [(1,)]:
            break
        time.sleep(0.01)
        rig.put(make_event("x", f"made up later {number}"))
        rig.rounds(2)
    assert (rig.stats["given_up"] > 20, "were given up" in caplog.text) == (True, True)
    rig.put(make_event("still accepted", **big))


# Corners


def test_what_is_held_stays_when_room_is_needed(make_rig, make_events):
    rig = make_rig(ByKey(), max_bytes=500_000)
    rig.put(*make_events("sent", key="bad"))
    rig.rounds()
    rig.destination.trouble = failing_for(RetryLater("unknown", hold=True), "held")
    rig.put(*make_events("held", key="bad"))
    for _ in range(10):
        rig.put(*make_events(*range(100)))
        rig.rounds()
    assert rig.rows("SELECT name FROM events WHERE name IN ('sent', 'held')") == [("held",)]


def test_a_courier_that_waits_says_now_and_then_that_it_lives(make_rig, make_events):
    rig = make_rig(Recorder(lambda events: RetryLater(after=1000)))
    rig.put(*make_events("a"))
    rig.courier.round()
    rig.courier._ledger._saved_at -= 100
    with closing(sqlite3.connect(rig.path)) as other, other:
        other.execute("UPDATE destinations SET beat_at = 0")
    assert rig.courier.round() == 10
    assert time.time() - rig.rows("SELECT beat_at FROM destinations")[0][0] < 100


def test_a_rewind_while_a_held_lane_is_asked_begins_anew(make_rig, make_events):
    rig = make_rig(ByKey(unknown_key))
    rig.put(*make_events("1", key="bad"), *make_events("2"))
    rig.rounds()

    def rewind(events):
        rig.destination.trouble = lambda events: None
        rig.log.rewind("it")

    rig.destination.trouble = rewind
    rig.end_holds()
    rig.rounds()
    assert (sorted(rig.destination.sent), rig.counts("lag", "held")) == (["1", "1", "2", "2"], (0, 0))


def test_what_is_under_way_and_fails_when_the_courier_stops_is_sent_by_the_next(make_rig, make_events):
    rig = make_rig(Ahead(), batch_size=10)
    rig.put(*make_events(*range(40)))
    for _ in range(3):
        rig.courier.round()
    rig.destination.trouble = lambda events: RetryLater("stopped")
    rig.courier.finish()
    rig.destination.trouble = lambda events: None
    rig.restart()
    rig.rounds()
    assert rig.destination.sent == [str(number) for number in range(40)]


def test_a_courier_that_is_to_stop_leaves_held_lanes_for_later(make_rig, make_events):
    rig = make_rig(ByKey(lambda events: RetryLater("401", hold=True)), stopping=lambda: True)
    rig.put(*(make_events("x", key=f"key {number}")[0] for number in range(5)))
    rig.rounds()
    rig.end_holds()
    asked = len(rig.destination.requests)
    rig.courier.round()
    assert len(rig.destination.requests) == asked + 1


def test_an_outage_in_the_middle_of_what_waited_keeps_it(make_rig, make_events):
    rig = make_rig(ByKey(unknown_key))
    rig.put(*make_events(*range(20), key="bad"))
    rig.rounds()
    rig.destination.trouble = lambda events: RuntimeError("HTTP 500") if len(rig.destination.batches) else None
    rig.end_holds()
    rig.rounds(1)
    assert rig.destination.sent == ["0"]
    rig.destination.trouble = lambda events: None
    for _ in range(5):
        rig.end_holds()
        rig.rounds()
    assert (sorted(rig.destination.sent, key=int), rig.stats["held"]) == ([str(number) for number in range(20)], 0)


def test_what_left_a_held_lane_and_could_not_be_written_is_not_sent_again(make_rig, make_events, monkeypatch):
    monkeypatch.setattr("pixel_middleware.sinks.store.WAIT_S", 0.0)
    rig = make_rig(ByKey(unknown_key))
    rig.put(*make_events("1", key="bad"))
    rig.rounds()
    rig.destination.trouble = lambda events: None
    rig.end_holds()
    with closing(sqlite3.connect(rig.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        rig.rounds(1)
        rig.courier._lanes.retry_at("bad", 0.0)
        rig.rounds(1)
        other.rollback()
    rig.courier._lanes.retry_at("bad", 0.0)
    rig.rounds()
    assert (rig.destination.sent, rig.stats["held"]) == (["1"], 0)


def test_too_much_that_cannot_be_written_stops_the_courier_until_it_can(make_rig, make_events, monkeypatch):
    monkeypatch.setattr("pixel_middleware.sinks.store.WAIT_S", 0.0)
    monkeypatch.setattr("pixel_middleware.sinks.ledger._MOST_UNSAVED", 1)
    rig = make_rig(Recorder(failing_for(Rejected("no"), "1", "2")))
    rig.put(*make_events("1", "2", "3"))
    with closing(sqlite3.connect(rig.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="database is locked"):
            rig.courier.round()
        other.rollback()
    rig.rounds()
    assert (rig.destination.sent, rig.stats["dead"]) == (["3"], 2)


def test_events_of_lanes_that_are_too_many_wait_when_they_fail_for_now(make_rig, make_events, monkeypatch):
    monkeypatch.setattr(lanes, "MOST_LANES", 3)
    rig = make_rig(ByKey(lambda events: None if events[0]["writeKey"] == "k" else RetryLater("401", hold=True)))
    rig.put(*make_events("first"), *(make_events(f"{number}", key=f"key {number}")[0] for number in range(8)))
    rig.rounds()
    rig.destination.trouble = lambda events: None if events[0]["writeKey"] == "k" else RetryLater("HTTP 503")
    rig.end_holds()
    rig.rounds()
    rig.destination.trouble = lambda events: None
    for _ in range(8):
        rig.end_holds()
        rig.rounds()
    assert (sorted(rig.destination.sent[1:]), rig.stats["held"]) == ([str(number) for number in range(8)], 0)


def test_new_lanes_beyond_their_time_are_held_untried_while_others_get_through(make_rig, make_events):
    def slow(events):
        if events[0]["writeKey"] != "k":
            time.sleep(0.3)
            return RetryLater("HTTP 401", hold=True)
        return None

    rig = make_rig(ByKey(slow))
    rig.put(*make_events("first"))
    rig.rounds()
    rig.put(*make_events("good"), *(make_events("x", key=f"made up {number}")[0] for number in range(9)))
    rig.rounds(1)
    assert (rig.destination.sent, rig.counts("lag", "held")) == (["first", "good"], (0, 9))


@pytest.mark.parametrize(
    ("alone", "dead", "held"),
    [(RetryLater("401", hold=True), 0, 3), (Rejected("no"), 1, 0)],
    ids=["held", "rejected"],
)
def test_a_first_event_that_alone_gets_a_clear_answer_is_judged_by_it(make_rig, make_events, alone, dead, held):
    def trouble(events):
        if not any(event["event"] == "1" for event in events):
            return None
        return alone if len(events) == 1 else RuntimeError("unclear")

    rig = make_rig(ByKey(trouble))
    rig.put(*make_events("1", "2", "3"))
    rig.rounds()
    assert rig.counts("lag", "dead", "held") == (0, dead, held)


def test_the_newest_event_shows_nothing_if_its_own_lane_is_on_hold(make_rig, make_events):
    rig = make_rig(ByKey(unknown_key))
    rig.put(*make_events("first"), *make_events("held", key="bad"))
    rig.rounds()
    rig.destination.trouble = lambda events: unknown_key(events) or failing_for(RuntimeError("500"), "poison")(events)
    rig.put(*make_events("poison"), *make_events("1"), *make_events("held too", key="bad"))
    rig.rounds(2)
    assert (rig.destination.sent, rig.counts("held", "dead")) == (["first", "1"], (3, 0))


@pytest.mark.parametrize(
    "error", [RetryLater("later"), RetryLater("401", hold=True), Rejected("no"), RuntimeError("?")], ids=str
)
def test_what_happens_while_one_at_fault_is_searched_is_judged_too(make_rig, make_events, error):
    seen = []

    def trouble(events):
        names = [event["event"] for event in events]
        seen.append(names)
        if "poison" in names:
            return Rejected("HTTP 400")
        if "7" in names and len(seen) < 12:
            if isinstance(error, Rejected):
                rig.destination.batches.append([name for name in names if name != "7"])
                return Rejected("no", events=[event for event in events if event["event"] == "7"])
            return error
        return None

    rig = make_rig(Recorder(trouble))
    rig.put(*make_events("first"))
    rig.rounds()
    rig.put(*make_events("0", "1", "poison", *range(2, 9)))
    for _ in range(8):
        rig.end_holds()
        rig.rounds()
    others = [name for name in ["first", *map(str, range(9))] if name != "7"]
    assert (sorted(set(rig.destination.sent) - {"7"}), rig.stats["held"]) == (sorted(others), 0)


def test_an_outage_that_begins_while_one_at_fault_is_searched_is_an_outage(make_rig, make_events):
    rig = make_rig(Recorder(failing_for(RuntimeError("500"), "5")))
    rig.put(*make_events("first"))
    rig.rounds()
    rig.destination.trouble = lambda events: None if len(rig.destination.batches) < 2 else RuntimeError("500")
    failing = rig.destination.trouble
    rig.destination.trouble = lambda events: RuntimeError("500") if len(events) > 4 else failing(events)
    rig.put(*make_events(*range(20)))
    rig.rounds(1)
    rig.destination.trouble = lambda events: None
    for _ in range(4):
        rig.rounds()
        rig.end_holds()
    rig.rounds()
    assert sorted(rig.destination.sent[1:], key=int) == [str(number) for number in range(20)]
    assert rig.counts("held", "dead") == (0, 0)


def test_suspects_are_given_up_for_a_while_if_the_destination_may_be_down(make_rig, make_events):
    rig = make_rig(Recorder(failing_for(RuntimeError("500"), "1", "3", "5")))
    rig.put(*make_events(*range(8)))
    rig.rounds()
    assert rig.stats["held"] == 3
    rig.end_holds()
    before = len(rig.destination.requests)
    rig.courier.round()
    assert len(rig.destination.requests) - before <= 3


def test_a_suspect_that_is_refused_for_good_is_a_dead_letter(make_rig, make_events):
    rig = make_rig(Recorder(failing_for(RuntimeError("500"), "poison")))
    rig.put(*make_events("a", "poison", "b"))
    rig.rounds()
    rig.destination.trouble = failing_for(Rejected("never"), "poison")
    rig.end_holds()
    rig.rounds()
    assert rig.counts("held", "dead") == (0, 1)


def test_a_claim_that_another_process_made_meanwhile_is_left_as_it_is(make_rig):
    rig = make_rig(Recorder())
    before = rig.rows("SELECT * FROM destinations")
    rig.log._store.write(rig.positions.claim)
    assert rig.rows("SELECT * FROM destinations") == before


def test_the_newest_event_of_a_held_lane_or_of_none_is_no_control(make_rig, make_events):
    class Odd(ByKey):
        def lane(self, event):
            return None if event["event"] == "odd" else event["writeKey"]

    rig = make_rig(Odd(unknown_key), batch_size=2)
    rig.put(*make_events("first"), *make_events("held", key="bad"))
    rig.rounds()
    rig.destination.trouble = lambda events: unknown_key(events) or failing_for(RuntimeError("500"), "poison")(events)
    rig.put(*make_events("poison", "1", "2"), *make_events("odd"), *make_events("held too", key="bad"))
    rig.rounds()
    assert sorted(rig.destination.sent) == ["1", "2", "first"]


def test_a_suspect_that_was_delivered_and_could_not_be_written_is_not_sent_again(make_rig, make_events, monkeypatch):
    monkeypatch.setattr("pixel_middleware.sinks.store.WAIT_S", 0.0)
    rig = make_rig(Recorder(failing_for(RuntimeError("500"), "poison")))
    rig.put(*make_events("a", "poison", "b"))
    rig.rounds()
    rig.destination.trouble = lambda events: None
    rig.end_holds()
    with closing(sqlite3.connect(rig.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            rig.courier._credit_s = 1.0
            rig.rounds(1)
        other.rollback()
    rig.rounds()
    assert (sorted(rig.destination.sent), rig.stats["held"]) == (["a", "b", "poison"], 0)


def test_an_outage_that_names_nobody_costs_few_requests_however_many_lanes_there_are(make_rig, make_events):
    rig = make_rig(ByKey())
    keys = [f"key {number}" for number in range(20)]
    rig.put(*(make_events("first", key=key)[0] for key in keys))
    rig.rounds()
    rig.destination.trouble = lambda events: RetryLater("HTTP 503")
    rig.destination.requests.clear()
    rig.put(*(make_events("second", key=key)[0] for key in keys))
    rig.rounds(1)
    assert (len(rig.destination.requests), rig.counts("lag", "held")) == (5, (20, 0))


def test_lanes_that_are_too_many_are_held_together_untried(make_rig, make_events, monkeypatch):
    monkeypatch.setattr(lanes, "MOST_LANES", 3)
    monkeypatch.setattr(delivery, "NEW_LANES_S", 0.05)

    def slow(events):
        time.sleep(0.1)
        return RetryLater("401", hold=True)

    rig = make_rig(ByKey(slow))
    rig.put(*(make_events("x", key=f"key {number}")[0] for number in range(8)))
    rig.rounds(1)
    assert (rig.stats["held"], rig.rows("SELECT count(*) FROM lanes")) == (8, [(3,)])


def test_a_control_in_the_middle_of_what_waited_is_no_setback(make_rig, make_events):
    rig = make_rig(ByKey(unknown_key))
    rig.put(*make_events("ok"), *make_events(0, 1, "p1", "p2", 2, 3, key="bad"))
    rig.rounds()
    rig.put(*make_events("new"))
    rig.destination.trouble = failing_for(RuntimeError("500"), "p1", "p2")
    rig.end_holds()
    rig.rounds()
    assert (sorted(rig.destination.sent), rig.stats["held"]) == (["0", "1", "2", "3", "new", "ok"], 2)
