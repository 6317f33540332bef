"""Development servers that reload: the process that serves is the one that delivers, with its own code."""

import itertools
import time
import urllib.error
import urllib.request

import pytest
from processes import PATIENCE_S, TESTS, until

APP = str(TESTS / "reloading_app.py")
SERVERS = {
    "flask run --debug": ("flask", ("-m", "flask", "--app", APP, "run", "--debug", "--port={port}")),
    "app.run(debug=True)": ("flask", (APP, "{port}")),
    "runserver": ("django", (APP, "runserver", "{port}")),
    "pserve --reload": ("pyramid", ("-m", "pyramid.scripts.pserve", "--reload", "{folder}/site.ini")),
}
INI = """
[app:main]
use = call:reloading_app:make_app
[server:main]
use = egg:waitress
listen = 127.0.0.1:{port}
"""


REWRITE_S = 5
"""When a file is written again: a reloader notices no change that came before its first look at the file."""


class Site:
    """A development server that runs, in a folder of its own."""

    def __init__(self, folder, port):
        self._folder = folder
        self._port = port
        self.server = None

    def write(self, version):
        (self._folder / "version.py").write_text(f"NAME = {version!r}\n")
        self._written_at = time.monotonic()

    def open(self, path):
        """What it answers; `""` while it restarts."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=PATIENCE_S) as answer:
                return answer.read().decode()
        except (urllib.error.URLError, ConnectionError):
            assert self.server.poll() is None
            return ""

    def serving(self, version):
        """The version and the process that serves, once it is that version."""

        def served():
            if time.monotonic() > self._written_at + REWRITE_S:
                self.write(version)
            who = self.open("/")
            return who if who.startswith(f"{version} ") else None

        return until(served, f"version {version} of the site")

    def deliverer(self, event):
        """The version and the process that delivered a new event of this name."""
        until(lambda: self.open(f"/pixel/v1/track?writeKey=k&anonymousId=a&event={event}"), "the answer")
        until(lambda: any(line.endswith(f" {event}") for line in self.delivered()), "the delivery")
        return {line.removesuffix(f" {event}") for line in self.delivered() if line.endswith(f" {event}")}

    def delivered(self):
        path = self._folder / "delivered"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(params=SERVERS)
def site(request, start, tmp_path, free_port):
    site = Site(tmp_path, free_port)
    site.write("one")
    (tmp_path / "site.ini").write_text(INI.format(port=free_port))
    # With watchdog, which mkdocs brings, Werkzeug hears of each file that any Python opens, until it hears no more.
    (tmp_path / "watchdog.py").write_text("raise ImportError")
    framework, command = SERVERS[request.param]
    site.server = start(
        *[word.format(port=free_port, folder=tmp_path) for word in command],
        FRAMEWORK=framework,
        LOG=str(tmp_path / "events.db"),
        DELIVERED=str(tmp_path / "delivered"),
        PYTHONPATH=f"{tmp_path}:{TESTS}",
        PYTHONDONTWRITEBYTECODE="1",  # two versions of one length within a second would share their bytecode
    )
    return site


def test_the_process_that_serves_delivers_with_its_own_code(site):
    processes = set()
    for version in ("one", "two"):
        if version == "two":
            site.write(version)
        for attempt in itertools.count():
            server = site.serving(version)
            delivered_by = site.deliverer(f"{version}-{attempt}")
            if site.serving(version) == server:  # it was not reloaded meanwhile
                break
        assert delivered_by == {server}
        processes.add(server)
    assert len(processes) == 2
