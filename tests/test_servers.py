"""The same promises on each WSGI server that our users run, as processes and over real sockets."""

import hashlib
import json
import os
import socket
import urllib.request
from urllib.parse import parse_qsl, urlsplit

import pytest
from processes import PATIENCE_S, TESTS, until_up

AMP = json.loads((TESTS / "data" / "amp-requests.json").read_text("utf-8"))
# A gevent worker that is told to stop while it boots does not hear it, and is killed after its graceful timeout.
GUNICORN = ("-m", "gunicorn", "--bind=127.0.0.1:{port}", "--workers=2", "--graceful-timeout=3", "hosting_app:app", "-k")

SERVERS = {
    "waitress": ("-m", "waitress", "--listen=127.0.0.1:{port}", "hosting_app:app"),
    "gunicorn sync": (*GUNICORN, "sync"),
    "gunicorn gthread": (*GUNICORN, "gthread", "--threads=4"),
    "gunicorn gevent": (*GUNICORN, "gevent"),
    "granian": ("-m", "granian", "--interface=wsgi", "--host=127.0.0.1", "--port={port}", "hosting_app:app"),
    "hypercorn": ("-m", "hypercorn", "--bind=127.0.0.1:{port}", "hosting_app:app"),
    "cheroot": ("-m", "cheroot", "--bind=127.0.0.1:{port}", "hosting_app:app"),
}


class Site:
    """A server that runs, and the events of its pixels."""

    def __init__(self, port, path):
        self.port = port
        self._path = path

    @property
    def events(self):
        return [json.loads(line) for line in self._path.read_text("utf-8").splitlines()]

    def open(self, path, data=None, **headers):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        return urllib.request.urlopen(request, timeout=PATIENCE_S)

    def raw(self, request):
        """The answer to these bytes, until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(params=SERVERS)
def site(request, start, tmp_path, free_port):
    command = [word.format(port=free_port) for word in SERVERS[request.param]]
    until_up(free_port, start(*command, EVENTS=str(tmp_path / "events.jsonl")))
    return Site(free_port, tmp_path / "events.jsonl")


def download():
    """What the host app streams, block by block: see hosting_app."""
    block = bytes(range(256)) * 256
    return b"".join(number.to_bytes(4, "big") + block[4:] for number in range(800))


def test_pixels_are_collected_and_all_else_passes_through(site):
    with site.open("/pixel/v1/track?writeKey=k&anonymousId=a&event=Gr%C3%BC%C3%9Fe+%26") as answer:
        assert (answer.read(), answer.headers["Content-Type"]) == (b"OK", "text/plain; charset=utf-8")
    with site.open("/pixel/v1/page.gif?writeKey=k&anonymousId=a") as answer:
        assert (answer.read()[:6], answer.headers["Content-Length"]) == (b"GIF89a", "43")
    with pytest.raises(urllib.error.HTTPError) as refused:
        site.open("/pixel/v1/track?writeKey=k&anonymousId=a")
    with refused.value as answer:
        assert (answer.code, answer.headers["X-Pixel-Error"]) == (400, "missing_event")
    assert [event.get("event") for event in site.events] == ["Grüße &", None]

    with site.open("/a/download") as answer:
        assert answer.read() == download()
    upload = os.urandom(5_000_000)
    with site.open("/an/upload", upload) as answer:
        assert answer.read().decode() == hashlib.sha256(upload).hexdigest()


def test_head_is_answered_by_every_server(site):
    """Hypercorn answers 500 to it where an app sends no chunk at all."""
    answer = site.raw(
        b"HEAD /pixel/v1/page.gif?writeKey=k&anonymousId=a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert (answer.split(b"\r\n")[0][9:12], answer.endswith(b"\r\n\r\n")) == (b"200", True)


def test_what_the_real_amp_runtime_sends_arrives(site):
    for captured in AMP:
        headers = [(name, value) for name, value in captured["headers"] if name != "Connection"]
        lines = [f"GET {captured['raw_path']} HTTP/1.1", "Connection: close", *map(": ".join, headers)]
        answer = site.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))
        assert (answer.split(b"\r\n")[0][9:12], b"image/gif" in answer, answer[-43:-37]) == (b"200", True, b"GIF89a")
    sent = [dict(parse_qsl(urlsplit(captured["raw_path"]).query)) for captured in AMP]
    assert [event["anonymousId"] for event in site.events] == [pairs["anonymousId"] for pairs in sent]
    agents = [dict(captured["headers"])["User-Agent"] for captured in AMP]
    assert [event["context"]["userAgent"] for event in site.events] == agents
