"""Under gevent, where threads are greenlets: a request that is interrupted owes nothing to the others."""

import json
import sqlite3
import sys
from contextlib import closing

import pytest

pytest.importorskip("gevent")

INTERRUPTED = """
import gevent.monkey; gevent.monkey.patch_all()
import json, sqlite3, sys, threading, time
import gevent
from pixel_middleware import StorageError
from pixel_middleware.destinations import Destination
from pixel_middleware.events import Visit, make_event
from pixel_middleware.sinks import EventLog, JSONLines

class Nowhere(Destination):
    failures = iter([gevent.Timeout(1), None])
    def send(self, events):
        error = next(self.failures, None)
        if error:
            raise error

path = sys.argv[1]
sink = EventLog(path, {"it": Nowhere()}, retry_min_s=0.01, retry_max_s=0.02) if path.endswith("db") else JSONLines(path)

def event(name):
    return make_event("track", {"writeKey": "k", "anonymousId": "a", "event": name, "messageId": name}, Visit())

acknowledged, interrupted, done = [], [], []

def put(number):
    count = 0
    while not done:
        name, count = f"{number}-{count}", count + 1
        try:
            with gevent.Timeout(0.02):
                sink(event(name))
        except (gevent.Timeout, StorageError):
            interrupted.append(name)
        else:
            acknowledged.append(name)

def hold():
    # Another program locks the file now and then.
    program = (
        "import sqlite3, sys, time, fcntl\\n"
        "for _ in range(5):\\n"
        "    if sys.argv[1].endswith('db'):\\n"
        "        other = sqlite3.connect(sys.argv[1], timeout=9); other.execute('BEGIN IMMEDIATE')\\n"
        "        time.sleep(0.1); other.rollback(); other.close()\\n"
        "    else:\\n"
        "        other = open(sys.argv[1]); fcntl.flock(other, fcntl.LOCK_EX); time.sleep(0.1); other.close()\\n"
        "    time.sleep(0.05)\\n"
    )
    gevent.subprocess.run([sys.executable, "-c", program, path], check=True)
    done.append(True)

sink(event("before"))
gevent.joinall([gevent.spawn(hold), *(gevent.spawn(put, number) for number in range(60))], raise_error=True)
for number in range(20):
    sink(event(f"calm {number}"))
    acknowledged.append(f"calm {number}")
sink.close()
print(json.dumps([acknowledged, len(interrupted)]))
"""


@pytest.mark.parametrize("name", ["events.db", "events.jsonl"])
def test_interrupted_greenlets_wedge_nobody_and_what_was_acknowledged_is_stored(run, tmp_path, name):
    done = run([sys.executable, "-W", "ignore", "-c", INTERRUPTED, tmp_path / name])
    assert done.returncode == 0, done.stderr
    acknowledged, interrupted = json.loads(done.stdout)
    if name.endswith("db"):
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            stored = [message_id for (message_id,) in connection.execute("SELECT message_id FROM events")]
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    else:
        stored = [json.loads(line)["messageId"] for line in (tmp_path / name).read_text().splitlines()]
    assert (set(acknowledged) - set(stored), interrupted > 0) == (set(), True)
    assert len(stored) == len(set(stored))
