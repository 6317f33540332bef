"""A power cut, at any moment of a writer's work, costs none of the events that it was told are stored."""

import hashlib
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import durable_writer
import power_cut
import pytest
from durable_writer import KINDS, new_event, open_sink
from processes import PATIENCE_S

import pixel_middleware

pytestmark = pytest.mark.real

TESTS = Path(__file__).parent
PACKAGE = Path(pixel_middleware.__file__).parent
SEED = 12
CHOICES = {"JSONLines": 40, "EventLog": 7, "EventLog with a destination": 6}
"""Random cuts between two flushes or acknowledgements: about 1,200 different states."""


@pytest.fixture(scope="module", autouse=True)
def needs_strace():
    if reason := power_cut.why_not():
        pytest.skip(reason)


@pytest.fixture
def scratch():
    """A folder in memory, where there is one: thousands of small files are written there and flushed."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def recorded(kind, scratch, packages=PACKAGE.parent):
    """The folder and the system calls of a writer, which has the package that is in the folder `packages`."""
    folder = scratch / "recorded"
    folder.mkdir()
    # No coverage is measured: the package may be a copy, and its calls would stand in the record.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    environment["PYTHONPATH"] = os.pathsep.join([str(packages), str(TESTS)])
    writer = [sys.executable, durable_writer.__file__, kind, str(folder)]
    return folder, power_cut.record(writer, environment, scratch)


class Found(NamedTuple):
    """What is there after the cut, by messageId."""

    kept: Counter
    still_delivered: set
    broken: int
    """How many lines or rows are no event."""


def reopened(kind, folder):
    """What is in the folder once a sink was opened there and took another event."""
    got = set()
    last_has_come = threading.Event()
    event = new_event()

    def receive(ids):
        got.update(ids)
        if event["messageId"] in got:
            last_has_come.set()

    with closing(open_sink(kind, folder, receive)) as sink:
        sink(event)
        if kind == "EventLog with a destination":
            assert last_has_come.wait(PATIENCE_S)
        assert event["messageId"] in sink.message_ids()
    if kind == "JSONLines":
        texts = [line for path in folder.iterdir() for line in path.read_bytes().splitlines()]
    else:
        with closing(sqlite3.connect(folder / "events.db")) as connection:
            texts = [text for (text,) in connection.execute("SELECT event FROM events")]
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    ids = [message_id(text) for text in texts]
    return Found(Counter(filter(None, ids)), got, ids.count(None))


def message_id(text):
    """Of an event as JSON; `None` if it is none."""
    try:
        return json.loads(text)["messageId"]
    except ValueError:
        return None


def complaint(kind, state, found):
    """What is wrong with a state: a log keeps each accepted event once; one with a destination delivers it, at last."""
    told = [line.split() for line in state.printed]
    accepted = {id for word, id in told if word == "accepted"}
    if kind == "EventLog with a destination":
        lost = accepted - {id for word, id in told if word == "delivered"} - found.still_delivered
    else:
        lost = {id for id in accepted if found.kept[id] != 1}
    if lost:
        return f"{len(lost)} of {len(accepted)} accepted events are lost, or there twice"
    # A line that was never acknowledged may stay half a line.
    if found.broken and (state.only_synced or kind != "JSONLines"):
        return f"{found.broken} events are broken"
    return None


def reopen_all(kind, scratch, folder, calls):
    """Each state as its digest and what is wrong with it; equal ones are reopened once."""
    found = {}
    for state in power_cut.cuts(calls, folder, choices=CHOICES[kind], seed=SEED):
        content = digest(state.files)
        if content not in found:
            copy = scratch / "copy"
            copy.mkdir()
            for name, data in state.files.items():
                (copy / name).write_bytes(data)
            found[content] = reopened(kind, copy)
            shutil.rmtree(copy)
        yield content, complaint(kind, state, found[content])


def digest(files):
    content = hashlib.sha256()
    for name, data in sorted(files.items()):
        content.update(f"{name}\n{len(data)}\n".encode() + data)
    return content.digest()


@pytest.mark.parametrize("kind", KINDS)
def test_no_power_cut_costs_an_accepted_event(kind, scratch):
    folder, calls = recorded(kind, scratch)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert power_cut.written(calls, folder) == files  # the model has understood the record
    states = list(reopen_all(kind, scratch, folder, calls))
    different = len({content for content, _ in states})
    print(json.dumps({"kind": kind, "states": len(states), "different": different}))
    assert ({what for _, what in states}, different >= 1000) == ({None}, True)


POSITION_TOO_EARLY = (
    '        """Deliver the head of the log, so that the position can move behind it. Raises `Down`."""\n',
    "        if head:\n            self._ledger.move_to(head[-1].id)\n            self._ledger.save()\n",
)


@pytest.mark.parametrize(
    ("kind", "file", "text", "instead"),
    [
        pytest.param("JSONLines", "sinks/jsonlines.py", "os.fdatasync(fd)", "pass", id="fdatasync of the lines"),
        pytest.param("JSONLines", "sinks/jsonlines.py", "os.fsync(directory)", "pass", id="fsync of the directory"),
        pytest.param("EventLog", "sinks/store.py", "synchronous = FULL", "synchronous = NORMAL", id="synchronous"),
        pytest.param("EventLog", "sinks/eventlog.py", "durable=True", "durable=False", id="durable commits"),
        pytest.param(
            *("EventLog with a destination", "sinks/eventlog.py", "durable=True", "durable=False"),
            id="durable commits, with a destination",
        ),
        pytest.param(
            *("EventLog with a destination", "sinks/courier.py", *POSITION_TOO_EARLY), id="position after delivery"
        ),
    ],
)
def test_code_that_forgets_a_flush_is_caught(kind, file, text, instead, scratch):
    changed = scratch / "changed" / PACKAGE.name
    shutil.copytree(PACKAGE, changed, ignore=shutil.ignore_patterns("__pycache__"))
    before = (changed / file).read_text("utf-8")
    assert before.count(text) == 1
    (changed / file).write_text(before.replace(text, instead), "utf-8")
    folder, calls = recorded(kind, scratch, changed.parent)
    assert any(what for _, what in reopen_all(kind, scratch, folder, calls))


def test_a_call_that_the_model_does_not_know_is_an_error(scratch):
    folder = scratch / "recorded"
    folder.mkdir()
    code = f"import os; open('{folder}/a', 'w').close(); os.link('{folder}/a', '{folder}/b')"
    calls = power_cut.record([sys.executable, "-c", code], os.environ, scratch)
    with pytest.raises(NotImplementedError, match="does not know link"):
        power_cut.written(calls, folder)
