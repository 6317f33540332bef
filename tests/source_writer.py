"""A program that records events of its own until it is killed: python source_writer.py FILE [gevent].

It forks after the first event, and prints the messageId of each that is recorded.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

if "gevent" in sys.argv:
    from gevent import monkey

    monkey.patch_all()

import os
import threading

import coverage_lock  # noqa: F401, before anything that forks

from pixel_middleware import Source
from pixel_middleware.sinks import EventLog

PROCESSES = 3
THREADS = 8


def record(source):
    event = source.track("Email Sent", user_id="7", properties={"recipients": 2})
    os.write(1, f"{event['messageId']}\n".encode())


def record_for_ever(source):
    while True:
        record(source)


def write(path):
    source = Source(EventLog(path), write_key="k")
    record(source)
    for _ in range(PROCESSES - 1):
        if not os.fork():
            break
    for _ in range(THREADS - 1):
        threading.Thread(target=record_for_ever, args=(source,), daemon=True).start()
    record_for_ever(source)


if __name__ == "__main__":
    write(sys.argv[1])
