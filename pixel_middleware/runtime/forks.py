"""Closes files and locks before a fork, because they break in the child, and opens them again on both sides.

SQLite, `flock` and locks all break in a forked child (measured: hundreds of acknowledged events lost, or a deadlock).
Python's own hooks cover `os.fork()`. A fork in C, as uWSGI makes it, runs none of them: there the C library's hook puts
away, and the child notices by its process id.
"""

import _thread
import ctypes
import os
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any


class ForkAware:
    """What `watch` takes; override what the object needs. Between the first call and the others it must not change."""

    _process = 0

    def before_fork(self) -> None:
        """Come to rest, and close what a child must not have."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Forget what belonged to the parent's threads: make new locks; what `before_fork` closes is closed."""


_watched: "weakref.WeakSet[ForkAware]" = weakref.WeakSet()
_noticing = _thread.RLock()  # one object may use another when it is told


_not_in_python: list[None] = []
"""Holds one `None`, but nothing while Python itself forks."""


class _Fork:
    """The fork under way in this process, if any."""

    def __init__(self) -> None:
        _not_in_python[:] = [None]
        self.process = os.getpid()
        self.turn = _thread.allocate_lock()  # two threads that fork at once would each wait for what the other holds
        self.thread = 0
        self.is_in_c = False
        self.at_rest: list[ForkAware] = []


_fork = _Fork()


def watch(one: ForkAware) -> None:
    """Have `one` told of every fork for as long as it lives."""
    one._process = os.getpid()
    _watched.add(one)


def notice(one: ForkAware) -> None:
    """Call before `one` is used: tells it of a fork that ran no hook in this child."""
    if one._process != os.getpid():
        with _noticing:
            if one._process != os.getpid():  # pragma: no branch - another thread may have been first
                one.after_fork_in_child()
                one._process = os.getpid()


def after_uwsgi_fork(work: Callable[[], object]) -> None:
    """In a uWSGI server, have each worker call `work()` when it was forked, as its own decorators do; else nothing."""
    if "uwsgi" in sys.modules and work not in _after_uwsgi_fork:
        _after_uwsgi_fork.append(work)
        if len(_after_uwsgi_fork) == 1:  # pragma: no branch - two logs under uWSGI
            with suppress(ImportError):
                import uwsgidecorators

                uwsgidecorators.postfork_chain.append(lambda: [each() for each in _after_uwsgi_fork])


_after_uwsgi_fork: list[Callable[[], object]] = []


def _before() -> None:
    global _fork
    if _fork.process != os.getpid():  # a fork in C made this process, whose coverage nobody sees
        _fork = _Fork()  # pragma: no cover
    _fork.turn.acquire()
    _fork.thread = _thread.get_ident()
    for one in list(_watched):
        # Or it has not noticed a fork yet, and its locks are those of its parent.
        if one._process == os.getpid():  # pragma: no branch
            one.before_fork()
            _fork.at_rest.append(one)


def _before_in_python() -> None:
    _before()
    _not_in_python.clear()


def _after_in_parent() -> None:
    _not_in_python[:] = [None]
    while _fork.at_rest:
        _fork.at_rest.pop().after_fork_in_parent()
    _fork.thread, _fork.is_in_c = 0, False
    _fork.turn.release()


def _after_in_child() -> None:
    global _fork
    _fork = _Fork()
    for one in list(_watched):
        with suppress(Exception):  # of one object; the others are told, and Python would only print it
            notice(one)


os.register_at_fork(before=_before_in_python, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


def _before_in_c() -> None:
    if not sys.is_finalizing():  # pragma: no branch
        _before()
        _fork.is_in_c = True
        if len(sys._current_frames()) > 1:  # pragma: no branch - what forks in C is seldom alone
            # A child that was forked while a thread waited for the interpreter waits for that thread, for ever. Those
            # that write stop at our locks if they are let on.
            time.sleep(0.05)


def _after_in_c() -> None:
    if _fork.is_in_c and _fork.thread == _thread.get_ident():  # pragma: no branch - nothing rested where Python ends
        _after_in_parent()


def _c_hook(work: Callable[[], None]) -> Any:
    """A hook of the C library that calls `work()`, and no bytecode at all while Python itself forks.

    Python then holds the lock of its list of threads. Bytecode may hand the interpreter to another thread; one that
    ends waits for that lock and keeps the interpreter, and both would wait for ever (seen on Python 3.13). `min` calls
    its key for each item, and is written in C.
    """
    return ctypes.CFUNCTYPE(None)(partial(min, _not_in_python, key=lambda _: work(), default=None))


_in_c: Any = (_c_hook(_before_in_c), _c_hook(_after_in_c), None)

with suppress(AttributeError, OSError):  # another C library than glibc: Python's hooks are all there is
    ctypes.CDLL(None).__register_atfork(*_in_c, None)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_in_c))  # C may call them for as long as the process lives
