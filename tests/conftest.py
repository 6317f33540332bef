"""Fixtures: an app to wrap, a list as sink, and WebTest with its linting on."""

import socket

import pytest
import webtest

from pixel_middleware import PixelMiddleware


def host_app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"host"]


@pytest.fixture
def events():
    return []


@pytest.fixture
def make_client(events):
    """A WebTest client of the wrapped host app; options go to the middleware."""

    def make(sink=None, app=host_app, **options):
        return webtest.TestApp(PixelMiddleware(app, sink or events.append, **options), lint=True)

    return make


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
