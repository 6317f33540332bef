"""The smallest carrier of events to a destination that loses none: a thread, a list, and what the errors name."""

import threading
import time

from pixel_middleware import Rejected, RetryLater
from pixel_middleware.destinations.base import Record

BATCH = 500
PAUSE_S = 0.1


class Carrier:
    """Takes events, and carries them until `stop()`, which waits until all are delivered or dead."""

    def __init__(self, destination):
        self.destination = destination
        self.waiting, self.dead, self.errors = [], [], []
        self.delivered = self.put_in = 0
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def put(self, event):
        with self._lock:
            self.waiting.append(Record.of(event))
            self.put_in += 1

    def stop(self, patience_s=120):
        self._stopping.set()
        self._thread.join(patience_s)
        assert not self._thread.is_alive(), self.errors[-1:]
        self.destination.close()

    def _carry(self):
        while self.waiting or not self._stopping.is_set():
            with self._lock:
                batch, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
            left = self._deliver(batch) if batch else []
            with self._lock:
                self.waiting[:0] = left
            if left or not batch:
                time.sleep(PAUSE_S)

    def _deliver(self, batch):
        """What is left of a batch."""
        try:
            self.destination.begin(batch)()
        except Rejected as error:
            self.dead += error.events
            self.delivered += len(batch) - len(error.events)
            return []
        except RetryLater as error:
            self.errors.append(error)
            named = {id(record) for record in error.events or batch}
            left = [record for record in batch if id(record) in named]
            self.delivered += len(batch) - len(left)
            return left
        self.delivered += len(batch)
        return []
