"""Under a real server whose workers are killed, and a data plane that fails: nothing that was answered 200 is lost.

Longer runs: PIXEL_FAULT_KILLS=200.
"""

import sqlite3
from collections import Counter
from contextlib import closing

import pytest
from load import KILLS, collect_under_fire
from processes import PATIENCE_S, TESTS, until, until_up

from pixel_middleware.destinations import RudderStack
from pixel_middleware.sinks import Outbox

BATCH_SIZE = 10
WORKERS = 4


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
def test_nothing_acknowledged_is_lost(worker, start, tmp_path, new_port):
    log, path = tmp_path / "stored", tmp_path / "outbox.db"
    log.touch()
    port, plane_port = new_port(), new_port()
    plane = f"http://127.0.0.1:{plane_port}"
    until_up(plane_port, start(TESTS / "dataplane.py", plane_port, log, "7"))
    server = start(
        *("-m", "gunicorn", "collecting_app:app", f"--workers={WORKERS}", f"--bind=127.0.0.1:{port}", "-k", *worker),
        "--graceful-timeout=3",  # a gevent worker that is told to stop while it boots does not hear it
        OUTBOX=str(path),
        FORWARD_TO=plane,
        BATCH_SIZE=str(BATCH_SIZE),
    )
    until_up(port, server)
    acknowledged = collect_under_fire(server, port)
    server.end()
    draining = Outbox(path, RudderStack(plane), retry_min_s=0.01, retry_max_s=0.1)
    draining.flush(timeout_s=PATIENCE_S)
    draining.close()
    deliveries = [line.split() for line in log.read_text().splitlines()]
    assert set(acknowledged) - {message_id for message_id, _ in deliveries} - in_file(path) == set()
    # Only a killed courier sends again what the data plane had acknowledged, and that is a batch at most.
    answered = Counter(message_id for message_id, word in deliveries if word == "answered")
    assert answered.total() - len(answered) <= BATCH_SIZE * (KILLS + WORKERS)


def test_a_destination_that_is_down_for_a_while_costs_nothing(tmp_path, make_event, free_port, start):
    log = tmp_path / "stored"
    log.touch()
    outbox = Outbox(
        tmp_path / "outbox.db", RudderStack(f"http://127.0.0.1:{free_port}"), retry_min_s=0.05, retry_max_s=0.1
    )
    events = [make_event(str(number)) for number in range(200)]
    for event in events:
        outbox(event)
    until(lambda: outbox.stats()["retried"] >= 3, "three failures")
    assert (outbox.stats()["waiting"], log.read_text()) == (200, "")
    start(TESTS / "dataplane.py", free_port, log, "1")
    assert outbox.flush(timeout_s=PATIENCE_S)
    outbox.close()
    assert {line.split()[0] for line in log.read_text().splitlines()} == {event["messageId"] for event in events}
