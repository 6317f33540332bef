"""Django, whose test client and live server go through `MIDDLEWARE` and not through wsgi.py."""

import asyncio
import unittest
import urllib.request

import django
import pytest
import webtest
from asgi_driver import as_wsgi
from conftest import host_app
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse
from django.test import AsyncClient, Client, LiveServerTestCase, override_settings
from django.urls import path
from processes import PATIENCE_S

from pixel_middleware import PixelMiddleware
from pixel_middleware.sinks import EventLog

TRACK = "/pixel/v1/track?writeKey=k&anonymousId=a&event=e"
OURS = "pixel_middleware.frameworks.django.PixelMiddleware"

collected = []
"""What the settings below hand events to."""

collect = collected.append


async def collect_later(event):
    await asyncio.sleep(0)
    collected.append(event)


def drop(event, request):
    return None


def page(request):
    return HttpResponse("page")


async def async_page(request):
    return HttpResponse("page")


def plain_middleware(get_response):
    """One that takes no async requests, so that Django calls what is below it in a thread."""
    return lambda request: get_response(request)


urlpatterns = [path("", page), path("async", async_page)]


@pytest.fixture
def site():
    """Settings of a site with one page and these pixels."""
    collected.clear()
    if not settings.configured:
        settings.configure()
    django.setup()

    def site(middleware=(OURS,), **pixels):
        given = {"sink": f"{__name__}.collect"} | pixels
        return override_settings(
            ROOT_URLCONF=__name__,
            ALLOWED_HOSTS=["*"],
            STATIC_URL="/static/",
            MIDDLEWARE=middleware,
            PIXELS={name: value for name, value in given.items() if value is not None},
        )

    return site


def test_the_test_client_sees_pixels(site):
    with site(write_keys=["k"]):
        client = Client()
        pixel = client.get(TRACK, REMOTE_ADDR="192.0.2.1", HTTP_USER_AGENT="tests")
        refused = client.get(TRACK.replace("=k", "=l"))
        assert (client.get("/").content, pixel.content, refused.status_code) == (b"page", b"OK", 400)
    assert [(event["event"], event["request_ip"], event["context"]) for event in collected] == [
        ("e", "192.0.2.1", {"ip": "192.0.2.1", "userAgent": "tests"})
    ]


@pytest.mark.parametrize(
    ("below", "sink"),
    [((), "collect"), ((), "collect_later"), ((f"{__name__}.plain_middleware",), "collect")],
    ids=["plain sink", "async sink", "sync middleware below"],
)
def test_the_async_test_client_sees_them_too(site, below, sink):
    async def visit():
        client = AsyncClient()
        target = f"{TRACK}&properties.word=%C3%BC"
        answers = [await client.get(each) for each in ("/", "/async", target, TRACK.partition("&")[0])]
        return [(answer.status_code, answer.content) for answer in answers]

    with site((OURS, *below), sink=f"{__name__}.{sink}"):
        *good, bad = asyncio.run(visit())
    assert (good, bad[0]) == ([(200, b"page"), (200, b"page"), (200, b"OK")], 400)
    assert [(event["request_ip"], event["properties"]) for event in collected] == [("127.0.0.1", {"word": "ü"})]


def test_an_async_request_may_come_by_a_thread(site):
    with site((f"{__name__}.plain_middleware", OURS)):
        assert asyncio.run(AsyncClient().get(TRACK)).content == b"OK"
    assert len(collected) == 1


def test_live_servers_see_them(site):
    class Live(LiveServerTestCase):
        databases = frozenset()

        def test_pixel(self):
            with urllib.request.urlopen(self.live_server_url + TRACK, timeout=PATIENCE_S) as answer:
                assert answer.read() == b"OK"

    with site():
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(Live).run(result)
    assert (result.testsRun, result.errors, result.failures, len(collected)) == (1, [], [], 1)


@pytest.mark.parametrize("handler", [WSGIHandler, ASGIHandler])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
@pytest.mark.parametrize(
    "target", ["/pixel/v1/track?writeKey=k&anonymousId=a&event=e", "/pixel/v1/page.gif", "/pixel/v1/amp.json"]
)
def test_answers_are_those_of_the_middleware(site, handler, method, target):
    other = webtest.TestApp(PixelMiddleware(host_app, collect, amp=True), lint=True)
    with site(amp=True):
        app = as_wsgi(handler()) if handler is ASGIHandler else handler()
        own = webtest.TestApp(app, lint=True)
        answers = [each.request(target, method=method, status="*") for each in (own, other)]
    assert len({(answer.status, answer.body, *sorted(answer.headerlist)) for answer in answers}) == 1


def test_processors_may_be_named_and_a_file_may_take_the_events(site, tmp_path):
    with site(processors=[f"{__name__}:drop"]):
        Client().get(TRACK)
    with site(sink=None, output=tmp_path / "events.db"):
        Client().get(TRACK)
    log = EventLog(tmp_path / "events.db")
    assert (log.stats()["events"], collected) == (1, [])
    log.close()


WRONG = [
    ({"sink": None}, "set either sink or output"),
    ({"writekeys": ["k"]}, "unknown option 'writekeys'; did you mean write_keys?"),
    ({"trusted_proxies": -1}, "trusted_proxies must be a whole number of at least 0, got -1"),
    ({"sink": "shop.nowhere"}, "sink must be package.module:name of something to import"),
    ({"processors": ["shop.nowhere"]}, "processors must be package.module:name of something to import"),
]


@pytest.mark.parametrize(("pixels", "error"), WRONG)
def test_a_wrong_setting_is_told_by_the_system_check_and_stops_the_start(site, pixels, error):
    with site(**pixels), override_settings(INSTALLED_APPS=["pixel_middleware.frameworks.django.PixelsConfig"]):
        (told,) = checks.run_checks(include_deployment_checks=False)
        assert (told.id, told.level) == ("pixels.E001", checks.ERROR)
        assert error in told.msg
        with pytest.raises(ImproperlyConfigured) as stopped:
            Client().get("/")
        assert error in str(stopped.value)


def test_the_check_is_silent_where_all_is_right_and_says_if_there_is_no_setting(site):
    with override_settings(INSTALLED_APPS=["pixel_middleware.frameworks.django.PixelsConfig"]):
        with site():
            assert checks.run_checks() == []
        (told,) = checks.run_checks()
        assert 'PIXELS must be a dict like {"sink": "shop.analytics.log"}, got None' in told.msg
