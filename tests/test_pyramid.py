"""Pyramid, by `config.include` and by settings; the app that it makes stays its own."""

import pytest
import webtest
from conftest import host_app
from processes import until
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError, ConfigurationExecutionError
from pyramid.response import Response
from pyramid.router import Router

from pixel_middleware import ConfigurationError, PixelMiddleware, pixel_url
from pixel_middleware.frameworks.paste import live_filter_factory
from pixel_middleware.sinks import EventLog

TRACK = "/pixel/v1/track?writeKey=k&anonymousId=a&event=e"

collected = []
"""What the settings below hand events to."""

collect = collected.append


def drop(event, request):
    return None


reached = []


def inner_tween(handler, registry):
    def tween(request):
        reached.append(request.path)
        return handler(request)

    return tween


@pytest.fixture
def make_config():
    """A configurator of an app with one page, with these settings."""
    collected.clear()
    reached.clear()

    def make(**settings):
        config = Configurator(settings={f"pixel.{name}": value for name, value in settings.items()})
        config.include("pixel_middleware")
        config.add_route("home", "/")
        config.add_view(lambda request: Response("page"), route_name="home")
        return config

    return make


def test_a_directive_adds_the_pixels_and_the_app_stays_pyramids(make_config, events):
    config = make_config()
    config.add_pixels(events.append, write_keys=["k"])
    app = config.make_wsgi_app()
    client = webtest.TestApp(app, lint=True)
    assert (type(app), client.get("/").text, client.get(TRACK).text) == (Router, "page", "OK")
    assert client.get(TRACK.replace("=k", "=l"), status=400).headers["X-Pixel-Error"] == "invalid_write_key"
    assert [event["event"] for event in events] == ["e"]
    stats = app.registry["pixels"].stats()
    assert stats == {"accepted": 1, "dropped": 0, "failed": 0, "rejected": {"invalid_write_key": 1}}


def test_settings_alone_do_too(make_config):
    settings = {"sink": f"{__name__}:collect", "write_keys": "k l", "response": "gif", "beacons": "true"}
    client = webtest.TestApp(make_config(**settings).make_wsgi_app(), lint=True)
    assert client.get(TRACK).content_type == client.post(TRACK).content_type == "image/gif"
    assert len(collected) == 2


def test_without_settings_and_directive_there_are_none(make_config):
    webtest.TestApp(make_config().make_wsgi_app(), lint=True).get(TRACK, status=404)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
@pytest.mark.parametrize("target", ["track?writeKey=k&anonymousId=a&event=e", "page.gif", "page", "amp.json", "other"])
def test_answers_are_those_of_the_middleware(make_config, method, target):
    config = make_config()
    config.add_pixels(print, amp=True)
    own = webtest.TestApp(config.make_wsgi_app(), lint=True)
    other = webtest.TestApp(PixelMiddleware(host_app, print, amp=True), lint=True)
    answers = [app.request(f"/pixel/v1/{target}", method=method, status="*") for app in (own, other)]
    assert len({(answer.status, answer.body, *sorted(answer.headerlist)) for answer in answers}) == 1


def test_the_tween_is_above_those_added_before_and_below_a_mount(make_config, events):
    config = make_config()
    config.add_tween(f"{__name__}.inner_tween")
    config.add_pixels(events.append)
    client = webtest.TestApp(config.make_wsgi_app(), lint=True)
    client.get(TRACK, extra_environ={"SCRIPT_NAME": "/shop"})
    client.get("/")
    assert (reached, len(events)) == (["/"], 1)


def test_processors_may_be_named_in_a_list(make_config, events):
    config = make_config()
    config.add_pixels(events.append, processors=[f"{__name__}:drop"])
    app = config.make_wsgi_app()
    assert (webtest.TestApp(app, lint=True).get(TRACK).text, app.registry["pixels"].stats()["dropped"]) == ("OK", 1)


def test_a_file_may_take_the_events_and_is_started_with_the_app(make_config, tmp_path):
    app = make_config(output=str(tmp_path / "events.db")).make_wsgi_app()
    webtest.TestApp(app, lint=True).get(pixel_url("http://x", "page", write_key="k", anonymous_id="a")[8:])
    log = EventLog(tmp_path / "events.db")
    assert log.stats()["events"] == 1
    log.close()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"write_keys": "k"}, "set either sink or output"),
        ({"sink": print, "writekeys": "k"}, r"unknown option 'writekeys'; did you mean write_keys\?"),
        ({"sink": print, "max_depth": "0"}, "max_depth must be a whole number of at least 1"),
        ({"output": "events.txt"}, "output must be a file whose name ends in .db"),
    ],
)
def test_a_wrong_setting_stops_the_start_and_names_what_is_right(make_config, settings, error):
    with pytest.raises((ConfigurationError, ConfigurationExecutionError), match=error):
        make_config(**settings).make_wsgi_app()


def test_two_calls_are_a_conflict(make_config):
    config = make_config()
    for sink in (print, repr):
        config.add_pixels(sink)
    with pytest.raises(ConfigurationConflictError):
        config.make_wsgi_app()


def test_the_live_view_around_it_sees_what_its_tween_answers(make_config, tmp_path):
    app = make_config(output=str(tmp_path / "events.db")).make_wsgi_app()
    watched = webtest.TestApp(live_filter_factory(app, {}, log=str(tmp_path / "events.db")), lint=True)
    watched.get(TRACK)
    watched.get(TRACK.replace("event=e", ""), status=400)
    token = {"Authorization": f"Bearer {watched.app.live_token}"}

    def outcomes():
        return sorted(entry["outcome"] for entry in watched.get("/pixel/live/feed", headers=token).json["entries"])

    until(lambda: outcomes() == ["accepted", "rejected"], "both")
