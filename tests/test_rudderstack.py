"""RudderStack: the conversation with a data plane, over real HTTP."""

import socket
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from dataplane import DataPlane
from processes import until

from pixel_middleware import ConfigurationError, Rejected, RetryLater
from pixel_middleware.destinations import RudderStack
from pixel_middleware.sinks import Outbox


@pytest.fixture
def plane():
    with DataPlane() as plane:
        yield plane


def test_an_event_arrives_as_it_was_but_for_its_write_key_and_sent_at(plane, make_event):
    event = make_event("Signup", "kéy", properties={"text": "日本"})
    RudderStack(plane.url + "/").send([event])
    ((write_key, _, (arrived,)),) = plane.requests
    assert write_key == "kéy"
    assert {**arrived, "sentAt": event["sentAt"], "writeKey": "kéy"} == event


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


@pytest.mark.parametrize("status", [408, 429, 500, 503, 504])
def test_a_passing_failure_is_to_be_retried(plane, make_event, status):
    plane.answer = lambda write_key, batch: (status, {})
    with pytest.raises(RetryLater, match=f"HTTP {status}: no such luck") as caught:
        RudderStack(plane.url).send([make_event()])
    assert (caught.value.after, caught.value.hold) == (None, False)


@pytest.mark.parametrize("status", [400, 413])
def test_what_will_never_be_taken_is_rejected(plane, make_event, status):
    plane.answer = lambda write_key, batch: (status, {})
    with pytest.raises(Rejected, match=f"HTTP {status}: no such luck"):
        RudderStack(plane.url).send([make_event()])


@pytest.mark.parametrize("status", [401, 404, 302, 403])
def test_a_wrong_configuration_sets_the_key_aside(plane, make_event, status):
    plane.answer = lambda write_key, batch: (status, {"Location": "http://127.0.0.1:1/"})
    with pytest.raises(RetryLater) as caught:
        RudderStack(plane.url).send([make_event()])
    assert (caught.value.after, caught.value.hold) == (60, True)


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
    with pytest.raises(RetryLater, match="NewConnectionError"):
        RudderStack(f"http://127.0.0.1:{free_port}").send([make_event()])
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(RetryLater, match="ReadTimeoutError"):
        RudderStack(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05).send([make_event()])


def test_the_time_in_the_outbox_does_not_skew_rudderstacks_clock(plane, make_event):
    """rudder-server takes its own now - (sentAt - originalTimestamp) as the event's time."""
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    by_a_slow_clock = make_event(
        sentAt="2020-01-01T00:00:05.000Z", originalTimestamp="2020-01-01T00:00:03.000Z"
    ) | {"receivedAt": hour_ago}  # fmt: skip
    RudderStack(plane.url).send([by_a_slow_clock])
    (arrived,) = plane.stored
    offset = datetime.fromisoformat(arrived["sentAt"]) - datetime.fromisoformat("2020-01-01T01:00:05.000Z")
    assert abs(offset) < timedelta(minutes=1)


def test_a_sent_at_without_a_time_zone_is_in_utc(plane, make_event):
    now = datetime.now(UTC).isoformat()
    RudderStack(plane.url).send([make_event(sentAt="2026-01-01T00:00:00") | {"receivedAt": now}])
    assert plane.stored[0]["sentAt"].startswith("2026-01-01T00:0")


@pytest.mark.parametrize("sent_at", ["yesterday", "9999-12-31T23:59:59.999Z"])
def test_a_sent_at_that_is_no_moment_becomes_now(plane, make_event, sent_at):
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    RudderStack(plane.url).send([make_event(sentAt=sent_at) | {"receivedAt": hour_ago}])
    sent_at = datetime.fromisoformat(plane.stored[0]["sentAt"])
    assert abs(sent_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_one_bad_key_and_one_poison_event_do_not_hold_back_the_others(tmp_path, plane, make_event):
    def answer(write_key, batch):
        if write_key == "unknown":
            return 401, {}
        return (400, {}) if any(event["event"] == "poison" for event in batch) else None

    plane.answer = answer
    outbox = Outbox(tmp_path / "outbox.db", RudderStack(plane.url))
    for name, key in [("1", "unknown"), ("2", "k"), ("poison", "k"), ("3", "k"), ("4", "unknown"), ("5", "k")]:
        outbox(make_event(name, key))
    until(lambda: outbox.stats()["sent"] == 3, "the other events")
    assert [event["event"] for event in plane.stored] == ["2", "3", "5"]
    stats = outbox.stats()
    assert (stats["waiting"], stats["dead"]) == (2, 1)
    outbox.close()


def test_a_forked_child_makes_connections_of_its_own(plane, make_event, in_child):
    sender = RudderStack(plane.url)
    sender.send([make_event("parent")])
    in_child(lambda: sender.send([make_event("child")]))
    sender.send([make_event("parent again")])
    assert [event["event"] for event in plane.stored] == ["parent", "child", "parent again"]


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ({"data_plane_url": "hosted.rudderlabs.com"}, "a URL like https://hosted.rudderlabs.com"),
        ({"data_plane_url": None}, "a URL like"),
        ({"timeout_s": 0}, "a positive number of seconds"),
        ({"timeout_s": True}, "a positive number of seconds"),
    ],
)
def test_a_wrong_option_says_what_is_accepted(options, accepted):
    with pytest.raises(ConfigurationError, match=accepted):
        RudderStack(**{"data_plane_url": "http://127.0.0.1"} | options)


def test_without_its_library_it_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pixel-middleware\[rudderstack\]'"):
        RudderStack("http://127.0.0.1")
