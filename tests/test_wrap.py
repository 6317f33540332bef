"""What docs/how-to/wrap.md says of each framework."""

import re

import bottle
import pytest
import webtest
from asgi_driver import as_wsgi
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings
from processes import TESTS

TRACK = "/pixel/v1/track?writeKey=key-of-the-shop&anonymousId=a&event=e"


@pytest.fixture
def documented(events):
    """What the page's code defines; its sink is `events.append`."""
    names = {"log": events.append}
    page = (TESTS.parent / "docs" / "how-to" / "wrap.md").read_text("utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    (email,) = events
    assert (email["event"], email["properties"]) == ("Email Sent", {"mail": "welcome"})
    events.clear()
    return names


@pytest.mark.parametrize("name", ["asgi_app", "pyramid_app", "flask_app", "factory_app", "bottle_app", "mounted_app"])
def test_the_documented_app_collects_pixels_and_answers_all_else_itself(documented, events, name):
    app = documented[name]
    client = webtest.TestApp(as_wsgi(app) if name == "asgi_app" else app)
    assert client.get(TRACK).body == b"OK"
    assert "X-Pixel-Error" not in client.get("/none-of-ours", status=404).headers
    assert [event["event"] for event in events] == ["e"]


def test_the_documented_django_settings_do_too(documented, events):
    if not settings.configured:
        settings.configure()
    pixels = documented["PIXELS"] | {"sink": events.append}
    with override_settings(MIDDLEWARE=documented["MIDDLEWARE"], PIXELS=pixels, ROOT_URLCONF=(), ALLOWED_HOSTS=["*"]):
        client = webtest.TestApp(WSGIHandler())
        assert client.get(TRACK).body == b"OK"
        assert "X-Pixel-Error" not in client.get("/none-of-ours", status=404).headers
    assert [event["event"] for event in events] == ["e"]


def test_a_documented_app_still_has_what_its_framework_gives_it(documented):
    assert documented["pyramid_app"].registry["pixels"].stats()["accepted"] == 0
    assert documented["flask_app"].test_client().get(TRACK).text == "OK"
    assert documented["flask_app"].extensions["pixels"].stats()["accepted"] == 1
    assert documented["bottle_app"].app.routes == []


def test_a_bottle_plugin_would_see_no_pixel():
    """Why the page says to wrap: Bottle calls a plugin around a route alone."""
    called = []
    app = bottle.Bottle()
    app.install(lambda callback: lambda *given, **named: called.append("plugin") or callback(*given, **named))
    app.route("/", callback=lambda: "page")
    client = webtest.TestApp(app)
    client.get("/")
    client.get(TRACK, status=404)
    assert called == ["plugin"]
