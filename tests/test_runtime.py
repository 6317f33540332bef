"""Locks, threads, forks and commits, by themselves: what they promise to whoever uses them."""

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time

import pytest
from processes import PATIENCE_S, until

from pixel_middleware import StorageError
from pixel_middleware.runtime import forks, group_commit, threads
from pixel_middleware.runtime.group_commit import Busy, GroupCommit
from pixel_middleware.runtime.lock_file import LockFile
from pixel_middleware.runtime.pool import Pool
from pixel_middleware.runtime.worker import Worker


class File:
    """A file in memory, which does as it is told."""

    def __init__(self):
        self.turn = threading.Lock()
        self.owner = None
        self.stored = []
        self.busy = []
        self.trouble = lambda: None
        self.to_take = lambda: None

    def take_turn(self, wait):
        error = self.to_take()
        if error is not None:
            raise error
        had = self.turn.acquire(wait)
        if had:
            self.owner = threading.get_ident()
        return had

    def has_turn(self):
        return self.owner == threading.get_ident()

    def end_turn(self):
        if self.has_turn():
            self.owner = None
            self.turn.release()

    def commit(self, take):
        if self.busy:
            raise self.busy.pop()
        taken = [ticket.record for ticket in take()]
        error = self.trouble()
        if error is not None:
            raise error
        self.stored += taken


@pytest.fixture
def file():
    return File()


@pytest.fixture
def group(file):
    return GroupCommit(file, "the file")


def test_threads_are_served_in_order_of_arrival(file, group, in_threads):
    file.turn.acquire()
    arrived = [threading.Thread(target=group.put, args=(number,), daemon=True) for number in range(4)]
    for number, thread in enumerate(arrived):
        thread.start()
        until(lambda number=number: len(group._waiting) == number + 1, "it waits")
    file.turn.release()
    for thread in arrived:
        thread.join()
    assert file.stored == [0, 1, 2, 3]


def test_a_failed_commit_fails_all_that_it_was_for(file, group, in_threads):
    file.trouble = lambda: OSError("gone")
    errors = in_threads(4, group.put)
    assert [(type(error), str(error)) for error in errors] == [(StorageError, "gone")] * 4


def test_an_interrupted_commit_leaves_the_file_to_the_next(file, group):
    interruptions = [KeyboardInterrupt()]
    file.trouble = lambda: interruptions.pop() if interruptions else None
    with pytest.raises(KeyboardInterrupt):
        group.put("x")
    group.put("y")
    assert file.stored == ["y"]


def test_a_file_that_cannot_be_had_is_an_error_for_who_comes_alone_and_for_who_waits(file, group, in_threads):
    file.to_take = lambda: OSError("no descriptors")
    with pytest.raises(StorageError, match="no descriptors"):
        group.put("alone")
    group._start_committer()
    group._waiting.append(group_commit.ThreadTicket("in front"))
    with pytest.raises(StorageError, match="no descriptors"):
        group.put("waits")
    file.to_take = lambda: None
    group.put("later")
    assert file.stored == ["later"]


def test_a_busy_file_is_asked_again_until_it_is_had(file, group):
    file.busy = [Busy("locked"), Busy("locked"), Busy("locked")]
    group.put("x")
    assert file.stored == ["x"]


def test_without_a_thread_to_be_had_each_commits_for_itself(file, group, monkeypatch, in_threads):
    def none_left(thread):
        raise RuntimeError("can't start new thread")

    file.turn.acquire()
    started = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(group_commit.threading.Thread, "start", none_left)
        releasing = threads.Signal()
        threads._thread.start_new_thread(lambda: (started.wait(), time.sleep(0.05), file.turn.release()), ())
        started.set()
        group.put("x")
        assert file.stored == ["x"]
        monkeypatch.setattr(group_commit, "WAIT_S", 0.02)
        file.turn.acquire()
        with pytest.raises(StorageError, match=r"the file could not be had within 0\.02 s: it is locked"):
            group.put("y")
        file.turn.release()
    assert (file.stored, releasing.wait(0)) == (["x"], False)


@pytest.mark.parametrize("ends", [True, False])
def test_who_is_in_a_commit_that_takes_long_waits_for_its_end_and_not_for_ever(file, group, monkeypatch, ends):
    monkeypatch.setattr(group_commit, "WAIT_S", 1.0)
    monkeypatch.setattr(group_commit, "_END_S", PATIENCE_S if ends else 0.02)
    begun, go_on = threading.Event(), threading.Event()
    file.trouble = lambda: begun.set() or (go_on.wait(PATIENCE_S) and None)
    file.turn.acquire()
    results = []

    def put():
        try:
            results.append(group.put("x"))
        except StorageError as error:
            results.append(str(error))

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    until(lambda: group._waiting, "it waits")
    file.turn.release()
    assert begun.wait(PATIENCE_S)
    if not ends:
        thread.join()
    go_on.set()
    thread.join()
    assert results == ([None] if ends else ["the file: a commit has not ended for 0.02 s"])


# Commits for event loops


def soon(group, *records, meanwhile=lambda: None):
    """What `done` was called with for each record that a loop put, in order of the calls; all in the loop's thread."""

    async def put_all():
        told, all_told = [], asyncio.Event()

        def done(record, error):
            told.append((record, str(error) if error else None, threading.get_ident() == loop_thread))
            if len(told) == len(records):
                all_told.set()

        loop_thread = threading.get_ident()
        for record in records:
            group.put_soon(record, lambda error, record=record: done(record, error))
        meanwhile()
        await asyncio.wait_for(all_told.wait(), PATIENCE_S)
        return told

    return asyncio.run(put_all())


def test_a_loop_and_threads_share_a_commit_in_order_of_arrival(file, group):
    file.turn.acquire()
    commits = []
    file.trouble = lambda: commits.append(1)
    thread = threading.Thread(target=group.put, args=("a thread's",), daemon=True)

    def meanwhile():
        # The first may be on its way to the file, which it does not get.
        thread.start()
        until(lambda: len(group._waiting) == 4, "all wait")
        file.turn.release()

    assert soon(group, 1, 2, 3, meanwhile=meanwhile) == [(1, None, True), (2, None, True), (3, None, True)]
    thread.join()
    assert (file.stored, commits) == ([1, 2, 3, "a thread's"], [1])


def test_a_loop_is_told_why_its_records_are_not_stored(file, group):
    file.trouble = lambda: OSError("gone")
    assert soon(group, 1, 2) == [(1, "gone", True), (2, "gone", True)]
    file.trouble = lambda: ZeroDivisionError()
    assert soon(group, 3) == [(3, "ZeroDivisionError", True)]
    file.to_take = lambda: OSError("no descriptors")
    assert soon(group, 4) == [(4, "no descriptors", True)]
    file.trouble = file.to_take = lambda: None
    assert soon(group, 5) == [(5, None, True)]
    assert file.stored == [5]


def test_a_loop_waits_for_a_file_no_longer_than_a_thread_and_then_nothing_is_stored(file, group, monkeypatch):
    monkeypatch.setattr(group_commit, "WAIT_S", 0.02)
    file.turn.acquire()
    assert soon(group, 1) == [(1, "the file could not be had within 0.02 s: it is locked", True)]
    file.turn.release()
    monkeypatch.setattr(group_commit, "WAIT_S", PATIENCE_S)
    assert soon(group, 2) == [(2, None, True)]
    assert file.stored == [2]


@pytest.mark.parametrize("ends", [True, False])
def test_a_loop_waits_for_the_end_of_a_commit_that_takes_long_and_not_for_ever(file, group, monkeypatch, ends):
    monkeypatch.setattr(group_commit, "WAIT_S", 0.02)
    monkeypatch.setattr(group_commit, "_END_S", PATIENCE_S if ends else 0.02)
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    file.trouble = lambda: begun.set() or (go_on.wait(PATIENCE_S) and None) or ended.set()
    late = []

    async def put():
        told = asyncio.get_running_loop().create_future()
        group.put_soon("x", lambda error: late.append(error) or told.set_result(None))
        assert begun.wait(PATIENCE_S)  # in the loop, which gives nothing up meanwhile
        if ends:
            await asyncio.sleep(0.1)  # longer than it would wait for a turn
            go_on.set()
        await asyncio.wait_for(told, PATIENCE_S)
        go_on.set()
        await asyncio.to_thread(ended.wait, PATIENCE_S)
        await asyncio.sleep(0.01)  # what is told a second time would be told now

    asyncio.run(put())
    assert [str(error) for error in late] == ["None" if ends else "the file: a commit has not ended for 0.02 s"]


def test_a_loop_that_brings_more_than_is_let_wait_is_told_so_at_once_until_there_is_room(file, group, monkeypatch):
    monkeypatch.setattr(group_commit, "MOST_WAITING", 3)

    def one_more():
        with pytest.raises(StorageError, match="the file: 3 wait for it already"):
            group.put_soon("too many", print)
        file.turn.release()

    file.turn.acquire()
    assert [error for _, error, _ in soon(group, 1, 2, 3, meanwhile=one_more)] == [None] * 3
    assert soon(group, 4) == [(4, None, True)]
    assert file.stored == [1, 2, 3, 4]


def test_without_a_thread_to_be_had_a_loop_is_told_so_at_once(file, group, monkeypatch):
    def none_left(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(group_commit.threading.Thread, "start", none_left)
        with pytest.raises(StorageError, match="the file: there is no thread to be had"):
            soon(group, 1)
    assert soon(group, 2) == [(2, None, True)]
    assert file.stored == [2]


def test_what_fails_after_a_commit_keeps_nobody_from_being_told(file, group):
    problems, told = [], []

    async def put():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: problems.append(str(context["exception"])))
        file.turn.acquire()
        all_told = asyncio.Event()
        group.put_soon(1, lambda error: 1 / 0)
        group.put_soon(2, lambda error: told.append(error) or all_told.set())
        file.turn.release()
        await asyncio.wait_for(all_told.wait(), PATIENCE_S)

    asyncio.run(put())
    assert (problems, told, file.stored) == (["division by zero"], [None], [1, 2])


def test_what_a_loop_has_put_is_stored_even_if_the_loop_has_ended(file, group):
    async def put():
        group.put_soon("x", print)

    file.turn.acquire()
    asyncio.run(put())
    file.turn.release()
    group.put("y")
    until(lambda: set(file.stored) == {"x", "y"}, "both")


def test_a_pool_gives_back_what_its_work_returns_or_raises():
    async def ask():
        pool = Pool(1)
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 / 0)
        return await pool.run(divmod, 7, 2)

    assert asyncio.run(ask()) == (3, 1)


def test_work_that_a_pool_has_begun_is_waited_for_as_long_as_it_takes(monkeypatch):
    monkeypatch.setattr("pixel_middleware.runtime.pool.WAIT_S", 0.0)
    begun, go_on = threading.Event(), threading.Event()

    async def ask():
        asked = asyncio.create_task(Pool(1).run(lambda: begun.set() or go_on.wait(PATIENCE_S)))
        await asyncio.sleep(0)
        assert begun.wait(PATIENCE_S)  # in the loop, which gives nothing up meanwhile
        await asyncio.sleep(0.01)
        go_on.set()
        return await asked

    assert asyncio.run(ask()) is True


# Workers


def test_a_worker_goes_on_whatever_its_work_raises_and_says_so_once_a_minute(monkeypatch, caplog):
    monkeypatch.setattr("pixel_middleware.runtime.worker.AFTER_AN_ERROR_S", 0.001)
    calls, ended = [], []
    errors = [ZeroDivisionError("one"), SystemExit("two"), None]

    def work():
        calls.append(1)
        if errors and (error := errors.pop(0)):
            raise error
        return 0.001

    worker = Worker("a worker", work, lambda: ended.append(1))
    assert (worker.start(), worker.start()) == (True, True)
    until(lambda: len(calls) > 5, "it works on")
    assert (worker.stop(PATIENCE_S), worker.stop(0), ended) == (True, True, [1])
    assert [record.getMessage() for record in caplog.records] == ["a worker: ZeroDivisionError: one; it goes on"]


def test_a_worker_that_is_started_again_waits_for_the_end_of_the_call_that_hangs(monkeypatch):
    monkeypatch.setattr("pixel_middleware.runtime.worker.AFTER_AN_ERROR_S", 0.005)
    begun, go_on = threading.Event(), threading.Event()
    at_once, most = [0], []

    def work():
        at_once[0] += 1
        most.append(at_once[0])
        begun.set()
        go_on.wait(PATIENCE_S)
        at_once[0] -= 1
        return 0.001

    worker = Worker("a worker", work, lambda: None)
    worker.start()
    assert begun.wait(PATIENCE_S)
    assert not worker.stop(0.01)
    worker.start()
    time.sleep(0.02)
    go_on.set()
    until(lambda: len(most) > 3, "the second thread works")
    assert (worker.stop(PATIENCE_S), max(most)) == (True, 1)


def test_a_worker_that_is_stopped_while_it_waits_for_an_older_call_ends(monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    worker = Worker("a worker", lambda: begun.set() or (go_on.wait(PATIENCE_S) and 1.0), lambda: None)
    worker.start()
    assert begun.wait(PATIENCE_S)
    worker.stop(0)
    worker.start(first_wait_s=0.01)
    assert worker.stop(PATIENCE_S)
    go_on.set()


def test_a_worker_that_is_to_wait_first_can_be_stopped_meanwhile():
    calls = []
    worker = Worker("a worker", lambda: calls.append(1) or 1.0, lambda: None)
    worker.start(first_wait_s=PATIENCE_S)
    worker.wake()
    until(lambda: calls, "it was woken")
    worker.stop(PATIENCE_S)
    worker.wake()
    worker.start(first_wait_s=PATIENCE_S)
    assert worker.stop(PATIENCE_S)
    assert calls == [1]


# Lock files


def test_a_byte_is_claimed_by_one_owner_of_one_process(tmp_path, in_child):
    lock = LockFile.at(tmp_path / "lock")
    assert LockFile.at(tmp_path / "lock") is lock
    one, two = object(), object()
    assert [lock.claim(7, one), lock.claim(7, one), lock.claim(7, two), lock.claim(8, two)] == [True, True, False, True]
    lock.release(7, two)

    def elsewhere():
        other = LockFile.at(tmp_path / "lock")
        assert [other.claim(7, one), other.claim(8, one), other.claim(9, one)] == [False, False, True]

    in_child(elsewhere)
    lock.release(7, one)
    lock.close()  # does nothing while a byte is held
    in_child(lambda: [LockFile.at(tmp_path / "lock").claim(each, one) for each in (7, 8)] == [True, False] or 1 / 0)
    lock.release(8, two)
    lock.close()
    lock.release(8, two)
    assert lock.claim(8, one)
    lock.release(8, one)
    lock.close()


def test_who_asks_again_and_again_lets_those_who_wait_be_first(tmp_path):
    lock = LockFile.at(tmp_path / "lock")
    assert lock.take_turn(wait=False)
    had = threading.Event()

    def wait():
        lock.take_turn(wait=True)
        had.set()
        lock.end_turn()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    until(lambda: lock._waiting, "it waits")
    lock.end_turn()
    until(lambda: had.is_set() or not lock.take_turn(wait=False) or lock.end_turn(), "it was first")
    thread.join()
    lock._waiting.append(thread)  # as while the turn is free, and who waits for it has not noticed yet
    assert not lock.take_turn(wait=False)
    lock._waiting.clear()
    assert lock.take_turn(wait=False)
    lock.end_turn()
    lock.close()


def test_a_lock_file_that_was_removed_meanwhile_is_made_anew(tmp_path):
    lock = LockFile.at(tmp_path / "lock")
    assert lock.take_turn(wait=False)
    (tmp_path / "lock").unlink()
    assert lock.claim(5, lock)  # which closes the old file
    assert (tmp_path / "lock").exists()
    lock.end_turn()
    assert lock.take_turn(wait=True)
    lock.end_turn()
    lock.release(5, lock)
    lock.close()


def test_a_lock_file_that_cannot_be_made_is_an_error_and_no_turn(tmp_path):
    lock = LockFile.at(tmp_path / "missing" / "lock")
    with pytest.raises(FileNotFoundError):
        lock.take_turn(wait=True)
    (tmp_path / "missing").mkdir()
    assert lock.take_turn(wait=False)
    lock.end_turn()
    lock.close()


# Forks


class Told(forks.ForkAware):
    def __init__(self):
        self.told = []
        forks.watch(self)

    def before_fork(self):
        self.told.append("before")

    def after_fork_in_parent(self):
        self.told.append("in the parent")

    def after_fork_in_child(self):
        self.told.append("in the child")


def test_a_fork_tells_those_who_watch_on_both_sides(in_child):
    told = Told()

    def in_the_child():
        assert told.told == ["before", "in the child"]

    in_child(in_the_child)
    assert told.told == ["before", "in the parent"]


def test_a_fork_in_c_tells_those_who_watch_and_the_child_notices_when_it_uses_them():
    told, status = told_of_a_fork_in_c()
    for _ in range(4):
        if status is None:
            # A thread that another test left began to wait for the interpreter just then. The child has no such
            # thread, and would wait for it for ever, whatever runs in it.
            told, status = told_of_a_fork_in_c()
    assert (status, told) == (0, ["before", "in the parent"])


def told_of_a_fork_in_c():
    """What somebody who watches was told in the parent, and how the child ended; `None` if it hung, and was killed."""
    told = Told()
    quiet = forks.ForkAware()  # who overrides nothing is told nothing
    forks.watch(quiet)
    pid = ctypes.PyDLL(None).fork()
    if not pid:
        forks.notice(told)
        forks.notice(quiet)
        grandchild = os.fork()  # a fork of Python's in a child of C's
        if grandchild:
            ok = told.told == ["before", "in the child", "before", "in the parent"]
            os._exit(0 if ok and os.waitpid(grandchild, 0)[1] == 0 else 1)
        os._exit(0 if told.told == ["before", "in the child", "before", "in the child"] else 1)
    for _ in range(400):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return told.told, status
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return told.told, None


FORKS_WHILE_THREADS_END = """
import os, sys, threading
from pixel_middleware.runtime import forks

def begin_and_end_threads():
    while True:
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()

sys.setswitchinterval(1e-6)
for _ in range(3):
    threading.Thread(target=begin_and_end_threads, daemon=True).start()
for _ in range(200):
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
os._exit(0)
"""


def test_a_fork_does_not_hand_the_interpreter_to_a_thread_that_ends(run):
    done = run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS_WHILE_THREADS_END])
    assert (done.returncode, done.stderr) == (0, "")


def test_a_child_that_cannot_be_told_is_a_child_all_the_same(in_child):
    class Broken(Told):
        def after_fork_in_child(self):
            raise ZeroDivisionError

    broken, told = Broken(), Told()
    in_child(lambda: told.told == ["before", "in the child"] or 1 / 0)
    assert broken.told == ["before", "in the parent"]


def test_a_lock_that_nobody_keeps_leaves_no_file_open(tmp_path):
    lock = LockFile.at(tmp_path / "lock")
    owner = object()
    assert lock.claim(1, owner)
    (fd,) = [fd for fd in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{fd}").endswith("/lock")]
    del lock
    assert not os.path.exists(f"/proc/self/fd/{fd}")


def test_who_has_no_turn_ends_none(tmp_path):
    lock = LockFile.at(tmp_path / "lock")
    lock.end_turn()
    assert (lock.has_turn(), lock.take_turn(wait=False), lock.has_turn()) == (False, True, True)
    lock.end_turn()
    lock.close()


def test_a_signal_handler_that_puts_in_the_middle_of_a_put_waits_in_line_and_wedges_nobody(file, group, monkeypatch):
    monkeypatch.setattr(group_commit, "WAIT_S", 0.05)
    errors = []

    def handle():
        file.trouble = lambda: None
        try:
            group.put("in between")
        except StorageError as error:
            errors.append(str(error))

    file.trouble = handle
    group.put("first")
    group.put("later")
    assert errors == ["the file could not be had within 0.05 s: it is locked"]
    until(lambda: {"first", "later"} <= set(file.stored), "both")


def test_a_commit_that_ends_late_but_ends_is_a_success(file, group, monkeypatch):
    monkeypatch.setattr(group_commit, "WAIT_S", 0.3)
    begun, go_on = threading.Event(), threading.Event()
    file.trouble = lambda: begun.set() or (go_on.wait(PATIENCE_S) and None)
    file.turn.acquire()
    results = []
    thread = threading.Thread(target=lambda: results.append(group.put("x")), daemon=True)
    thread.start()
    until(lambda: group._waiting, "it waits")
    file.turn.release()
    assert begun.wait(PATIENCE_S)
    time.sleep(0.4)  # longer than who waits would wait for a turn
    go_on.set()
    thread.join()
    assert (results, file.stored) == ([None], ["x"])


def test_who_is_interrupted_while_it_waits_is_not_stored(file, group):
    class Interrupted(BaseException):
        pass

    def handle(number, frame):
        raise Interrupted

    def interrupt():
        until(lambda: group._waiting, "it waits")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    file.turn.acquire()
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    try:
        with pytest.raises(Interrupted):
            group.put("interrupted")
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    file.turn.release()
    group.put("next")
    assert file.stored == ["next"]
