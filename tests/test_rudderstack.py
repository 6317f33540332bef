"""RudderStack: the conversation with a data plane, over real HTTP."""

import builtins
import json
import socket
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from dataplane import DataPlane
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE_S, until

from pixel_middleware import ConfigurationError, Rejected, RetryLater
from pixel_middleware import events as events_module
from pixel_middleware.destinations import RudderStack, http
from pixel_middleware.destinations.base import Record
from pixel_middleware.destinations.rudderstack import as_sent, moved_on
from pixel_middleware.sinks import EventLog
from pixel_middleware.wire.printable import is_blank

NOW = datetime(2026, 2, 3, 10, 0, tzinfo=UTC)


@pytest.fixture
def plane():
    with DataPlane() as plane:
        yield plane


def names(events):
    return [event["event"] for event in events]


def test_an_event_arrives_as_it_was_but_for_its_write_key_its_sent_at_and_its_request_ip(plane, make_event):
    event = make_event("Signup", "kéy", properties={"text": "日本"})
    RudderStack(plane.url + "/").send([event])
    ((write_key, _, (arrived,)),) = plane.requests
    assert write_key == "kéy"
    assert {**arrived, "sentAt": event["sentAt"], "writeKey": "kéy", "request_ip": "192.0.2.1"} == event
    assert (arrived["request_ip"], arrived["context"]["ip"]) == ("", "192.0.2.1")


FIRST_DELIVERY = """
import sys
from pixel_middleware.destinations import RudderStack
from pixel_middleware.events import Visit, make_event

destination = RudderStack(sys.argv[1])
event = make_event("track", {"writeKey": "k", "anonymousId": "a", "event": "e"}, Visit())
before = set(sys.modules)
destination.send([event])
print(*sorted(sys.modules.keys() - before))
"""


def test_a_first_delivery_imports_nothing_that_another_thread_may_be_importing(plane, run):
    done = run([sys.executable, "-c", FIRST_DELIVERY, plane.url])
    assert (done.returncode, done.stdout.split(), len(plane.requests)) == (0, [], 1)


def test_each_write_key_has_a_request_of_its_own(plane, make_event):
    events = [make_event("1", "x"), make_event("2", "y"), make_event("3", "x")]
    sender = RudderStack(plane.url, gzip=False)
    sender.send(events)
    assert [(key, [event["event"] for event in batch]) for key, _, batch in plane.requests] == [
        ("x", ["1", "3"]),
        ("y", ["2"]),
    ]
    assert [sender.lane(event) for event in events] == ["x", "y", "x"]


def test_a_request_has_at_most_500_kB_unless_one_event_is_larger(plane, make_event):
    texts = [100_000] * 12 + [600_000] + [100]
    RudderStack(plane.url).send([make_event(properties={"text": "x" * size}) for size in texts])
    sizes = [size for _, size, _ in plane.requests]
    assert [len(batch) for _, _, batch in plane.requests] == [4, 4, 4, 1, 1]
    assert [size <= 500_000 for size in sizes] == [True, True, True, False, True]


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_a_passing_failure_is_to_be_retried(plane, make_event, status):
    plane.answer = lambda write_key, batch: (status, {})
    with pytest.raises(RetryLater, match=f"HTTP {status}: no such luck") as caught:
        RudderStack(plane.url).send([make_event()])
    assert (caught.value.after, caught.value.hold, caught.value.unclear) == (None, False, False)


@pytest.mark.parametrize("status", [400, 413])
def test_what_will_never_be_taken_is_rejected(plane, make_event, status):
    plane.answer = lambda write_key, batch: (status, {})
    with pytest.raises(Rejected, match=f"HTTP {status}: no such luck"):
        RudderStack(plane.url).send([make_event()])


@pytest.mark.parametrize("status", [401, 404])
def test_an_unknown_key_sets_its_events_aside(plane, make_event, status):
    plane.answer = lambda write_key, batch: (status, {})
    with pytest.raises(RetryLater) as caught:
        RudderStack(plane.url).send([make_event()])
    assert (caught.value.after, caught.value.hold, caught.value.cause) == (None, True, f"http_{status}")


@pytest.mark.parametrize("status", [302, 403, 406, 500])
def test_what_any_other_answer_means_is_for_the_log_to_find_out(plane, make_event, status):
    plane.answer = lambda write_key, batch: (status, {"Location": "http://127.0.0.1:1/"})
    with pytest.raises(RetryLater) as caught:
        RudderStack(plane.url).send([make_event()])
    assert (caught.value.hold, caught.value.unclear, caught.value.cause) == (False, True, f"http_{status}")


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [("7", 7), ("soon", None), ("Mon, 23 Nov 2026 10:00:00", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0)],
)
def test_retry_after_is_honoured(plane, make_event, retry_after, seconds):
    plane.answer = lambda write_key, batch: (429, {"Retry-After": retry_after})
    with pytest.raises(RetryLater) as caught:
        RudderStack(plane.url).send([make_event()])
    assert caught.value.after == seconds


def test_retry_after_may_be_a_date(plane, make_event):
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    plane.answer = lambda write_key, batch: (503, {"Retry-After": later})
    with pytest.raises(RetryLater) as caught:
        RudderStack(plane.url).send([make_event()])
    assert 3500 < caught.value.after <= 3600


def test_nobody_there_and_a_silent_server_are_to_be_retried(make_event, free_port):
    with pytest.raises(RetryLater, match="NewConnectionError") as caught:
        RudderStack(f"http://127.0.0.1:{free_port}").send([make_event()])
    assert caught.value.cause == "connect"
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(RetryLater, match="ReadTimeoutError") as caught,
    ):
        RudderStack(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05).send([make_event()])
    assert caught.value.cause == "timeout"


def test_a_name_that_does_not_resolve_and_a_peer_without_tls_are_told_apart(plane, make_event):
    for url, cause in [("http://no.such.host.invalid", "resolve"), (plane.url.replace("http", "https"), "tls")]:
        with pytest.raises(RetryLater) as caught:
            RudderStack(url, timeout_s=20).send([make_event()])
        assert caught.value.cause == cause


class Dripping:
    """A server that answers one byte after the other, without end: in its headers, or in its body."""

    def __init__(self, beginning):
        self.beginning = beginning
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.drip)

    def drip(self):
        connection, _ = self.listener.accept()
        connection.sendall(self.beginning)
        while not self.stopping.wait(0.02):
            try:
                connection.sendall(b"x")
            except OSError:
                break
        connection.close()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc_info):
        self.stopping.set()
        self.thread.join()
        self.listener.close()


@pytest.mark.parametrize(
    "beginning",
    [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"],
    ids=["headers", "body"],
)
def test_an_answer_that_drips_for_ever_is_a_timeout(make_event, beginning):
    with Dripping(beginning) as server, pytest.raises(RetryLater, match="ReadTimeoutError"):
        RudderStack(server.url, timeout_s=0.3).send([make_event()])


def test_a_request_that_nobody_reads_is_a_timeout(make_event):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        destination = RudderStack(f"http://127.0.0.1:{deaf.getsockname()[1]}", gzip=False, timeout_s=0.3)
        with pytest.raises(RetryLater, match="no answer"):
            destination.send([make_event(properties={"text": "x" * 20_000_000})])


def test_a_time_that_is_over_before_a_read_begins_is_a_timeout(plane):
    deadline = http._Deadline(0.0)
    with socket.socket() as one, pytest.raises(TimeoutError, match="the time for this request is over"):
        deadline.limit(one)


def test_requests_share_a_connection_until_it_is_closed(plane, make_event):
    destination = RudderStack(plane.url)
    for name in ("1", "2", "3"):
        destination.send([make_event(name)])
    assert plane.connections == 1
    destination.close()
    destination.send([make_event("4")])
    assert (plane.connections, names(plane.stored)) == (2, ["1", "2", "3", "4"])
    destination.close()
    destination.close()


def test_the_time_in_the_log_does_not_skew_rudderstacks_clock(plane, make_event):
    """rudder-server takes its own now - (sentAt - originalTimestamp) as the event's time."""
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    by_a_slow_clock = make_event(
        sentAt="2020-01-01T00:00:05.000Z", originalTimestamp="2020-01-01T00:00:03.000Z"
    ) | {"receivedAt": hour_ago}  # fmt: skip
    RudderStack(plane.url).send([by_a_slow_clock])
    (arrived,) = plane.stored
    offset = datetime.fromisoformat(arrived["sentAt"]) - datetime.fromisoformat("2020-01-01T01:00:05.000Z")
    assert abs(offset) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("sent_at", "moved"),
    [
        ("2026-02-03T09:46:42.500Z", "2026-02-03T09:46:52.500Z"),
        ("2026-02-03T11:46:42+02:00", "2026-02-03T09:46:52.000Z"),
        ("2026-02-03T09:46:42", "2026-02-03T09:46:52.000Z"),
        ("2026-02-03 09:46:42", "2026-02-03T09:46:52.000Z"),
        (" 2026-02-03T09:46:42Z ", "2026-02-03T09:46:52.000Z"),
        ("Tue, 03 Feb 2026 09:46:42 GMT", "2026-02-03T09:46:52.000Z"),
        ("3 Feb 2026 10:46:42 +0100", "2026-02-03T09:46:52.000Z"),
        ("1770112030", "2026-02-03T09:47:20.000Z"),
        ("1770112030000", "2026-02-03T09:47:20.000Z"),  # fromisoformat() reads the year 1770 in it
        ("1770112012345", "2026-02-03T09:47:02.345Z"),
        ("1770112030000000", "2026-02-03T09:47:20.000Z"),
        ("1770112030000000000", "2026-02-03T09:47:20.000Z"),
        (NOW.isoformat(), "2026-02-03T10:00:10.000Z"),
    ],
)
def test_a_sent_at_moves_on_by_the_time_that_the_event_waited(sent_at, moved):
    assert moved_on(sent_at, "2026-02-03T09:59:50.000Z", NOW) == moved


@pytest.mark.parametrize(
    "sent_at",
    [
        *("yesterday", "", "Feb 3, 2026 09:46:42", "20260203T094642", "17701120300", "2026-02-31T00:00:00Z", None),
        *("9999-12-31T23:59:59.999Z", "31 Feb 2026 10:46:42 +0100", "١٧٧٠١١٢٠٣٠", "0" * 19 + "1"),
    ],
)
def test_a_sent_at_that_is_no_moment_is_left_out(sent_at):
    assert moved_on(sent_at, "2026-02-03T09:59:50.000Z", NOW) is None


def test_an_event_with_a_sent_at_that_is_no_moment_arrives_without(plane, make_event):
    RudderStack(plane.url).send([make_event(sentAt="yesterday")])
    assert "sentAt" not in plane.stored[0]


TEXT = st.text(st.characters(codec="utf-8"), max_size=9) | st.sampled_from(
    ['","sentAt":"', '\\","writeKey":"k', "sentAt", "k", '"}', "\\", "\n", "2026-01-01T00:00:00Z"]
)
TREES = st.recursive(TEXT, lambda deeper: st.dictionaries(TEXT, deeper, max_size=3) | st.lists(deeper, max_size=2))
NAMES = st.sampled_from(["sentAt", "userId", "custom", "writeKey", "receivedAt", "request_ip"]) | TEXT


@given(TEXT, st.dictionaries(NAMES, TREES, max_size=4), st.dictionaries(NAMES, TREES, max_size=4), st.sets(NAMES))
def test_an_event_is_sent_as_it_was_but_for_three_fields(write_key, properties, further, removed):
    """Whatever is in it: names that are also those of other fields, quotes, backslashes, and what a processor did."""
    sent = further | {"writeKey": write_key, "anonymousId": "a", "event": "e", "properties": properties}
    event = events_module.make_event("track", sent, events_module.Visit("192.0.2.1", "tests"))
    for name in removed - {"writeKey", "receivedAt", "type", "messageId"}:  # which the log has columns of
        event.pop(name, None)
    expected = {name: value for name, value in event.items() if name not in ("writeKey", "sentAt")}
    moved = moved_on(event.get("sentAt"), event["receivedAt"], NOW)
    expected |= {"request_ip": ""} | ({} if moved is None else {"sentAt": moved})
    assert json.loads(as_sent(Record.of(event), NOW)) == expected


def test_each_visitor_keeps_an_address_of_its_own_in_the_context(plane, make_event):
    """rudder-server writes the `request_ip` of a request's last event over all others."""
    visits = [events_module.Visit(f"192.0.2.{number}") for number in range(40)]
    sent = {"writeKey": "k", "anonymousId": "a", "event": "e"}
    RudderStack(plane.url).send([events_module.make_event("track", dict(sent), visit) for visit in visits])
    assert {event["request_ip"] for event in plane.stored} == {""}
    assert [event["context"]["ip"] for event in plane.stored] == [visit.address for visit in visits]


INVISIBLE = (
    "\u200b\ufeff\u00ad\u2060\u3164\u2800\u200e\x01\x7f\ue000\u0378\u034f\u115f\u1160\u17b4\u17b5\uffa0\u3000\u00a0 \t"
)


@pytest.mark.parametrize("letter", INVISIBLE, ids=lambda letter: f"U+{ord(letter):04X}")
def test_an_id_that_nobody_can_see_is_blank(letter):
    assert is_blank(letter * 2)
    assert not is_blank(f"{letter}a")


def test_events_with_blank_ids_are_rejected_by_name_and_never_sent(plane, make_event):
    events = [
        make_event("1"),
        make_event("blank", anonymousId="\u200b"),
        make_event("2", anonymousId="\u200b", userId="someone"),
        make_event("both", anonymousId="", userId="\u2060 "),
        make_event("3"),
    ]
    with pytest.raises(Rejected, match="anonymousId and userId are blank to rudder-server") as caught:
        RudderStack(plane.url).send(events)
    assert caught.value.events == [events[1], events[3]]
    assert names(plane.stored) == ["1", "2", "3"]
    assert len(plane.requests) == 1


def poisonous(write_key, batch):
    return (400, {}) if any(event["event"].startswith("poison") for event in batch) else None


@pytest.mark.parametrize("size", [1, 2, 3, 500, 1000])
def test_one_poison_event_costs_13_requests_at_most_and_nothing_arrives_twice(plane, make_event, size):
    plane.answer = poisonous
    events = [make_event(str(number)) for number in range(size)]
    destination = RudderStack(plane.url)
    for place in {0, size // 3, size // 2, size - 1}:
        plane.requests.clear()
        plane.stored.clear()
        batch = [*events[:place], make_event("poison"), *events[place + 1 :]]
        with pytest.raises(Rejected, match="HTTP 400: no such luck") as caught:
            destination.send(batch)
        assert names(caught.value.events) == ["poison"]
        assert names(plane.stored) == names([*batch[:place], *batch[place + 1 :]])
        assert len(plane.requests) <= 13


def test_several_poison_events_in_several_bodies_are_named_and_nothing_arrives_twice(plane, make_event):
    plane.answer = poisonous
    poison = {7, 8, 300, 1999, 1500}
    events = [make_event(f"poison {n}" if n in poison else str(n), f"k{n % 2}") for n in range(2000)]
    with pytest.raises(Rejected) as caught:
        RudderStack(plane.url).send(events)
    assert sorted(names(caught.value.events)) == sorted(f"poison {number}" for number in poison)
    assert sorted(names(plane.stored)) == sorted(str(number) for number in range(2000) if number not in poison)
    assert len(plane.requests) <= 13 * len(poison)


def test_what_one_request_delivered_is_delivered_when_the_next_finds_the_plane_down(plane, make_event):
    plane.answer = lambda write_key, batch: None if len(plane.requests) <= 2 else (503, {"Retry-After": "3"})
    large = {"properties": {"text": "x" * 300_000}}
    events = [make_event("1", "a", **large), make_event("2", "b"), make_event("3", "a", **large), make_event("4", "a")]
    events.append(make_event("blank", "b", anonymousId="\u200b"))
    with pytest.raises(RetryLater, match="HTTP 503") as caught:
        RudderStack(plane.url).send(events)
    assert (names(plane.stored), names(caught.value.events)) == (["1", "3", "4"], ["2", "blank"])
    assert (caught.value.hold, caught.value.after, caught.value.cause) == (False, 3, "http_503")


def test_an_unknown_key_holds_its_own_events_and_the_others_arrive(plane, make_event):
    plane.answer = lambda write_key, batch: (401, {}) if write_key == "unknown" else None
    events = [make_event("1", "unknown"), make_event("2", "a"), make_event("3", "unknown"), make_event("4", "b")]
    with pytest.raises(RetryLater, match="HTTP 401") as caught:
        RudderStack(plane.url).send(events)
    assert (names(caught.value.events), names(plane.stored)) == (["1", "3"], ["2", "4"])
    assert (caught.value.hold, caught.value.after, caught.value.cause) == (True, None, "http_401")


def test_a_poison_event_beside_an_unknown_key_is_named_and_each_is_judged_soon(plane, make_event):
    plane.answer = lambda write_key, batch: (401, {}) if write_key == "unknown" else poisonous(write_key, batch)
    events = [make_event("1", "unknown"), make_event("2", "a"), make_event("poison", "a"), make_event("4", "a")]
    with pytest.raises(RetryLater, match="HTTP 401") as caught:
        RudderStack(plane.url).send(events)
    assert (names(caught.value.events), names(plane.stored)) == (["1", "poison"], ["2", "4"])
    assert (caught.value.hold, caught.value.after) == (True, 1.0)


def test_a_forked_child_makes_connections_of_its_own(plane, make_event, in_child):
    sender = RudderStack(plane.url)
    sender.send([make_event("parent")])
    in_child(lambda: sender.send([make_event("child")]))
    sender.send([make_event("parent again")])
    assert [event["event"] for event in plane.stored] == ["parent", "child", "parent again"]
    assert plane.connections == 2  # one each


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ({"data_plane_url": "hosted.rudderlabs.com"}, "a URL like https://hosted.rudderlabs.com"),
        ({"data_plane_url": None}, "a URL like"),
        ({"timeout_s": 0}, "a positive number of seconds"),
        ({"timeout_s": True}, "a positive number of seconds"),
        ({"timeout_s": float("nan")}, "a positive number of seconds"),
    ],
)
def test_a_wrong_option_says_what_is_accepted(options, accepted):
    with pytest.raises(ConfigurationError, match=accepted):
        RudderStack(**{"data_plane_url": "http://127.0.0.1"} | options)


def test_a_missing_extra_is_named(monkeypatch):
    real_import = builtins.__import__

    def without_urllib3(name, *args):
        if name == "urllib3":
            raise ModuleNotFoundError("No module named 'urllib3'", name=name)
        return real_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_urllib3)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pixel-middleware\[rudderstack\]'"):
        RudderStack("http://127.0.0.1")
    assert http.MAX_BODY_BYTES == 500_000


def test_it_names_its_address_without_secrets():
    assert str(RudderStack("https://user:hunter2@plane.example/?key=hunter2")) == "https://plane.example/"


@pytest.mark.parametrize("status", [400, 403, 406, 413, 415, 422, 431, 500])
def test_an_event_that_something_before_the_data_plane_refuses_does_not_stop_those_behind_it(
    tmp_path, make_event, status
):
    def firewall(write_key, batch):
        return (status, {}) if any(event["event"] == "<script>" for event in batch) else None

    with DataPlane(firewall) as plane, closing(EventLog(tmp_path / "e.db", {"it": RudderStack(plane.url)})) as log:
        log(make_event("first"))
        log.put_many(make_event(name) for name in ["<script>", *map(str, range(50))])
        until(lambda: len(plane.stored) >= 51, "all good events")
        assert sorted(event["event"] for event in plane.stored) == sorted(["first", *map(str, range(50))])


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_an_outage_with_any_status_buries_nothing(tmp_path, make_event, status):
    answers = {"status": status}
    with DataPlane(lambda key, batch: (answers["status"], {}) if answers["status"] else None) as plane:
        destinations = {"it": RudderStack(plane.url)}
        with closing(EventLog(tmp_path / "e.db", destinations, retry_min_s=0.001, retry_max_s=0.002)) as log:
            log.put_many(make_event(str(number)) for number in range(20))
            is_held = status in (401, 404)  # and asked again after a minute
            until(lambda: len(plane.requests) >= (1 if is_held else 40), "many tries")
            assert log.stats()["destinations"]["it"]["dead"] == 0
            answers["status"] = None
            if not is_held:
                assert log.flush(PATIENCE_S)
                assert sorted(int(event["event"]) for event in plane.stored) == list(range(20))
