"""The ini file of a Paste deployment: every option, read from text."""

import sqlite3
from contextlib import closing
from textwrap import dedent

import pytest
import webtest
from dataplane import DataPlane
from paste.deploy import loadapp
from processes import until

from pixel_middleware import ConfigurationError
from pixel_middleware.frameworks.paste import filter_app_factory, live_filter_factory
from pixel_middleware.sinks import EventLog

events = []
"""What the ini files below hand events to."""

collect = events.append


def drop(event, request):
    return None


def demo_app(global_conf, **local_conf):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
        return [b"host"]

    return app


HERE = __name__

INI = f"""
[filter:pixels]
use = egg:pixel-middleware
sink = {HERE}:collect
%s

[app:main]
paste.app_factory = {HERE}:demo_app
filter-with = pixels
"""


@pytest.fixture
def load(tmp_path):
    """The app of an ini file whose section on pixels has these lines."""

    def load(lines=""):
        (tmp_path / "app.ini").write_text(INI % dedent(lines).strip())
        return webtest.TestApp(loadapp(f"config:{tmp_path}/app.ini"), lint=True)

    events.clear()
    return load


PIXEL = "/pixel/v1/track?writeKey=k&anonymousId=a&event=e"


def test_an_ini_file_wraps_an_app(load):
    client = load()
    assert (client.get("/").body, client.get(PIXEL).body) == (b"host", b"OK")
    assert [event["event"] for event in events] == ["e"]


def test_every_option_can_be_given(load):
    client = load(
        f"""
        prefix = /p
        response = gif
        write_keys = k, l
        require_anonymous_id = No
        processors = {HERE}:drop
        trusted_proxies = 1
        amp = true
        beacons = true
        max_query_bytes = 100
        max_params = 10
        max_depth = 3
        """
    )
    assert client.get("/p/track?writeKey=k&userId=u&event=e").content_type == "image/gif"
    assert client.get("/p/amp.json").content_type == "application/json"
    assert client.post("/p/track?writeKey=k&userId=u&event=e").content_type == "image/gif"
    reasons = [
        client.get(f"/p/track?userId=u&event=e&{more}", status=400).headers["X-Pixel-Error"]
        for more in ["writeKey=no", f"a={'x' * 100}", "&".join(["a"] * 9), "writeKey=k&properties.a.b.c=d"]
    ]
    assert reasons == ["invalid_write_key", "query_too_long", "too_many_parameters", "too_deep"]
    assert events == []


def is_known(key):
    return key == "k"


def test_write_keys_may_name_a_callable(load):
    client = load(f"write_keys = {HERE}:is_known")
    client.get(PIXEL)
    client.get(PIXEL.replace("writeKey=k", "writeKey=l"), status=400)


def test_a_file_may_be_the_sink(tmp_path):
    app = filter_app_factory(demo_app({}), {}, output=str(tmp_path / "events.db"))
    webtest.TestApp(app, lint=True).get(PIXEL)
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (1,)


def test_a_file_may_be_forwarded(tmp_path):
    with DataPlane() as plane:
        app = filter_app_factory(demo_app({}), {}, output=str(tmp_path / "events.db"), forward_to=plane.url)
        webtest.TestApp(app, lint=True).get(PIXEL)
        until(lambda: plane.stored, "the event")
        assert plane.stored[0]["event"] == "e"


SINK = {"sink": f"{HERE}:collect"}


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (SINK | {"max_dept": "3"}, r"unknown option 'max_dept'; did you mean max_depth\? The others are amp, "),
        (SINK | {"writekeys": "k"}, r"unknown option 'writekeys'; did you mean write_keys\?"),
        (SINK | {"amp": "maybe"}, "amp must be true or false, got 'maybe'"),
        (SINK | {"max_depth": "deep"}, "max_depth must be a whole number, got 'deep'"),
        (SINK | {"max_depth": "0"}, "max_depth must be a whole number of at least 1 and at most 200, got 0"),
        (SINK | {"response": "jpeg"}, 'response must be "auto", "text" or "gif", got \'jpeg\''),
        ({"sink": "no_such_module:name"}, "sink must be package.module:name of something to import .*no_such_module"),
        ({"sink": f"{HERE}:nothing"}, "sink must be package.module:name .*nothing"),
        ({"sink": "a b"}, "sink must be package.module:name"),
        ({}, "set either sink or output"),
        (SINK | {"output": "events.db"}, "set either sink or output"),
        (SINK | {"forward_to": "https://plane.example"}, "forward_to needs output"),
        ({"output": "x.jsonl", "forward_to": "https://plane.example"}, "x.jsonl cannot be forwarded"),
        ({"output": "x.db", "forward_to": "ftp://plane.example"}, "forward_to must be the URL of a data plane"),
    ],
)
def test_a_wrong_option_names_itself_and_what_is_right(given, error):
    with pytest.raises(ConfigurationError, match=error):
        filter_app_factory(demo_app({}), {}, **given)


WATCHED = f"""
[filter:live]
use = egg:pixel-middleware#live
log = %(here)s/events.db
path = /seen
size = 2
allow = 192.0.2.0/24, 2001:db8::1

[filter:pixels]
use = egg:pixel-middleware
output = %(here)s/events.db
prefix = /px
filter-with = live

[app:main]
paste.app_factory = {HERE}:demo_app
filter-with = pixels
"""


def test_an_ini_file_shows_the_live_view_of_a_log(tmp_path):
    (tmp_path / "app.ini").write_text(WATCHED)
    client = webtest.TestApp(loadapp(f"config:{tmp_path}/app.ini"), lint=True)
    assert (client.get("/").body, client.get("/px/track?writeKey=k&anonymousId=a&event=e").body) == (b"host", b"OK")
    client.get("/px/track?writeKey=k&anonymousId=a", status=400)
    client.get("/seen/feed", status=403)
    with closing(EventLog(tmp_path / "events.db")) as log:
        token = log.secret("live_token")

    def outcomes():
        answer = client.get("/seen/feed", headers={"Authorization": f"Bearer {token}"}).json
        assert (answer["prefix"], answer["size"]) == ("/px", 2)
        return sorted(entry["outcome"] for entry in answer["entries"])

    until(lambda: outcomes() == ["accepted", "rejected"], "both")
    for address in ("192.0.2.7", "2001:db8::1"):
        client.get("/seen", extra_environ={"REMOTE_ADDR": address})


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, "set log to the file of the event log"),
        ({"log": "events.db", "size": "many"}, "size must be a whole number, got 'many'"),
        (
            {"log": "events.db", "pth": "/"},
            "unknown option 'pth'; the live view takes log, path, size, allow and",
        ),
        ({"log": "events.db", "path": "live"}, "path must be a path like"),
        ({"log": "events.db", "allow": "everybody"}, "allow must be networks like"),
    ],
)
def test_a_wrong_option_of_the_live_view_names_itself(given, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=error):
        live_filter_factory(demo_app({}), {}, **given)
