"""A plugin for pytest: says what becomes of each test, and puts the middleware around every app that a suite calls.

FOREIGN_RESULT=bare.json pytest -p wrapped
FOREIGN_RESULT=wrapped.json FOREIGN_WRAP=flask pytest -p wrapped
"""

import functools
import json
import os
from importlib import import_module

from pixel_middleware import PixelMiddleware

outcomes = {}
seen = {"conversations": 0, "events": 0}


def through_middleware(app):
    """The app, wrapped, which counts its requests."""
    wrapped = PixelMiddleware(app, lambda event: count("events"))

    def application(environ, start_response):
        count("conversations")
        return wrapped(environ, start_response)

    return application


def count(what):
    seen[what] += 1


def wrap_method(method):
    """Of an app: `method(self, environ, start_response)`. The object stays what it is; each call of it is wrapped."""

    @functools.wraps(method)
    def wrapped(self, environ, start_response):
        return through_middleware(functools.partial(method, self))(environ, start_response)

    return wrapped


def wrap_argument(position):
    """Of a function that takes an app as its argument at this position."""

    def wrap(function):
        @functools.wraps(function)
        def wrapped(*args, **options):
            before, app, after = args[:position], args[position], args[position + 1 :]
            return function(*before, through_middleware(app), *after, **options)

        return wrapped

    return wrap


PLACES = {
    "bottle": [("bottle", "Bottle.__call__", wrap_method)],
    "flask": [("flask", "Flask.wsgi_app", wrap_method)],
    "pyramid": [("pyramid.router", "Router.__call__", wrap_method)],
    "webtest": [
        ("webtest.lint", "middleware", wrap_argument(0)),
        ("webtest.app", "TestRequest.call_application", wrap_argument(1)),
    ],
    "werkzeug": [
        ("werkzeug.test", "run_wsgi_app", wrap_argument(0)),
        ("werkzeug.serving", "BaseWSGIServer.__init__", wrap_argument(3)),
    ],
}
"""Where each suite calls its apps: a module, a name in it, and what is wrapped there."""


def pytest_configure():
    for module, name, wrap in PLACES.get(os.environ.get("FOREIGN_WRAP"), ()):
        *path, last = name.split(".")
        holder = functools.reduce(getattr, path, import_module(module))
        setattr(holder, last, wrap(getattr(holder, last)))


def pytest_runtest_logreport(report):
    if report.outcome != "passed" or report.when == "call":
        outcomes[report.nodeid] = max(report.outcome, outcomes.get(report.nodeid, ""), key=["", *RANKS].index)


RANKS = ("passed", "skipped", "failed")


def pytest_sessionfinish():
    with open(os.environ["FOREIGN_RESULT"], "w") as file:
        json.dump({"outcomes": outcomes, "seen": seen}, file)
