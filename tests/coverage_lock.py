"""Keeps a fork from copying the lock of `coverage` while another thread holds it: the child would wait for it for ever.

What forks imports it before the package: hooks run in the reverse order of their registration before a fork, so this
one is the last.
"""

import _thread
import contextlib
import os
import sys

with contextlib.suppress(ImportError):
    from coverage import Coverage

    running = Coverage.current()
    if running and running._collector and running._collector.data_lock:
        # One that its own thread may take again, should something that is measured run while it is held.
        # gevent's would keep greenlets apart, and not threads.
        monkey = sys.modules.get("gevent.monkey")
        lock = monkey.get_original("_thread", "RLock")() if monkey else _thread.RLock()
        running._collector.data_lock = lock
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
