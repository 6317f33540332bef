"""Fixtures: an app to wrap, a list as sink, and WebTest with its linting on."""

import os
import socket
import subprocess
import threading

import pytest
import webtest

from pixel_middleware import PixelMiddleware
from pixel_middleware import events as events_module


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


@pytest.fixture
def make_event():
    """A track event, as the middleware makes it."""

    def make(name="e", write_key="k", **sent):
        sent = {"writeKey": write_key, "anonymousId": "a", "event": name} | sent
        return events_module.make_event("track", sent, events_module.Visit("192.0.2.1", "tests"))

    return make


@pytest.fixture
def in_threads():
    """Calls `work(number)` in several threads at once, and returns what they raised."""

    def run(count, work):
        errors = []

        def guarded(number):
            try:
                work(number)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return errors

    return run


@pytest.fixture
def in_child():
    """Runs `work()` in a forked child, which must end well."""

    def run(work):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                work()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    return run


@pytest.fixture
def tmpfs(tmp_path):
    """A file system of 1 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(mount)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)
