"""Under a real server whose workers are killed, and a data plane that fails: nothing that was answered 200 is lost.

Longer runs: PIXEL_FAULT_SECONDS=60.
"""

import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from processes import until_up

from pixel_middleware.sinks import Outbox, RudderStack

TESTS = Path(__file__).parent
SECONDS = float(os.environ.get("PIXEL_FAULT_SECONDS", "6"))
KILLS = 20


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def post_until(stop, port, number, acknowledged):
    """Send pixels, one after the other; keep the messageIds that were answered 200."""
    for count in range(10**9):
        if stop.is_set():
            return
        message_id = f"{number}-{count}"
        name = "poison" if random.random() < 0.001 else "e"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request(
                "GET", f"/pixel/v1/track?writeKey=k{number % 2}&anonymousId=a&event={name}&messageId={message_id}"
            )
            if connection.getresponse().status == 200:
                acknowledged.append(message_id)
        except (OSError, http.client.HTTPException):
            pass  # its worker was killed: not acknowledged
        finally:
            connection.close()


def in_file(path):
    with closing(sqlite3.connect(path)) as connection:
        query = (
            "SELECT message_id FROM events UNION ALL SELECT message_id FROM held UNION ALL SELECT message_id FROM dead"
        )
        return {message_id for (message_id,) in connection.execute(query)}


@pytest.mark.parametrize(
    "worker",
    [
        pytest.param(("sync", "--preload"), id="sync, preload"),
        pytest.param(("gthread", "--threads=8", "--preload"), id="gthread, preload"),
        pytest.param(("gthread", "--threads=8"), id="gthread"),
        pytest.param(("gevent", "--preload"), id="gevent, preload"),
        pytest.param(("gevent",), id="gevent"),
    ],
)
def test_nothing_acknowledged_is_lost(worker, start, tmp_path, free_port):
    log, path = tmp_path / "stored", tmp_path / "outbox.db"
    log.touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        plane_port = probe.getsockname()[1]
    plane = f"http://127.0.0.1:{plane_port}"
    start(str(TESTS / "dataplane.py"), str(plane_port), str(log), "7")
    server = start(
        *("-m", "gunicorn", "collecting_app:app", "--workers=4", f"--bind=127.0.0.1:{free_port}", "-k", *worker),
        "--graceful-timeout=3",  # a gevent worker that is told to stop while it boots does not hear it
        OUTBOX=str(path),
        DATA_PLANE=plane,
    )
    until_up(plane_port)
    until_up(free_port)
    stop, acknowledged = threading.Event(), []
    clients = [
        threading.Thread(target=post_until, args=(stop, free_port, number, acknowledged), daemon=True)
        for number in range(8)
    ]
    for client in clients:
        client.start()
    kills = 0
    while kills < KILLS:
        time.sleep(SECONDS / KILLS)
        for pid in random.sample(children_of(server.pid), k=1):
            os.kill(pid, signal.SIGKILL)
            kills += 1
    stop.set()
    for client in clients:
        client.join()
    server.terminate()
    server.wait()
    draining = Outbox(path, RudderStack(plane), retry_min_s=0.01, retry_max_s=0.1)
    draining.flush(timeout_s=60)
    draining.close()
    delivered = Counter(log.read_text().split())
    lost = set(acknowledged) - delivered.keys() - in_file(path)
    duplicates = delivered.total() - len(delivered)
    print(json.dumps({"worker": worker, "acknowledged": len(acknowledged), "kills": kills, "duplicates": duplicates}))
    assert (len(lost), len(acknowledged) > 100) == (0, True)
    # A lost answer or a killed courier repeats a batch at most; more would mean that batches are not forgotten.
    assert duplicates <= (len(acknowledged) + 500 * kills) // 2


def test_a_destination_that_is_down_for_a_while_costs_nothing(tmp_path, make_event, free_port, start):
    log = tmp_path / "stored"
    log.touch()
    outbox = Outbox(
        tmp_path / "outbox.db", RudderStack(f"http://127.0.0.1:{free_port}"), retry_min_s=0.05, retry_max_s=0.1
    )
    events = [make_event(str(number)) for number in range(200)]
    for event in events:
        outbox(event)
    assert not outbox.flush(timeout_s=SECONDS / 6)
    start(str(TESTS / "dataplane.py"), str(free_port), str(log), "1")
    assert outbox.flush(timeout_s=60)
    outbox.close()
    assert set(log.read_text().split()) == {event["messageId"] for event in events}
