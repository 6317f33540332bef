"""Imported before the package: keeps a fork from copying the lock of `coverage` while another thread holds it.

The child would wait for it for ever. Hooks run in the reverse order of their registration before a fork, so this one is
the last; what is measured and runs after it, in the hook of the C library, runs in the thread that holds the lock.
"""

import contextlib
import os
import threading

with contextlib.suppress(ImportError):
    from coverage import Coverage

    running = Coverage.current()
    if running and running._collector and running._collector.data_lock:
        # One that its own thread may take again: hooks of ours, which are measured, run while it is held.
        lock = running._collector.data_lock = threading.RLock()
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
