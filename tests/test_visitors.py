"""Daily visitors: one id in all processes of a day, and nothing that links two days."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import pytest
import webtest
from conftest import host_app
from django.conf import settings as django_settings
from django.core.handlers.wsgi import WSGIRequest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webob import Request

from pixel_middleware import ConfigurationError, PixelMiddleware, StorageError
from pixel_middleware.events import Visit, make_event, timestamp
from pixel_middleware.processors import anonymize_ip, daily_visitor, drop_ip, honor_gpc

PIXEL = "/pixel/v1/page.gif?writeKey=k"
DAY_S = 86400
NOON = 20_456 * DAY_S + DAY_S / 2


@pytest.fixture
def salts(tmp_path):
    return tmp_path / "salts"


@pytest.fixture
def clock(monkeypatch):
    """Sets what time it is, in seconds since 1970."""

    def set_to(now):
        monkeypatch.setattr(time, "time", lambda: now)

    set_to(NOON)
    return set_to


def visitor(processor, address="192.0.2.1", agent="Firefox", host="example.com", day="2026-01-03", **ids):
    """The `anonymousId` that a page view gets."""
    event = make_event("page", {"writeKey": "k", **ids}, Visit(address, agent), f"{day}T12:00:00.000Z")
    request = Request.blank("/", headers={"Host": host, "User-Agent": agent})
    return processor(event, request).get("anonymousId")


def secret_in(salts):
    return re.fullmatch(rb"pixel-middleware daily salt 1 \d{8} ([0-9a-f]{64})\n", salts.read_bytes())[1]


def age_by_a_day(salts):
    """Make the file's salt yesterday's, as midnight does for all processes."""
    today = int(time.time() // DAY_S)
    salts.write_bytes(salts.read_bytes().replace(b"%08d" % today, b"%08d" % (today - 1)))


LOADS = st.tuples(st.text(max_size=40), st.text(max_size=20), st.sampled_from(["a.example", "b.example"]))


@given(LOADS, LOADS)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_visitor_has_the_same_id_on_a_day_and_another_has_another(salts, one, other):
    processor, later = daily_visitor(salts), daily_visitor(salts)

    def id_of(load, processor):
        address, agent, host = load
        event = make_event("page", {"writeKey": "k"}, Visit(address, agent))
        request = Request.blank("/", headers={"Host": host})
        request.environ["HTTP_USER_AGENT"] = agent
        return processor(event, request)["anonymousId"]

    assert id_of(one, processor) == id_of(one, later)
    assert (id_of(one, processor) == id_of(other, processor)) == (one == other)


def test_an_id_is_a_uuid_of_the_version_for_ones_own_kinds(salts):
    assert uuid.UUID(visitor(daily_visitor(salts))).version == 8


@pytest.mark.parametrize(
    "other", [{"address": "192.0.2.2"}, {"agent": "Chrome"}, {"host": "www.example.com"}, {"day": "2026-01-04"}]
)
def test_address_agent_host_and_the_events_day_make_a_visitor(salts, other):
    processor = daily_visitor(salts)
    assert visitor(processor) != visitor(processor, **other)


def test_the_parts_of_a_visitor_do_not_run_into_each_other(salts):
    processor = daily_visitor(salts)
    assert visitor(processor, "192.0.2.1", '2", "x') != visitor(processor, '192.0.2.1", "2', "x")


def test_letters_of_the_host_do_not_matter(salts):
    processor = daily_visitor(salts)
    assert visitor(processor, host="EXAMPLE.com") == visitor(processor)


def test_two_sites_with_files_of_their_own_cannot_be_linked(tmp_path):
    assert visitor(daily_visitor(tmp_path / "one")) != visitor(daily_visitor(tmp_path / "two"))


@given(st.integers(0, 400 * DAY_S), st.integers(1, 400))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_the_next_day_nobody_is_the_same(salts, clock, second, days):
    clock(NOON + second)
    processor = daily_visitor(salts)
    before, secret = visitor(processor), secret_in(salts)
    clock(NOON + second + days * DAY_S)
    assert visitor(processor) != before
    assert secret not in salts.read_bytes()
    clock(NOON + second)  # somebody sets the clock back: the old salt is gone for good
    assert visitor(processor) != before


def test_a_day_ends_at_midnight_utc(salts, clock):
    midnight = NOON + DAY_S / 2
    processor = daily_visitor(salts)
    clock(midnight - 0.001)
    before = visitor(processor)
    clock(midnight)
    after = visitor(processor)
    clock(midnight + DAY_S - 0.001)
    assert (visitor(processor) == before, visitor(processor) == after) == (False, True)


def test_yesterdays_salt_is_overwritten_where_it_stood(salts):
    processor = daily_visitor(salts)
    yesterday, file = secret_in(salts), salts.stat()
    with salts.open("rb") as kept_open:  # by somebody who hopes for the old blocks
        age_by_a_day(salts)
        visitor(processor)
        assert yesterday not in kept_open.read()
    assert (salts.stat().st_ino, salts.stat().st_size) == (file.st_ino, file.st_size)
    assert list(salts.parent.iterdir()) == [salts]


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_yesterdays_salt_is_off_the_disk_before_an_id_is_given(salts, tmp_path):
    log = tmp_path / "calls"
    command = ["strace", "-qq", "-f", "-P", str(salts), "-e", "trace=flock,pwrite64,fsync,close", "-o", str(log)]
    code = f"from pixel_middleware.processors import daily_visitor; daily_visitor({str(salts)!r})"
    subprocess.run([*command, sys.executable, "-W", "ignore", "-c", code], check=True)
    assert re.findall(r"(\w+)\(", log.read_text()) == ["flock", "pwrite64", "fsync", "close"]


def test_the_file_is_its_owners_alone(salts):
    previous = os.umask(0)
    try:
        daily_visitor(salts)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(salts.stat().st_mode) == 0o600


def test_a_salt_is_random_and_in_no_id(tmp_path):
    secrets = set()
    for number in range(20):
        path = tmp_path / str(number)
        identity = visitor(daily_visitor(path))
        secrets.add(secret_in(path))
        assert identity.replace("-", "").encode() not in path.read_bytes()
    assert len(secrets) == 20


IN_A_PROCESS = """
import sys
from webob import Request
from pixel_middleware.events import Visit, make_event
from pixel_middleware.processors import daily_visitor

processor = daily_visitor(sys.argv[1])
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
for _ in range(200):
    event = make_event("page", {"writeKey": "k"}, Visit("192.0.2.1", "Firefox"), "2026-01-03T12:00:00.000Z")
    request = Request.blank("/", headers={"Host": "example.com", "User-Agent": "Firefox"})
    print(processor(event, request)["anonymousId"])
"""


@pytest.fixture
def in_processes(salts):
    """Starts processes that each give 200 ids once told to; returns what each said."""

    def run(count, when_ready):
        command = [sys.executable, "-W", "ignore", "-c", IN_A_PROCESS, str(salts)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen(command, **pipes) for _ in range(count)]
        try:
            assert [process.stdout.readline() for process in processes] == ["ready\n"] * count
            when_ready()
            for process in processes:
                process.stdin.write("\n")
                process.stdin.flush()
            return [process.communicate()[0].split() for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()

    return run


def test_processes_that_start_together_agree(salts, in_processes):
    said = in_processes(4, lambda: None)
    assert ({one for ids in said for one in ids}, len(said[0])) == ({visitor(daily_visitor(salts))}, 200)


def test_processes_agree_on_the_new_salt_after_midnight(salts, in_processes):
    before = visitor(daily_visitor(salts))
    said = in_processes(4, lambda: age_by_a_day(salts))
    after = visitor(daily_visitor(salts))
    assert ({one for ids in said for one in ids}, before == after) == ({after}, False)


THROUGH_MIDNIGHTS = """
import json, sys, time
from webob import Request
from pixel_middleware.events import Visit, make_event
from pixel_middleware.processors import daily_visitor

real, start = time.time, float(sys.argv[2])
time.time = lambda: (real() - start) * 4 * 86400 + 1.7e9  # a day has a quarter of a second

def today():
    return int(time.time() // 86400)

processor, said = daily_visitor(sys.argv[1]), set()
while real() < start + 3 or len(said) < 3:
    event = make_event("page", {"writeKey": "k"}, Visit("192.0.2.1"), "2026-01-03T12:00:00.000Z")
    before, identity, after = today(), processor(event, Request.blank("/"))["anonymousId"], today()
    if before == after:
        said.add((before, identity))
print(json.dumps(sorted(said)))
"""


def test_processes_that_work_through_midnights_have_one_id_a_day_and_none_on_two(salts):
    command = [sys.executable, "-W", "ignore", "-c", THROUGH_MIDNIGHTS, str(salts), str(time.time())]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {tuple(pair) for process in processes for pair in json.loads(process.communicate()[0])}
    days, ids = {day for day, _ in said}, {identity for _, identity in said}
    assert len(days) > 1
    assert (len(said), len(ids)) == (len(days), len(days))


def test_a_forked_worker_gives_the_ids_of_its_master(salts, in_child):
    processor = daily_visitor(salts)
    identity = visitor(processor)

    def work():
        assert visitor(processor) == identity
        age_by_a_day(salts)
        assert visitor(processor) != identity

    in_child(work)
    assert visitor(processor) == visitor(daily_visitor(salts)) != identity


def test_threads_at_midnight_agree(salts, in_threads):
    processor = daily_visitor(salts)
    age_by_a_day(salts)
    ready, ids = threading.Barrier(8), set()

    def work(number):
        ready.wait()
        ids.add(visitor(processor))

    assert in_threads(8, work) == []
    assert ids == {visitor(processor)}


def test_an_event_with_an_id_keeps_it(salts):
    processor = daily_visitor(salts)
    assert (visitor(processor, anonymousId="a"), visitor(processor, userId="u"), visitor(processor, userId=7)) == (
        "a",
        None,
        None,
    )


@pytest.fixture
def open_client(make_client, salts):
    """A client of an endpoint where no id is needed."""
    return lambda *more: make_client(require_anonymous_id=False, processors=[daily_visitor(salts), *more])


@pytest.mark.parametrize("ids", ["", "&anonymousId=", "&anonymousId=%20&userId=%09", "&anonymousId=%22%22"])
def test_a_pixel_without_any_id_gets_one(open_client, events, ids):
    open_client().get(PIXEL + ids)
    assert uuid.UUID(events[0]["anonymousId"]).version == 8


def test_a_pixel_with_an_id_keeps_it(open_client, events):
    client = open_client()
    client.get(f"{PIXEL}&anonymousId=a")
    client.get(f"{PIXEL}&userId=u")
    assert [(event.get("anonymousId"), event.get("userId")) for event in events] == [("a", None), (None, "u")]


def test_a_head_without_any_id_is_answered_like_its_get(open_client, events):
    assert (open_client().head(PIXEL).status_int, events) == (200, [])


@pytest.mark.parametrize(
    "options",
    [
        {"require_anonymous_id": False},
        {"require_anonymous_id": False, "processors": [lambda event, request: event]},
        {"processors": "daily"},
        {},
    ],
    ids=["alone", "with another processor", "required", "neither"],
)
def test_a_pixel_without_any_id_is_refused_unless_both_were_asked_for(make_client, events, salts, options):
    if options.get("processors") == "daily":
        options = {"processors": [daily_visitor(salts)]}
    answer = make_client(**options).get(PIXEL.replace(".gif", ""), status=400)
    assert (answer.headers["X-Pixel-Error"], events) == ("missing_anonymous_id", [])


class counter:
    """A processor of a user's own that gives ids."""

    gives_anonymous_id = True

    def __call__(self, event, request):
        return event | {"anonymousId": "visitor 1"}


def test_a_processor_of_ones_own_may_give_ids(make_client, events):
    make_client(require_anonymous_id=False, processors=[counter()]).get(PIXEL)
    assert events[0]["anonymousId"] == "visitor 1"


def test_what_else_is_missing_is_still_refused(open_client):
    assert open_client().get("/pixel/v1/page", status=400).headers["X-Pixel-Error"] == "missing_write_key"
    assert open_client().get("/pixel/v1/track?writeKey=k", status=400).headers["X-Pixel-Error"] == "missing_event"


@pytest.mark.parametrize(("forget", "kept"), [(anonymize_ip, "203.0.113.0"), (drop_ip, "")])
def test_the_address_can_be_forgotten_behind_it(open_client, events, forget, kept):
    client = open_client(forget)
    for address in ("203.0.113.1", "203.0.113.2", "203.0.113.1"):
        client.get(PIXEL, extra_environ={"REMOTE_ADDR": address})
    first, second, third = (event["anonymousId"] for event in events)
    assert (first == second, first == third) == (False, True)
    assert {event["request_ip"] for event in events} == {kept}


def test_who_asks_not_to_be_tracked_gets_no_id(make_client, events, salts):
    client = make_client(require_anonymous_id=False, processors=[honor_gpc, daily_visitor(salts)])
    client.get(PIXEL, headers={"Sec-GPC": "1"})
    assert events == []


def test_a_replayed_event_of_an_older_day_is_not_linked_with_today(salts):
    processor = daily_visitor(salts)
    today = timestamp(datetime.now(UTC))[:10]
    assert visitor(processor, day="2020-02-02") != visitor(processor, day=today)


@pytest.mark.parametrize("path", [None, 7, ["salts"]])
def test_a_path_that_is_none_is_refused(path):
    with pytest.raises(ConfigurationError, match="path must be the path of a file, got"):
        daily_visitor(path)


def as_directory(salts):
    salts.mkdir()


def as_another_file(salts):
    salts.write_text("SECRET_KEY = 'x'\n")
    salts.chmod(0o600)


def as_cut(salts):
    daily_visitor(salts)
    os.truncate(salts, 60)


def as_readable(salts):
    daily_visitor(salts)
    salts.chmod(0o640)


def as_fifo(salts):
    os.mkfifo(salts, 0o600)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (as_directory, "Is a directory"),
        (as_another_file, "it is no file of daily_visitor's, and is left as it is"),
        (as_cut, "it is no file of daily_visitor's, and is left as it is"),
        (as_readable, "others may read it (mode 0640); use a new one"),
        (as_fifo, "it is no regular file"),
    ],
)
def test_a_file_that_cannot_hold_salts_stops_the_start(salts, spoil, reason):
    spoil(salts)
    before = salts.read_bytes() if salts.is_file() else None
    with pytest.raises(ConfigurationError) as caught:
        daily_visitor(salts)
    assert str(caught.value) == f"the salt file of daily_visitor cannot be used: {salts}: {reason}"
    assert (salts.read_bytes() if salts.is_file() else None) == before


def test_a_directory_that_is_missing_stops_the_start(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        daily_visitor(tmp_path / "no" / "salts")


def test_a_file_of_another_user_stops_the_start(salts):
    daily_visitor(salts)
    try:
        os.chown(salts, 12345, -1)
    except PermissionError:
        pytest.skip("only root can give a file away")
    with pytest.raises(ConfigurationError, match="it belongs to another user, who knows the salt"):
        daily_visitor(salts)


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    processor = daily_visitor("salts")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert visitor(processor) == visitor(daily_visitor(tmp_path / "salts"))


def test_a_deleted_file_is_an_outage_until_a_process_starts(open_client, events, salts):
    client = open_client()
    salts.unlink()
    client.get(PIXEL, status=503)
    client.get(f"{PIXEL}&userId=u")
    assert [event.get("userId") for event in events] == ["u"]
    other_process = daily_visitor(salts)
    client.get(
        PIXEL, headers={"Host": "example.com", "User-Agent": "Firefox"}, extra_environ={"REMOTE_ADDR": "192.0.2.1"}
    )
    assert events[1]["anonymousId"] == visitor(other_process, day=events[1]["receivedAt"][:10])


@pytest.mark.parametrize("content", [b"", b"\0" * 104, b"pixel-middleware daily salt 1 "])
def test_a_spoilt_file_never_gives_an_id_from_a_salt_that_can_be_guessed(salts, content):
    processor = daily_visitor(salts)
    identity, secret = visitor(processor), secret_in(salts)
    salts.write_bytes(content)
    if content:
        with pytest.raises(StorageError, match="it is no file of daily_visitor's"):
            visitor(processor)
        assert salts.read_bytes() == content
    else:  # as a process leaves it that was killed between making and filling it
        assert (visitor(processor) == identity, secret_in(salts) == secret) == (False, False)


def test_a_salt_that_was_shown_to_others_is_given_up(salts):
    processor = daily_visitor(salts)
    salts.chmod(0o644)
    with pytest.raises(StorageError, match=r"others may read it \(mode 0644\)"):
        visitor(processor)


def test_a_file_system_that_became_read_only_serves_until_midnight(tmpfs):
    salts = tmpfs / "salts"
    processor = daily_visitor(salts)
    identity = visitor(processor)
    subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], check=True)
    try:
        assert visitor(processor) == identity
        with pytest.raises(ConfigurationError, match="Read-only file system"):
            daily_visitor(salts)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(tmpfs)], check=True)


def test_a_read_only_file_at_midnight_is_an_outage(tmpfs, clock):
    processor = daily_visitor(tmpfs / "salts")
    subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], check=True)
    try:
        clock(NOON + DAY_S)
        with pytest.raises(StorageError, match="Read-only file system"):
            visitor(processor)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(tmpfs)], check=True)


@pytest.fixture
def documented(events, salts):
    """What the code in docs/how-to/visitors.md defines."""
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "visitors.md").read_text("utf-8")
    names = {"PixelMiddleware": PixelMiddleware, "sink": events.append, "app": host_app}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block.replace("visitors.salt", str(salts)), names)
    return names


@pytest.mark.parametrize("framework", ["flask_app", "application", "pyramid_app", "django"])
def test_the_documented_cookie_recognises_a_browser_and_respects_gpc(documented, events, framework):
    app = documented[framework] if framework != "django" else PixelMiddleware(in_django(documented), events.append)
    client = webtest.TestApp(app)
    pages = [client.get("/", extra_environ={"wsgi.url_scheme": "https"}) for _ in range(2)]
    assert pages[0].headers["Set-Cookie"].lower().count("secure") == 1
    for page in pages:
        client.get(unescape(re.search('src="https://example.com([^"]+)"', page.text)[1]))
    first, second = (event["anonymousId"] for event in events)
    assert (first == second, uuid.UUID(first).version) == (True, 4)
    asked_not_to = webtest.TestApp(app).get("/", headers={"Sec-GPC": "1"})
    assert ("<img" in asked_not_to.text, "Set-Cookie" in asked_not_to.headers) == (False, False)


def in_django(documented):
    """The documented view as a WSGI app; Django's own needs settings of a whole site."""
    if not django_settings.configured:
        django_settings.configure()

    def app(environ, start_response):
        response = documented["django_home"](WSGIRequest(environ))
        headers = [*response.items(), *(("Set-Cookie", one.OutputString()) for one in response.cookies.values())]
        start_response("200 OK", [(name, text) for name, text in headers])
        return [response.content]

    return app


def test_the_documented_session_id_tells_sessions_apart_and_gives_none_away(documented):
    of = documented["visitor_of_session"]
    assert (of("a") == of("a"), of("a") == of("b"), "a-session" in of("a-session")) == (True, False, False)


def test_the_documented_noscript_pixel_is_accepted(documented, events):
    webtest.TestApp(documented["app"]).get(PIXEL)
    assert uuid.UUID(events[0]["anonymousId"]).version == 8
