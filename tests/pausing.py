"""A process that hangs: it stands still, and its connections stay."""

import signal
import time
from pathlib import Path

STOPPED = ("T", "t", "Z")


def pause(process):
    """Return when all its threads stand still."""
    process.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{process.pid}/task")
    while any(_state(task) not in STOPPED for task in tasks.iterdir()):
        time.sleep(0.001)


def _state(task):
    return (task / "stat").read_text().rpartition(")")[2].split()[0]
