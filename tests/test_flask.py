"""Flask, which finds the pixels as it finds any extension."""

import pytest
from flask import Flask

from pixel_middleware import ConfigurationError, PixelMiddleware
from pixel_middleware.frameworks.flask import Pixels

TRACK = "/pixel/v1/track?writeKey=k&anonymousId=a&event=e"

collected = []
"""What the configurations below hand events to."""

collect = collected.append


@pytest.fixture
def app():
    collected.clear()
    app = Flask(__name__)
    app.add_url_rule("/", view_func=lambda: "page")
    return app


def test_the_app_stays_the_app_and_its_test_client_sees_pixels(app, events):
    Pixels(app, events.append, write_keys=["k"])
    client = app.test_client()
    assert (type(app), client.get("/").text, client.get(TRACK).text) == (Flask, "page", "OK")
    assert client.get(TRACK.replace("=k", "=l")).headers["X-Pixel-Error"] == "invalid_write_key"
    assert [event["event"] for event in events] == ["e"]
    stats = app.extensions["pixels"].stats()
    assert stats == {"accepted": 1, "dropped": 0, "failed": 0, "rejected": {"invalid_write_key": 1}}


def test_a_factory_configures_it_by_the_apps_config(app):
    app.config |= {"PIXELS_SINK": f"{__name__}:collect", "PIXELS_WRITE_KEYS": ["k"], "PIXELS_TRUSTED_PROXIES": 1}
    app.config |= {"PIXELS_RESPONSE": "gif", "PIXELS_MAX_DEPTH": "3"}
    pixels = Pixels(response="text")
    pixels.init_app(app)
    assert app.test_client().get(TRACK, headers={"X-Forwarded-For": "192.0.2.1"}).text == "OK"
    assert [event["request_ip"] for event in collected] == ["192.0.2.1"]
    refused = app.test_client().get(f"{TRACK}&properties.a.b.c=d")
    assert refused.headers["X-Pixel-Error"] == "too_deep"


def test_one_extension_serves_several_apps_each_with_its_own_counts(app, events):
    pixels = Pixels(sink=events.append)
    other = Flask("other")
    for each in (app, other):
        pixels.init_app(each)
    other.test_client().get(TRACK)
    counts = [each.extensions["pixels"].stats()["accepted"] for each in (app, other)]
    assert (counts, len(events)) == ([0, 1], 1)


def test_the_environment_may_configure_it(app, monkeypatch):
    monkeypatch.setenv("FLASK_PIXELS_SINK", f"{__name__}:collect")
    monkeypatch.setenv("FLASK_PIXELS_WRITE_KEYS", '["k", "l"]')
    monkeypatch.setenv("FLASK_PIXELS_BEACONS", "true")
    app.config.from_prefixed_env()
    Pixels(app)
    assert app.test_client().post(TRACK.replace("=k", "=l")).text == "OK"
    assert [event["writeKey"] for event in collected] == ["l"]


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({}, "set either sink or output"),
        ({"PIXELS_SINK": print, "PIXELS_WRITEKEYS": ["k"]}, "unknown option 'writekeys'; did you mean write_keys"),
        ({"PIXELS_SINK": print, "PIXELS_TRUSTED_PROXIES": -1}, "trusted_proxies must be a whole number"),
        ({"PIXELS_SINK": "nowhere:sink"}, "sink must be package.module:name of something to import"),
    ],
)
def test_a_wrong_option_names_itself_and_what_is_right(app, config, error):
    app.config |= config
    with pytest.raises(ConfigurationError, match=error):
        Pixels(app)
    assert not isinstance(app.wsgi_app, PixelMiddleware)


def test_an_app_that_has_its_pixels_is_not_wrapped_again(app, events):
    pixels = Pixels(app, events.append)
    with pytest.raises(ConfigurationError, match="call init_app once for each app"):
        pixels.init_app(app)
    app.test_client().get(TRACK)
    assert len(events) == 1
