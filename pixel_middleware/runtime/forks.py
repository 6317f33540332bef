"""What must not be carried over a fork is put away before it.

SQLite, `flock` and locks all break in a forked child (measured: hundreds of acknowledged events
lost, or a deadlock), and a check of the process id in the child comes too late for SQLite.
"""

import _thread
import os
import weakref
from typing import Protocol


class ForkAware(Protocol):
    """What `watch` takes. Between the first call and the others no thread may change the object."""

    def before_fork(self) -> None:
        """Come to rest and close."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Forget what belonged to the parent's threads, and go on."""


_watched: "weakref.WeakSet[ForkAware]" = weakref.WeakSet()
_at_rest: list[ForkAware] = []
_one_fork = _thread.allocate_lock()  # two threads that fork at once would each wait for what the other put to rest


def watch(one: ForkAware) -> None:
    """Have `one` told of every `os.fork()` for as long as it lives."""
    _watched.add(one)


def _before() -> None:
    _one_fork.acquire()
    for one in list(_watched):
        one.before_fork()
        _at_rest.append(one)


def _after_in_parent() -> None:
    while _at_rest:
        _at_rest.pop().after_fork_in_parent()
    _one_fork.release()


def _after_in_child() -> None:
    global _one_fork
    _one_fork = _thread.allocate_lock()
    while _at_rest:
        _at_rest.pop().after_fork_in_child()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
