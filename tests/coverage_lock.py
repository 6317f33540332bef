"""Imported before the package: keeps a fork from copying the lock of `coverage` while another thread holds it.

The child would wait for it for ever. Hooks run in the reverse order of their registration before a fork, so this one is
the last, and nothing that is measured runs while it holds the lock.
"""

import contextlib
import os

with contextlib.suppress(ImportError):
    from coverage import Coverage

    running = Coverage.current()
    lock = running and running._collector and running._collector.data_lock
    if lock:
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
