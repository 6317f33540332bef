"""A log that is followed while servers write it and rotate it."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

import pytest
from dataplane import DataPlane
from processes import PATIENCE_S, until

from pixel_middleware.events import Visit, make_event, timestamp
from pixel_middleware.runtime.growing_file import BLOCK, GrowingFile
from pixel_middleware.sinks import EventLog, JSONLines

COMMAND = [sys.executable, "-m", "pixel_middleware", "replay"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "access.log"


@pytest.fixture
def read(path):
    """Reads what is new in the file."""
    path.write_bytes(b"before\n")
    with closing(GrowingFile(path, longest=100, start=7)) as file:
        blocks = file.blocks()

        def read():
            lines = []
            while block := next(blocks):
                lines += block
            return lines

        yield read


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


def test_lines_come_once_they_are_whole(path, read):
    append(path, b"one\ntw")
    assert read() == [b"one"]
    append(path, b"o\n\n")
    assert (read(), read()) == ([b"two", b""], [])


def test_what_is_still_written_to_a_renamed_file_is_read_with_the_new_one(path, read):
    append(path, b"one\n")
    old = path.rename(path.with_name("access.log.1"))
    append(old, b"two\nthr")
    assert read() == [b"one", b"two"]
    append(path, b"four\n")
    append(old, b"ee\n")
    assert read() == [b"three", b"four"]
    append(old, b"five\nhalf")
    append(path, b"six\n")
    assert read() == [b"five", b"six"]
    path.rename(path.with_name("access.log.2"))
    append(path, b"seven\n")
    assert read() == [b"half", b"seven"]


def test_what_a_copy_has_and_the_truncated_file_no_more_is_read_from_the_copy(path, read):
    append(path, b"one\ntw")
    assert read() == [b"one"]
    append(path, b"o\nthree\n")
    (path.parent / "access.log.0").write_bytes(b"older, and longer than what was read")
    (path.parent / "access.log.d").mkdir()
    shutil.copy(path, path.parent / "access-20261125.log")
    path.write_bytes(b"four\n")
    assert read() == [b"two", b"three", b"four"]


def test_a_file_that_was_truncated_and_outgrew_what_was_read_is_read_from_its_start(path, read):
    append(path, b"one\n")
    assert read() == [b"one"]
    path.write_bytes(b"two\nthree\nfour\nfive\n")
    assert read() == [b"two", b"three", b"four", b"five"]


def test_a_file_that_was_replaced_by_none_is_waited_for(path, read):
    path.unlink()
    assert read() == []
    path.write_bytes(b"one\n")
    assert read() == [b"one"]


@pytest.mark.parametrize("length", [101, 2 * BLOCK + 1])
def test_of_a_line_that_is_too_long_no_more_is_kept_than_tells_so(path, read, length):
    append(path, b"x" * length)
    begun = read()
    append(path, b"x\none\n" + b"y" * length + b"\n")
    assert begun + read() == [b"x" * 101, b"one", b"y" * 101]


START = datetime(2026, 10, 10, tzinfo=UTC)


def click(number):
    """An event as the collector stored it, and the line that the server wrote of it."""
    second = number // 10
    event = make_event(
        "track",
        {"writeKey": "k", "anonymousId": "a", "event": f"e{number}"},
        Visit(),
        timestamp(START + timedelta(seconds=second)),
    )
    moment = (START + timedelta(seconds=second)).strftime("%d/%b/%Y:%H:%M:%S +0000")
    query = f"writeKey=k&anonymousId=a&event=e{number}"
    line = f'192.0.2.1 - - [{moment}] "GET /pixel/v1/track?{query} HTTP/1.1" 200 2 "-" "-"\n'
    return event, line.encode()


def stored(path):
    """The names of the events in a file that may still be being made."""
    if not path.exists():
        return []
    if path.suffix == ".jsonl":
        whole = path.read_text().rpartition("\n")[0]  # the last line may be being written
        return [json.loads(line)["event"] for line in whole.splitlines()]
    with closing(sqlite3.connect(path)) as connection, suppress(sqlite3.OperationalError):
        return [name for (name,) in connection.execute("SELECT name FROM events")]
    return []


def rename(path, log, lines):
    """As with logrotate and nginx: the workers write to the old file until they open the new one, each at its time."""
    old = path.rename(path.with_name(f"{path.name}.1"))
    log.write(lines[0])
    append(path, lines[1])
    log.write(lines[2])
    log.close()
    old.chmod(0o400)
    return path.open("ab", buffering=0)


def copy_and_truncate(path, log, lines):
    log.write(lines[0])
    shutil.copy(path, path.with_name(f"{path.name}.1"))
    log.truncate(0)
    log.write(lines[1])
    log.write(lines[2])
    return log


@pytest.mark.parametrize(
    ("rotate", "output"), [(rename, "events.db"), (copy_and_truncate, "events.db"), (rename, "events.jsonl")]
)
def test_a_followed_log_loses_and_doubles_nothing_across_rotations(popen, tmp_path, path, rotate, output):
    """Every third event was collected live, into the same file, by a process that goes on."""
    output = tmp_path / output
    clicks = [click(number) for number in range(1500)]
    path.write_bytes(b"".join(line for _, line in clicks[:300]))
    follower = popen([*COMMAND, path, "--output", output, "--follow"], stdout=subprocess.PIPE, text=True)
    until(lambda: len(stored(output)) == 300, "what the log held")
    collector = (JSONLines if output.suffix == ".jsonl" else EventLog)(output)
    log = path.open("ab", buffering=0)
    for first in range(300, 1500, 300):
        some = clicks[first : first + 300]
        for event, line in some[:150]:
            if event["event"].endswith(("0", "3", "6", "9")):
                collector(event)
            log.write(line)
        log = rotate(path, log, [b"".join(line for _, line in some[start : start + 50]) for start in (150, 200, 250)])
        until(lambda first=first: len(stored(output)) >= first + 300, "what was written since")
    log.close()
    collector.close()
    follower.send_signal(signal.SIGTERM)
    assert follower.communicate(timeout=PATIENCE_S)[0].split() == ["1,260", "stored", "240", "known", "already"]
    assert follower.returncode == 0
    assert Counter(stored(output)) == Counter(f"e{number}" for number in range(1500))


def after(follower, said):
    """The next that a follower says after this."""
    until(lambda: said in follower.stderr.readline(), said)
    return follower.stderr.readline()


def test_a_full_disk_is_waited_for_and_said(popen, tmpfs, path):
    output = tmpfs / "events.db"
    path.write_bytes(click(0)[1])
    follower = popen([*COMMAND, path, "--output", output, "--follow"], stderr=subprocess.PIPE, text=True)
    until(lambda: stored(output) == ["e0"], "the first event")
    ballast = tmpfs / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError:
                break
    append(path, click(1)[1])
    assert after(follower, "is followed").endswith("; it is tried again\n")
    ballast.unlink()
    until(lambda: stored(output) == ["e0", "e1"], "the second event")
    follower.send_signal(signal.SIGINT)
    assert follower.wait(PATIENCE_S) == 0


def test_who_is_told_to_end_on_a_full_disk_says_so(popen, tmpfs, path):
    path.write_bytes(b"".join(click(number)[1] for number in range(5000)))
    follower = popen([*COMMAND, path, "--output", tmpfs / "events.db", "--follow"], stderr=subprocess.PIPE, text=True)
    assert after(follower, "is followed").endswith("; it is tried again\n")
    follower.send_signal(signal.SIGTERM)
    assert follower.wait(PATIENCE_S) == 2
    assert "Invalid value for --output" in follower.stderr.read()


def test_what_is_followed_is_sent_on_as_it_comes(popen, tmp_path, path):
    """A million lines of other requests before it: what is known of old lines is forgotten now and then."""
    path.write_bytes(b"/\n" * 1_000_001 + click(0)[1])
    with DataPlane() as plane:
        command = [*COMMAND, path, "--output", tmp_path / "events.db", "--follow", "--forward-to", f"lake={plane.url}"]
        follower = popen(command, stdout=subprocess.PIPE, text=True)
        until(lambda: plane.stored, "the event")
        append(path, click(1)[1])
        until(lambda: len(plane.stored) == 2, "the next event")
        follower.send_signal(signal.SIGINT)
        assert follower.communicate(timeout=PATIENCE_S)[0].endswith("2  stored\n")
    assert (follower.returncode, [event["event"] for event in plane.stored]) == (0, ["e0", "e1"])


def test_a_dry_run_follows_and_stores_nothing(popen, tmp_path, path):
    path.write_bytes(click(0)[1])
    command = [*COMMAND, path, "--output", tmp_path / "events.db", "--follow", "--dry-run"]
    follower = popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    append(path, click(1)[1])
    until(lambda: "is followed" in follower.stderr.readline(), "the follower")
    follower.send_signal(signal.SIGTERM)
    assert follower.communicate(timeout=PATIENCE_S)[0] == "        2  would be stored\n"
    assert not (tmp_path / "events.db").exists()
