"""Under a real server whose workers are killed, and a data plane that fails: nothing that was answered 200 is lost.

Longer runs: PIXEL_FAULT_SECONDS=60.
"""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import processes
import pytest
from load import SECONDS, collect_under_fire
from processes import until_up

from pixel_middleware.destinations import RudderStack
from pixel_middleware.sinks import Outbox

TESTS = Path(__file__).parent
KILLS = 20


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
    plane_port = processes.free_port()
    plane = f"http://127.0.0.1:{plane_port}"
    start(str(TESTS / "dataplane.py"), str(plane_port), str(log), "7")
    server = start(
        *("-m", "gunicorn", "collecting_app:app", "--workers=4", f"--bind=127.0.0.1:{free_port}", "-k", *worker),
        "--graceful-timeout=3",  # a gevent worker that is told to stop while it boots does not hear it
        OUTBOX=str(path),
        FORWARD_TO=plane,
    )
    until_up(plane_port)
    until_up(free_port)
    acknowledged = collect_under_fire(server, free_port, KILLS)
    server.terminate()
    server.wait()
    draining = Outbox(path, RudderStack(plane), retry_min_s=0.01, retry_max_s=0.1)
    draining.flush(timeout_s=60)
    draining.close()
    delivered = Counter(log.read_text().split())
    lost = set(acknowledged) - delivered.keys() - in_file(path)
    duplicates = delivered.total() - len(delivered)
    print(json.dumps({"worker": worker, "acknowledged": len(acknowledged), "duplicates": duplicates}))
    assert (len(lost), len(acknowledged) > 100) == (0, True)
    # A lost answer or a killed courier repeats a batch at most; more would mean that batches are not forgotten.
    assert duplicates <= (len(acknowledged) + 500 * KILLS) // 2


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
