"""Load on a server whose workers are killed meanwhile."""

import http.client
import os
import random
import signal
import threading
from pathlib import Path

from processes import PATIENCE_S, until

KILLS = int(os.environ.get("PIXEL_FAULT_KILLS", "20"))


def collect_under_fire(server, port, clients=8, between_kills=100, kills=KILLS):
    """The messageIds that `server` answered with 200, while so many of its workers were killed.

    Before each kill it has answered some more.
    """
    stop, acknowledged = threading.Event(), []
    threads = [
        threading.Thread(target=post_until, args=(stop, port, number, acknowledged), daemon=True)
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        for kill in range(1, kills + 1):
            enough = kill * between_kills
            until(lambda: len(acknowledged) >= enough, f"{enough} answers")  # noqa: B023, called at once
            workers = until(lambda: children_of(server.pid), "a worker")
            os.kill(random.choice(workers), signal.SIGKILL)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return acknowledged


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def post_until(stop, port, number, acknowledged):
    """Send pixels, one after the other; keep the messageIds that were answered 200."""
    for count in range(10**9):
        if stop.is_set():
            return
        message_id = f"{number}-{count}"
        name = "poison" if random.random() < 0.001 else "e"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
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
