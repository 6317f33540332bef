"""What a stranger sends takes no more memory than it should, and no event is longer than it may be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import host_app

from pixel_middleware import PixelMiddleware
from pixel_middleware.events import to_json
from pixel_middleware.settings import SETTINGS
from pixel_middleware.wire.query import DEFAULT_LIMITS

MOST_MIB = 20

COST = """
import sys
from pixel_middleware import PixelMiddleware

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

app = PixelMiddleware(lambda environ, start_response: [], lambda event: None, trusted_proxies=1)

def send(query, **headers):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/pixel/v1/track", "QUERY_STRING": query, **headers}
    b"".join(app(environ, lambda status, headers: None))

send("writeKey=k&anonymousId=a&event=e")
before = resident()
exec(sys.argv[1])
print((resident() - before) / 2**20)
"""

FLOODS = {
    "names of 32 KB, refused": """
for i in range(256):
    send("%F0%9F%98%80" + "%06d" % i + "x" * 32000 + ".a" * 31 + "=")
""",
    "names as long as are remembered": """
for i in range(3000):
    send(f"writeKey=k&anonymousId=a&event=e&%F0%9F%98%80{i:06d}" + ".a" * 31 + "x" * 1900 + "=")
""",
    "as many short names as are remembered": """
for i in range(3000):
    send("writeKey=k&anonymousId=a&event=e&" + "&".join(f"%F0%9F%98%80{i}{n}.{n}.{n}.{n}=" for n in range(29)))
""",
    "headers": """
for i in range(1000):
    long = f"{i:06d}" + "\\xf0\\x9f\\x98\\x80" * 60_000
    send("writeKey=k&anonymousId=a&event=e", HTTP_USER_AGENT=long, HTTP_REFERER=long, HTTP_ACCEPT_LANGUAGE=long,
         HTTP_X_FORWARDED_FOR=long)
""",
    "refusals of made-up kinds": """
for i in range(3000):
    send(f"writeKey=k&{i}.=x")
    send(f"writeKey=k&anonymousId=a&{i}={i}&{i}.{i}=x")
""",
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_flood_leaves_no_memory_behind(flood):
    # Coverage would measure the process too, and take memory and time for it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "PYTHONDEV"))}
    done = subprocess.run([sys.executable, "-c", COST, flood], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < MOST_MIB


def test_an_event_is_as_long_as_may_be_and_no_longer(make_client, events):
    url = "/pixel/v1/page?writeKey=k&anonymousId=a&messageId=m&properties.x=" + "x" * 2000
    make_client().get(url, status=200)
    length = len(to_json(events[0]).encode())
    make_client(max_event_bytes=length).get(url, status=200)
    client = make_client(max_event_bytes=length - 1)
    answer = client.get(url, status=400)
    assert (answer.headers["X-Pixel-Error"], answer.text) == (
        "event_too_long",
        f"the event is longer than {length - 1} bytes of JSON; send less",
    )
    assert client.head(url, status=400).headers["X-Pixel-Error"] == "event_too_long"
    assert (len(events), client.app.stats()["rejected"]) == (2, {"event_too_long": 1})


@pytest.mark.parametrize("most", [1024, 9000, 65536])
def test_nothing_makes_an_accepted_event_longer(events, most):
    """A control character takes six bytes of JSON, and on both sides of a page event twice as many."""
    app = PixelMiddleware(host_app, events.append, max_event_bytes=most, max_query_bytes=100_000)
    worst = {"HTTP_USER_AGENT": "\x01" * 5000, "HTTP_ACCEPT_LANGUAGE": "\x01" * 99, "REMOTE_ADDR": "2001:db8:" * 4}
    reasons = []
    for count in (0, 1, 10, 70, 100, 600, 1500, 2500, 4000, 4500, 4700, 5000, 30_000):
        for referer in (0, 1, 70, 600, 2500, 4096):
            environ = worst | {
                "REQUEST_METHOD": "GET",
                "PATH_INFO": "/pixel/v1/page",
                "QUERY_STRING": f"writeKey=k&anonymousId=a&context.page.title={chr(1) * count}",
                "HTTP_REFERER": "\x01" * referer,
            }
            app(environ, lambda status, headers: reasons.append(dict(headers).get("X-Pixel-Error")))
    assert (set(reasons) <= {None, "event_too_long"}, "event_too_long" in reasons) == (True, True)
    assert len(events) == reasons.count(None)
    assert all(len(to_json(event).encode()) <= most for event in events)


@pytest.mark.parametrize("name", ["max_query_bytes", "max_params", "max_depth", "max_event_bytes"])
def test_a_limit_has_one_default(name):
    (default,) = (row.default for row in SETTINGS if row.name == name)
    assert getattr(DEFAULT_LIMITS, name) == default
