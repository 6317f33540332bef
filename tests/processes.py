"""Ports for programs that the tests start, and patience for them."""

import socket
import time
import urllib.request
from urllib.parse import urlsplit

PATIENCE_S = 60


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until_up(port):
    """Return once something listens on this port of ours."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def get_when_up(url):
    """The body at an address, once somebody listens there."""
    until_up(urlsplit(url).port)
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
        return response.read()
