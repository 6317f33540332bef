"""What the server makes of what a client sent: the event."""

import json
import re
import uuid
from contextlib import closing
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixel_middleware.destinations.base import Record
from pixel_middleware.events import Visit, as_uuid, make_event, new_message_id, timestamp, to_json
from pixel_middleware.sinks import EventLog

VISIT = Visit("192.0.2.1", "Mozilla/5.0", "en-US", "https://shop.example/cart")
SENT = {"writeKey": "k", "anonymousId": "a"}


def test_a_track_event_is_complete():
    event = make_event("track", SENT | {"event": "Signup", "utm": "x"}, VISIT)
    assert str(uuid.UUID(event["messageId"], version=4)) == event["messageId"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["receivedAt"])
    assert event == {
        "type": "track",
        "channel": "web",
        "writeKey": "k",
        "messageId": event["messageId"],
        "anonymousId": "a",
        "event": "Signup",
        "utm": "x",
        "context": {
            "ip": "192.0.2.1",
            "userAgent": "Mozilla/5.0",
            "locale": "en-US",
            "page": {"url": "https://shop.example/cart"},
        },
        "properties": {},
        "integrations": {"All": True},
        "originalTimestamp": event["receivedAt"],
        "sentAt": event["receivedAt"],
        "receivedAt": event["receivedAt"],
        "request_ip": "192.0.2.1",
    }
    assert json.loads(to_json(event)) == event


def test_nothing_that_the_client_sent_is_overwritten():
    context = {"ip": "", "userAgent": "", "locale": "", "page": {"url": ""}}
    sent = SENT | {"messageId": "m", "channel": "amp", "originalTimestamp": "o", "sentAt": "s", "event": "e"}
    event = make_event("track", sent | {"context": context}, VISIT)
    assert event["context"] == {"ip": "", "userAgent": "", "locale": "", "page": {"url": ""}}
    assert {name: event[name] for name in sent} == sent


def test_unknown_facts_leave_no_trace():
    event = make_event("page", SENT, Visit())
    assert (event["context"], event["properties"], event["request_ip"]) == ({}, {}, "")


@pytest.mark.parametrize(
    ("sent", "page", "properties"),
    [
        pytest.param({"context": {"page": {"title": "t"}}}, {"title": "t"}, {"title": "t"}, id="from context"),
        pytest.param({"properties": {"path": "/", "x": "1"}}, {"path": "/"}, {"path": "/", "x": "1"}, id="to context"),
        pytest.param(
            {"context": {"page": {"url": "c"}}, "properties": {"url": "p"}}, {"url": "c"}, {"url": "p"}, id="both stay"
        ),
    ],
)
def test_a_page_event_names_its_page_on_both_sides(sent, page, properties):
    event = make_event("page", SENT | sent, Visit())
    assert (event["context"]["page"], event["properties"]) == (page, properties)


def test_a_page_url_that_the_client_sent_is_preferred_to_the_referer():
    event = make_event("page", SENT | {"properties": {"url": "https://shop.example/p?x=1"}}, VISIT)
    assert event["context"]["page"] == {"url": "https://shop.example/p?x=1"}


def test_the_referer_stands_in_for_the_page_url_on_both_sides():
    event = make_event("page", SENT, VISIT)
    assert (event["context"]["page"], event["properties"]) == ({"url": VISIT.referer}, {"url": VISIT.referer})


@pytest.mark.parametrize("kind", ["page", "track"])
def test_a_page_that_is_no_object_is_left_alone(kind):
    event = make_event(kind, SENT | {"context": {"page": "home"}, "properties": {"title": "t"}}, VISIT)
    assert (event["context"]["page"], event["properties"]) == ("home", {"title": "t"})


def test_timestamps_have_milliseconds_and_a_z():
    assert timestamp(datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)) == "2026-01-02T03:04:05.678Z"
    assert timestamp(datetime(2026, 1, 2, tzinfo=UTC)) == "2026-01-02T00:00:00.000Z"


def test_json_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match="JSON"):
        to_json(make_event("page", SENT | {"x": float("nan")}, VISIT))


def test_ids_are_never_shared_with_a_fork(in_child, tmp_path):
    """Random bytes are drawn for many ids at once."""
    new_message_id()
    in_child(lambda: (tmp_path / "ids").write_text("\n".join(new_message_id() for _ in range(10))))
    theirs = set((tmp_path / "ids").read_text().split())
    ours = {new_message_id() for _ in range(500)}
    assert (len(theirs), len(ours), theirs & ours) == (10, 500, set())


@given(st.binary(min_size=16, max_size=16))
def test_a_uuid_is_what_the_standard_library_makes_of_it(raw):
    assert as_uuid(raw, "4") == str(uuid.UUID(bytes=raw, version=4))


@pytest.mark.parametrize(("kind", "name"), [("track", "its event"), ("page", "its name")])
def test_an_event_with_both_names_is_called_alike_in_a_log_and_before(tmp_path, kind, name):
    sent = {"writeKey": "k", "anonymousId": "a", "event": "its event", "name": "its name"}
    event = make_event(kind, sent, Visit())
    with closing(EventLog(tmp_path / "events.db")) as log:
        log(event)
        assert log.read("SELECT name FROM events") == [(name,)]
    assert Record.of(event).name == name
