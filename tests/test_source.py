"""Events of the server's own code: as a pixel's would be, with JSON's types, and as safe."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
import source_writer
import webtest
from conftest import host_app
from processes import signal_group

from pixel_middleware import ConfigurationError, PixelMiddleware, Source, UnsendableEvent
from pixel_middleware.sinks import EventLog

EVENTS = int(os.environ.get("PIXEL_SOURCE_EVENTS", "1000"))
ID = UUID("6f1b5b0a-4f0e-4a71-8a52-000000000000")


@pytest.fixture
def source(events):
    return Source(events.append, write_key="k")


def test_a_track_event_has_what_a_pixels_has_and_says_that_a_server_made_it(source, events):
    before = datetime.now(UTC).isoformat(timespec="milliseconds")
    returned = source.track("Email Sent", anonymous_id="a", user_id="u", properties={"mail": "welcome"})
    (event,) = events
    assert event is returned
    now = event["receivedAt"]
    assert before <= now.replace("Z", "+00:00") <= datetime.now(UTC).isoformat(timespec="milliseconds")
    assert event == {
        "type": "track",
        "channel": "server",
        "writeKey": "k",
        "messageId": str(UUID(event["messageId"], version=4)),
        "anonymousId": "a",
        "userId": "u",
        "event": "Email Sent",
        "context": {},
        "properties": {"mail": "welcome"},
        "integrations": {"All": True},
        "originalTimestamp": now,
        "sentAt": now,
        "receivedAt": now,
        "request_ip": "",
    }


def test_a_page_event_may_have_a_name_and_completes_both_sides_of_its_page(source):
    page = source.page("Invoice", user_id="u", properties={"path": "/invoice"}, context={"page": {"title": "Invoice"}})
    assert (page["type"], page["name"]) == ("page", "Invoice")
    assert page["properties"] == page["context"]["page"] == {"path": "/invoice", "title": "Invoice"}
    assert "name" not in source.page(user_id="u")


def test_it_may_be_recorded_later_than_it_happened_and_again(source):
    at = datetime(2026, 1, 2, 4, 4, 5, 678000, tzinfo=timezone(timedelta(hours=1)))
    events = [source.track("e", user_id="u", message_id="m", at=at) for _ in range(2)]
    assert {(event["messageId"], event["originalTimestamp"]) for event in events} == {("m", "2026-01-02T03:04:05.678Z")}
    assert events[0]["sentAt"] > events[0]["originalTimestamp"]


def test_values_keep_their_types_and_what_json_lacks_becomes_text(source):
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    given = {"n": 1, "x": 1.5, "yes": True, "none": None, "list": ({"a": []},), "moment": moment}
    given |= {"date": date(2026, 1, 2), "price": Decimal("1.10"), "id": ID}
    event = source.track("e", user_id="u", properties=given)
    assert event["properties"] == {
        "n": 1,
        "x": 1.5,
        "yes": True,
        "none": None,
        "list": [{"a": []}],
        "moment": "2026-01-02T03:04:05.000Z",
        "date": "2026-01-02",
        "price": "1.10",
        "id": str(ID),
    }


def test_a_later_change_of_what_was_given_changes_no_event(source, events):
    properties = {"cart": ["A-1"]}
    source.track("e", user_id="u", properties=properties)
    properties["cart"].append("B-2")
    assert events[0]["properties"] == {"cart": ["A-1"]}


def nested(depth):
    return {"a": nested(depth - 1)} if depth else 1


class Cyclic(dict):
    def items(self):
        return [("again", self)]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"event": " "}, "event is missing or blank"),
        ({"event": None}, "event must be a string, not NoneType"),
        ({"user_id": None}, "anonymous_id and user_id are missing or blank; one of them is needed"),
        ({"user_id": "\u200b"}, "anonymous_id and user_id are missing or blank"),
        ({"user_id": 7}, "user_id must be a string, not int"),
        ({"anonymous_id": "a\0"}, "anonymous_id holds a NUL, which no event can carry"),
        ({"message_id": 7}, "message_id must be a string, not int"),
        ({"at": datetime(2026, 1, 2)}, "at must be a datetime with a time zone"),
        ({"at": "2026-01-02"}, "at must be a datetime with a time zone"),
        ({"properties": [1]}, "properties must be a mapping"),
        ({"properties": {1: 1}}, "the keys of properties must be strings, not empty and without a NUL"),
        ({"context": {"a": {"": 1}}}, "the keys of context.a must be strings"),
        ({"properties": {"x": [float("nan")]}}, "properties.x.0 is not a finite number"),
        ({"properties": {"x": Decimal("inf")}}, "properties.x is not a finite number"),
        ({"properties": {"x": datetime(2026, 1, 2)}}, "properties.x is a datetime without a time zone"),
        ({"properties": {"x": b"y"}}, "properties.x is of type bytes, which JSON cannot hold; make it a string"),
        ({"properties": {"x": "a\0b"}}, "properties.x holds a NUL"),
        ({"properties": {"x": "\ud800"}}, "a name or value holds half of a surrogate pair"),
        ({"properties": nested(32)}, "properties is nested more than 32 deep"),
        ({"properties": Cyclic(x=1)}, "properties is nested more than 32 deep"),
        ({"properties": {"x": 10**5000}}, "properties.x has too many digits"),
        ({"properties": {"x": "y" * 65536}}, "bytes of JSON, and at most 65536 are taken"),
    ],
)
def test_what_no_event_can_be_is_told_and_not_recorded(source, events, fields, error):
    with pytest.raises(UnsendableEvent) as caught:
        source.track(**{"event": "e", "user_id": "u"} | fields)
    assert error in str(caught.value)
    assert events == []


def test_the_deepest_that_a_pixel_may_send_is_recorded(source, events):
    client = webtest.TestApp(PixelMiddleware(host_app, events.append), lint=True)
    client.get(f"/pixel/v1/track?writeKey=k&userId=u&anonymousId=a&event=e&properties.{'.'.join('a' * 31)}=1")
    source.track("e", user_id="u", properties=nested(31))
    assert str(events[0]["properties"]).replace("'1'", "1") == str(events[1]["properties"])


def test_a_field_that_there_is_not_is_an_error_that_lists_those_that_there_are(source):
    with pytest.raises(TypeError, match="an event has no field 'properites'; its fields are anonymous_id, user_id, "):
        source.track("e", user_id="u", properites={})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"write_key": " "}, "write_key must be a string that is not blank"),
        ({"write_key": None}, "write_key must be a string that is not blank"),
        ({"sink": EventLog}, "EventLog is a class, so make one"),
        ({"max_depth": 0}, "max_depth must be a whole number of at least 1"),
        ({"max_event_bytes": 10}, "max_event_bytes must be a whole number of at least 1024"),
    ],
)
def test_a_wrong_option_says_what_is_right(options, error):
    with pytest.raises(ConfigurationError, match=error):
        Source(**{"sink": print, "write_key": "k"} | options)


def test_what_the_sink_raises_reaches_the_caller(source):
    def full(event):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        Source(full, write_key="k").track("e", user_id="u")

    async def later():
        raise AssertionError("nobody runs this")

    with pytest.raises(TypeError, match="the sink returned a coroutine, which nobody runs"):
        Source(lambda event: later(), write_key="k").track("e", user_id="u")


def test_it_writes_into_one_file_with_the_pixels_in_one_order(tmp_path):
    log = EventLog(tmp_path / "events.db")
    client = webtest.TestApp(PixelMiddleware(host_app, log), lint=True)
    Source(log, write_key="k").track("Email Sent", user_id="u")
    client.get("/pixel/v1/track?writeKey=k&anonymousId=a&event=Email+Opened")
    Source(log, write_key="k").track("Email Answered", user_id="u")
    assert [row[0] for row in log.read("SELECT name FROM events ORDER BY id")] == [
        "Email Sent",
        "Email Opened",
        "Email Answered",
    ]
    log.close()


@pytest.mark.parametrize("mode", ["threads", "gevent"])
def test_no_recorded_event_is_lost_when_its_process_is_killed(popen, tmp_path, mode):
    program = popen(
        [sys.executable, source_writer.__file__, tmp_path / "events.db", mode], stdout=subprocess.PIPE, text=True
    )
    recorded = [program.stdout.readline() for _ in range(EVENTS)]
    assert "" not in recorded, "it ended by itself"
    signal_group(program.pid, signal.SIGKILL)
    recorded += [line for line in program.stdout if line.endswith("\n")]
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
        stored = [id for (id,) in connection.execute("SELECT message_id FROM events")]
    assert set(map(str.strip, recorded)) - set(stored) == set()
    assert len(set(stored)) == len(stored) >= EVENTS
