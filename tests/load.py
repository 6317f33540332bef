"""Load on a gunicorn whose workers are killed meanwhile."""

import http.client
import os
import random
import signal
import threading
import time
from pathlib import Path

SECONDS = float(os.environ.get("PIXEL_FAULT_SECONDS", "6"))


def collect_under_fire(server, port, kills, seconds=SECONDS, clients=8):
    """The messageIds that were answered 200 by `server`, a gunicorn process, while so many workers were killed."""
    stop, acknowledged = threading.Event(), []
    threads = [
        threading.Thread(target=post_until, args=(stop, port, number, acknowledged), daemon=True)
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for _ in range(kills):
        time.sleep(seconds / kills)
        os.kill(random.choice(children_of(server.pid)), signal.SIGKILL)
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
