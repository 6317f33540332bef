"""The feed of the live view: what an event log's file has, whoever answered, and what a test may ask of it."""

import json
import sqlite3
import threading
import time
from contextlib import closing
from types import SimpleNamespace

import asgi_driver
import pytest
import webtest
from conftest import host_app
from processes import until

from pixel_middleware import PixelMiddleware, asgi
from pixel_middleware.events import Refusal
from pixel_middleware.sinks import EventLog, JSONLines
from pixel_middleware.sinks import refusals as refusals_module
from pixel_middleware.watch import feed as feed_module
from pixel_middleware.watch import live
from pixel_middleware.watch.live import LiveView

TRACK = "/pixel/v1/track?writeKey=k&anonymousId=a&event="
TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(autouse=True)
def _written_at_once(monkeypatch):
    monkeypatch.setattr(refusals_module, "WRITE_EVERY_S", 0.01)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


@pytest.fixture
def make_worker(path):
    """A client of one more worker of the same log; each has an app of its own, as other processes do."""
    logs = []

    def make(sink=None, path=path, size=1000, app=host_app, **options):
        logs.append(EventLog(path))
        pixels = PixelMiddleware(app, sink or logs[-1], **options)
        return webtest.TestApp(LiveView(pixels, log=logs[-1], size=size, live_token=TOKEN), lint=True)

    yield make
    for log in logs:
        log.close()


@pytest.fixture(params=["log", "process"])
def client(request, make_worker, events):
    """A client of an app with a live view, of a log and of a plain sink."""
    if request.param == "log":
        return make_worker()
    view = LiveView(PixelMiddleware(host_app, events.append), live_token=TOKEN)
    return webtest.TestApp(view, lint=True)


def feed(client, status=None, **asked):
    answer = client.get("/pixel/live/feed", asked, headers=BEARER, status=status)
    return answer.json if status is None else answer.text


def names(page):
    return [entry.get("name") or entry["reason"] for entry in page["entries"]]


def all_of(client, **asked):
    """What a feed has, page by page."""
    page = feed(client, **asked)
    entries = page["entries"]
    while page["more"]:
        page = feed(client, after=page["cursor"], **asked)
        entries += page["entries"]
    return entries


# what a log's file has


def test_it_shows_what_another_worker_answered_and_what_was_before_a_restart(make_worker):
    one = make_worker()
    one.get(f"{TRACK}Signup", extra_environ={"REMOTE_ADDR": "192.0.2.1"})
    one.get(TRACK, status=400, extra_environ={"REMOTE_ADDR": "192.0.2.1", "HTTP_USER_AGENT": "tests"})
    for worker in (one, make_worker(), make_worker()):
        until(lambda worker=worker: len(feed(worker)["entries"]) == 2, "both")
        page = feed(worker)
        accepted, rejected = page["entries"]
        event = json.loads(accepted.pop("event"))
        assert (event["event"], accepted.pop("at") <= rejected.pop("at")) == ("Signup", True)
        assert accepted == {
            "id": "event-1",
            "outcome": "accepted",
            "type": "track",
            "name": "Signup",
            "who": "a",
            "address": "192.0.2.1",
            "key": "k",
        }
        assert rejected == {
            "id": "refusal-1",
            "outcome": "rejected",
            "who": "a",
            "address": "192.0.2.0",
            "agent": "tests",
            "key": "k",
            "reason": "missing_event",
            "message": "event is missing; add event=... with the name of what happened",
            "path": "/pixel/v1/track",
            "query": "writeKey=k&anonymousId=a&event=",
        }
        assert (page["source"], page["total"], page["more"]) == ("log", 2, False)
        assert sum(count for second in page["seconds"].values() for count in second.values()) == 2


def test_a_refusal_is_kept_once_whether_the_middleware_hands_it_over_too_or_not(make_worker, path):
    told = []
    for refused in (None, told.append):
        make_worker(refused=refused).get(TRACK, status=400)
    with closing(EventLog(path)) as log:
        view = LiveView(PixelMiddleware(host_app, log, refused=log.refused), log=log, live_token=TOKEN)
        client = webtest.TestApp(view)
        client.get(f"{TRACK}&third", status=400)
        until(lambda: len(feed(client)["entries"]) == 3, "three refusals")
        log.close()
        assert len(log.read("SELECT * FROM refusals")) == 3
    assert len(told) == 1


def test_a_process_that_answers_no_pixel_shows_the_log_of_an_asgi_app(path):
    with closing(EventLog(path)) as log:
        pixels = asgi_driver.as_wsgi(asgi.PixelMiddleware(asgi_driver.as_asgi(host_app), log, refused=log.refused))
        client = webtest.TestApp(pixels)
        client.get(f"{TRACK}Signup")
        client.get(TRACK, status=400)
    with closing(EventLog(path)) as log:
        alone = webtest.TestApp(LiveView(host_app, "/", log=log), lint=True)
        alone.get(f"/?token={alone.app.live_token}")
        assert names(alone.get("/feed").json) == ["Signup", "missing_event"]


def test_what_failed_and_what_was_dropped_is_the_files_too(make_worker):
    def fail(event):
        raise OSError("the disk is full")

    def forget(event, request):
        return None

    make_worker(sink=fail).get(f"{TRACK}lost", status=503)
    worker = make_worker(processors=[forget])
    worker.get(f"{TRACK}private")
    until(lambda: len(feed(worker)["entries"]) == 2, "both")
    dropped, failed = sorted(feed(worker)["entries"], key=lambda entry: entry["outcome"])
    assert (failed["outcome"], failed["by"], failed["name"]) == ("failed", "OSError: the disk is full", "lost")
    assert dropped.keys() == {"id", "at", "outcome", "by"}


def test_a_cursor_tells_what_is_new_in_any_worker(make_worker):
    one, another = make_worker(), make_worker()
    one.get(f"{TRACK}1")
    cursor = feed(one)["cursor"]
    one.get(f"{TRACK}2")
    one.get(TRACK, status=400)
    until(lambda: len(feed(another, after=cursor)["entries"]) == 2, "both")
    page = feed(another, after=cursor)
    assert (names(page), page["start"]) == (["2", "missing_event"], False)
    assert feed(another, after=page["cursor"])["entries"] == []


@pytest.mark.parametrize("after", ["ab-1-0", "{run}-99-0", "{run}-0-99"])
def test_a_cursor_of_another_file_begins_anew(make_worker, after):
    worker = make_worker()
    worker.get(f"{TRACK}1")
    page = feed(worker, after=after.format(run=feed(worker)["run"]))
    assert (names(page), page["start"]) == (["1"], True)


def test_another_file_at_the_path_is_another_run(make_worker, path):
    worker = make_worker()
    worker.get(f"{TRACK}before")
    cursor = feed(worker)["cursor"]
    path.unlink()
    worker.get(f"{TRACK}refused", status=503)  # the file was gone
    worker.get(f"{TRACK}after")
    worker.get(f"{TRACK}after")
    page = feed(worker, after=cursor)
    assert (set(names(page)) - {"refused"}, page["start"]) == ({"after"}, True)


def test_no_more_than_its_size_is_shown_and_who_is_behind_skips(make_worker, path):
    worker = make_worker(size=3)
    cursor = feed(worker)["cursor"]
    for number in range(5):
        worker.get(f"{TRACK}{number}")
    assert names(feed(worker)) == names(feed(worker, after=cursor)) == ["2", "3", "4"]
    with closing(EventLog(path)) as log:
        for number in range(5):
            log.refused(Refusal(float(number), "rejected", str(number)))
    assert names(feed(worker))[:3] == ["2", "3", "4"]
    assert feed(worker)["total"] == 10
    assert sum(second.get("rejected", 0) for second in feed(worker)["seconds"].values()) == 0  # they are of 1970


def test_pages_are_bounded_and_complete(make_worker, path):
    worker = make_worker()
    with closing(EventLog(path)) as log:
        for number in range(1, 251):
            log.refused(Refusal(time.time(), "rejected", f"r{number}", query="q" * 2000))
            if number % 50 == 0:  # no more than 100 at once
                until(lambda number=number: log.read("SELECT max(id) FROM refusals") == [(number,)], "the rows")
    for number in range(150):
        worker.get(f"{TRACK}e{number}&properties.x={'x' * 2000}")
    page = worker.get("/pixel/live/feed", headers=BEARER)
    assert (page.json["more"], page.content_length <= 65536) == (True, True)
    ids = [entry["id"] for entry in all_of(worker)]
    assert sorted(ids) == sorted([f"event-{n}" for n in range(1, 151)] + [f"refusal-{n}" for n in range(1, 251)])


def test_rows_that_nobody_foresaw_are_shown(make_worker, path):
    worker = make_worker()
    worker.get(f"{TRACK}good")
    with closing(sqlite3.connect(path)) as other, other:
        for moment, text in (("never", '{"event": "bad moment"}'), ("2026-01-01T00:00:00Z", "no JSON"), ("", "7")):
            other.execute(
                "INSERT INTO events (received_at, type, write_key, message_id, visitor, name, event) "
                "VALUES (?, 'track', '', '', '', 'named', ?)",
                (moment, text),
            )
    assert sorted(entry.get("name", "") for entry in feed(worker)["entries"]) == ["", "bad moment", "good", "named"]


def test_a_query_of_thousands_of_parameters_is_shown(make_worker):
    worker = make_worker()
    worker.get(f"/pixel/v1/track?writeKey=k&{'a&' * 3000}", status=400)
    until(lambda: feed(worker)["entries"], "the refusal")
    (entry,) = feed(worker)["entries"]
    assert (entry["reason"], "key" in entry) == ("too_many_parameters", False)


def test_of_a_repeated_parameter_the_first_is_shown_as_it_would_be_taken(client):
    client.get("/pixel/v1/track?writeKey=first&writeKey=second&anonymousId=a", status=400)
    until(lambda: feed(client)["entries"], "the refusal")
    assert feed(client)["entries"][0]["key"] == "first"


def test_the_chart_of_a_file_of_other_times_is_empty(make_worker, path, make_event, monkeypatch):
    monkeypatch.setattr(feed_module, "MOST_COUNTED", 10)
    with closing(EventLog(path)) as log:
        for year in ("2020", "2100"):
            log.put_many([make_event() | {"receivedAt": f"{year}-01-01T00:00:00.000Z"} for _ in range(5)] * 5)
    assert feed(make_worker())["seconds"] == {}


def test_the_chart_counts_each_event_once_however_many_come(make_worker, path, make_event, monkeypatch):
    monkeypatch.setattr(feed_module, "MOST_COUNTED", 10)
    worker = make_worker()
    worker.get(f"{TRACK}first")
    assert feed(worker)["total"] == 1
    with closing(EventLog(path)) as log:
        log.put_many([make_event() for _ in range(50)])
        log.put_many([make_event() | {"receivedAt": "2020-01-01T00:00:00.000Z"}])

    def counted():
        return sum(second.get("accepted", 0) for second in feed(worker)["seconds"].values())

    assert (counted(), counted()) == (51, 51)
    monkeypatch.setattr(feed_module, "CHART_S", -1)
    assert feed(worker)["seconds"] == {}


def test_events_that_went_are_no_restart(make_worker, path):
    worker = make_worker()
    worker.get(f"{TRACK}gone")
    cursor = feed(worker)["cursor"]
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("DELETE FROM events")
    page = feed(worker, after=cursor)
    assert (page["start"], page["total"]) == (False, 0)


def test_a_file_that_cannot_be_read_is_a_503_that_says_so(make_worker, path):
    worker = make_worker()
    path.unlink()
    assert "cannot read" in feed(worker, status=503)


def test_a_plain_sink_is_shown_from_memory(tmp_path):
    with closing(JSONLines(tmp_path / "events.jsonl")) as sink:
        client = webtest.TestApp(LiveView(PixelMiddleware(host_app, sink), live_token=TOKEN))
        client.get(f"{TRACK}a")
        page = feed(client)
    assert (names(page), page["source"], page["total"]) == (["a"], "process", 1)


# what a test may ask


def test_it_can_be_asked_for_one_event_one_reason_and_one_visitor(client):
    client.get(f"{TRACK}Signup")
    client.get(f"{TRACK.replace('anonymousId=a', 'anonymousId=b&userId=7')}Signup")
    client.get(f"{TRACK}Login")
    client.get(TRACK, status=400)
    client.get("/pixel/v1/page?writeKey=k&anonymousId=a&name=Home")
    until(lambda: len(feed(client)["entries"]) == 5, "all")
    assert len(feed(client, event="Signup")["entries"]) == 2
    assert [entry["who"] for entry in feed(client, event="Signup", anonymousId="b")["entries"]] == ["7"]
    assert names(feed(client, event="Home")) == ["Home"]
    assert sorted(names(feed(client, anonymousId="a"))) == ["Home", "Login", "Signup", "missing_event"]
    assert names(feed(client, reason="missing_event", anonymousId="a")) == ["missing_event"]
    assert feed(client, event="Signup", reason="missing_event")["entries"] == []
    assert feed(client, event="x" * 3000)["entries"] == []
    assert feed(client, after=feed(client, reason="missing_event")["cursor"])["entries"] == []
    assert len(feed(client, event="", reason="", anonymousId="", wait="")["entries"]) == 5


def test_a_long_name_is_found_as_far_as_it_is_kept(client):
    client.get(f"{TRACK}{'x' * 600}")
    assert len(feed(client, event="x" * 600)["entries"]) == 1
    assert feed(client, event="x" * 600 + "y")["entries"] != []
    assert feed(client, event="x" * 500)["entries"] == []


def test_who_waits_is_answered_as_soon_as_it_comes(client):
    asked = threading.Event()
    mark = client.app._feed.mark

    def asks():
        asked.set()
        return mark()

    client.app._feed.mark = asks
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(feed(client, event="Late", wait="5")))
    waiting.start()
    assert asked.wait(60)
    client.get(f"{TRACK}Early")
    client.get(f"{TRACK}Late")
    waiting.join()
    assert [(names(answer), answer["start"]) for answer in answers] == [(["Late"], True)]
    assert feed(client, event="Late", after=answers[0]["cursor"], wait="0.05")["entries"] == []


def test_nobody_waits_longer_than_was_asked_for(client, monkeypatch):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep, time=time.time))
    assert feed(client, wait="5")["entries"] == []
    assert 5.0 <= now[0] < 5.1


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"wait": "6"}, "wait must be a number of seconds from 0 to 5"),
        ({"wait": "5.001"}, "wait must be"),
        ({"wait": "soon"}, "wait must be"),
        ({"wait": "-1"}, "wait must be"),
        ({"evnt": "x"}, "'evnt' is not known here; use event, reason, anonymousId, after and wait"),
    ],
)
def test_what_it_cannot_be_asked_is_told(client, asked, error):
    assert error in feed(client, status=400, **asked)


def test_a_reset_hides_what_was_and_the_log_keeps_it(client):
    client.get(f"{TRACK}before")
    cursor = feed(client)["cursor"]
    client.delete("/pixel/live/feed", headers=BEARER)
    assert (feed(client)["entries"], feed(client)["seconds"], feed(client)["total"]) == ([], {}, 0)
    client.get(f"{TRACK}after")
    page = feed(client, after=cursor)
    assert (names(page), page["start"], page["total"]) == (["after"], True, 1)


def test_a_reset_holds_in_all_workers_and_a_file_keeps_its_events(make_worker, path):
    one, another = make_worker(), make_worker()
    one.get(f"{TRACK}before")
    one.get(TRACK, status=400)
    until(lambda: len(feed(one)["entries"]) == 2, "both")
    for _ in range(2):
        one.delete("/pixel/live/feed", headers=BEARER)
    assert (feed(another)["entries"], feed(make_worker())["entries"]) == ([], [])
    with closing(EventLog(path)) as log:
        kept = log.read("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM refusals)")
    assert kept == [(1, 1)]


def test_only_the_token_resets(events):
    view = LiveView(PixelMiddleware(host_app, events.append), live_token=TOKEN, allow=["127.0.0.1"])
    client = webtest.TestApp(view, extra_environ={"REMOTE_ADDR": "127.0.0.1"})
    client.get("/pixel/live/feed", status=200)
    client.delete("/pixel/live/feed", status=403)
    client.delete("/pixel/live/feed", headers=BEARER, status=200)
