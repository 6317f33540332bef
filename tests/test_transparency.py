"""What is not a pixel passes through as if the middleware were not there."""

import functools
import io
import sys
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest
import webtest
from conftest import host_app
from webob import Request

from pixel_middleware import PixelMiddleware


class Closable:
    """A generator-like body that knows whether it was closed."""

    def __init__(self):
        self.closed = False
        self.chunks = iter([b"a", b"b"])

    def __iter__(self):
        return self.chunks

    def close(self):
        self.closed = True


def uses_write(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"written, ")
    return [b"returned"]


def yields(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"one, "
    yield b"two"


def wraps_a_file(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"a file"))


def replaces_its_answer(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        raise ValueError("too late")
    except ValueError:
        start_response("500 Oops", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"sorry"]


def echoes_its_mount(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}|{environ['wsgi.input'].read()}".encode("latin-1")]


def conversation(app, **extra):
    """All that a server sees of one request."""
    environ = {"wsgi.file_wrapper": FileWrapper, "SCRIPT_NAME": "", "PATH_INFO": "/x", **extra}
    setup_testing_defaults(environ)
    environ["wsgi.input"] = io.BytesIO(b"body")
    seen = []

    def start_response(status, headers, exc_info=None):
        seen.append((status, headers, exc_info and str(exc_info[1])))
        return seen.append

    body = app(environ, start_response)
    return [*seen, *body], type(body)


APPS = [uses_write, yields, wraps_a_file, replaces_its_answer, echoes_its_mount]


@pytest.mark.parametrize("app", APPS, ids=[app.__name__ for app in APPS])
@pytest.mark.parametrize(
    "extra", [{}, {"PATH_INFO": "/\xff\xfe"}, {"SCRIPT_NAME": "/mounted/pixel/v1"}, {"REQUEST_METHOD": "POST"}]
)
def test_the_server_sees_the_same_conversation(app, extra):
    assert conversation(PixelMiddleware(app, print), **extra) == conversation(app, **extra)


def test_an_exception_is_the_host_apps_own():
    error = ValueError("mine")

    def raises(environ, start_response):
        raise error

    with pytest.raises(ValueError, match="mine") as caught:
        PixelMiddleware(raises, print)({"PATH_INFO": "/"}, print)
    assert caught.value is error


def test_the_app_gets_the_same_objects_with_the_same_content():
    body, seen = Closable(), []

    def app(*args):
        seen.append(args)
        return body

    environ = {"PATH_INFO": "/x"}
    assert PixelMiddleware(app, print)(environ, print) is body
    assert (seen[0][0] is environ, seen[0][1] is print, environ) == (True, True, {"PATH_INFO": "/x"})


def test_an_app_may_be_what_a_decorator_makes_of_a_view():
    """As Werkzeug's `Request.application` does: its name and its signature are the view's."""

    def view(request):
        return f"hello {request.remote_addr}".encode()

    @functools.wraps(view)
    def app(*arguments):
        environ, start_response = arguments
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [view(Request(environ))]

    client = webtest.TestApp(PixelMiddleware(app, print), lint=True)
    assert client.get("/", extra_environ={"REMOTE_ADDR": "192.0.2.1"}).text == "hello 192.0.2.1"


def test_an_environ_without_a_path_passes_through():
    assert PixelMiddleware(lambda environ, start_response: [b"host"], print)({}, print) == [b"host"]


def test_close_reaches_the_apps_body():
    body = Closable()

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body

    assert webtest.TestApp(PixelMiddleware(app, print), lint=True).get("/").body == b"ab"
    assert body.closed


def test_both_sides_keep_to_the_wsgi_specification():
    app = webtest.TestApp(validator(PixelMiddleware(validator(host_app), print)), lint=True)
    assert app.get("/").text == "host"
    assert app.get("/pixel/v1/page?writeKey=k&anonymousId=a").text == "OK"


def test_a_mounted_middleware_finds_its_pixels(client, events):
    client.get("/pixel/v1/page?writeKey=k&anonymousId=a", extra_environ={"SCRIPT_NAME": "/shop"}, status=200)
    assert len(events) == 1
