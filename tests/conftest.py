"""Fixtures: an app to wrap, a list as sink, and WebTest with its linting on."""

import os
import signal
import socketserver
import subprocess
import sys
import threading
from contextlib import ExitStack, closing
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import asgi_driver
import coverage_lock  # noqa: F401, before anything that forks
import processes
import pytest
import webtest
from hypothesis import HealthCheck, settings

from pixel_middleware import PixelMiddleware, asgi
from pixel_middleware import events as events_module
from pixel_middleware.sinks import EventLog

# What a machine is busy with must fail no test.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# A shell starts what runs in the background deaf to SIGINT, and so would be the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REAL = {"popen", "run", "tmpfs", "broker", "browser"}
"""Fixtures that make a test one of real programs or file systems: `pytest -m "not real"` leaves it out."""


def pytest_collection_modifyitems(items):
    for item in items:
        if REAL.intersection(item.fixturenames):
            item.add_marker(pytest.mark.real)


def host_app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"host"]


@pytest.fixture
def events():
    return []


@pytest.fixture
def face():
    """Which face the clients of a test reach; a test that is parametrized with it runs through both."""
    return "wsgi"


@pytest.fixture
def make_client(events, face):
    """A WebTest client of the wrapped host app; options go to the middleware."""

    def make(sink=None, app=host_app, **options):
        sink = sink or events.append
        if face == "asgi, no thread":
            sink = asgi_driver.Soon(sink)
        if face != "wsgi":
            wrapped = asgi_driver.as_wsgi(asgi.PixelMiddleware(asgi_driver.as_asgi(app), sink, **options))
        else:
            wrapped = PixelMiddleware(app, sink, **options)
        return webtest.TestApp(wrapped, lint=True)

    return make


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture
def new_port():
    """Gives ports that are free, and stay so for the test."""
    with ExitStack() as reservations:
        yield lambda: reservations.enter_context(processes.reserved_port())


@pytest.fixture
def free_port(new_port):
    return new_port()


@pytest.fixture
def log(tmp_path):
    """An event log on a file of its own, without destinations."""
    with closing(EventLog(tmp_path / "events.db")) as log:
        yield log


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

        threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(count)]
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
                os.setsid()
                work()
                code = 0
            finally:
                os._exit(code)
        processes.GUARD.watch(pid)
        try:
            status = os.waitpid(pid, 0)[1]
        finally:
            processes.signal_group(pid, signal.SIGKILL)  # if it hangs, and the test's time is up
            processes.GUARD.forget(pid)
        assert os.waitstatus_to_exitcode(status) == 0

    return run


@pytest.fixture
def tmpfs(tmp_path):
    """A file system of 1 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(mount)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    processes.GUARD.watch(mount)
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)
    processes.GUARD.forget(mount)


@pytest.fixture
def popen(tmp_path):
    """Starts a program, and ends it with the test. What it says is in `output.log`, unless it is to be piped."""
    with ExitStack() as programs, (tmp_path / "output.log").open("a") as log:

        def popen(command, **options):
            options = {"stdout": log, "stderr": log} | options
            return programs.enter_context(processes.Program(command, **options))

        yield popen


@pytest.fixture
def start(popen):
    """Starts a Python program, by its command line and further environment, and ends it with the test."""

    def start(*command, **environment):
        environment = os.environ | {"PYTHONPATH": str(processes.TESTS), "PYTHONDEVMODE": ""} | environment
        return popen([sys.executable, *command], env=environment)

    return start


@pytest.fixture
def run():
    """Runs a program to its end, and returns what it did, as `subprocess.run` does, with its output as text."""
    return processes.run


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each connection: browsers open idle ones, which would block the only thread."""

    daemon_threads = True


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *message):
        pass


@pytest.fixture
def serve():
    """Serves an app on a free port of ours; returns the port."""
    servers = []

    def serve(app):
        server = make_server("127.0.0.1", 0, app, Server, QuietHandler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
        return server.server_port

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def pixel():
    """Runs a command in this process, and returns what it printed."""
    from click.testing import CliRunner  # the core's own tests run without it

    from pixel_middleware.commands.cli import cli

    def run(*arguments, fails=False):
        done = CliRunner().invoke(cli, [*map(str, arguments)])
        assert (done.exit_code != 0) == fails, (done.output, done.exception)
        return done.output

    return run
