"""`pixel-middleware log`: what it shows of an event log, and what it changes there."""

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import termios
import threading
import time
from contextlib import closing, suppress
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from dataplane import DataPlane
from processes import PATIENCE_S, until

from pixel_middleware import Rejected, RetryLater
from pixel_middleware.commands import cli, terminal
from pixel_middleware.destinations import Destination
from pixel_middleware.events import Refusal
from pixel_middleware.sinks import EventLog, positions, schema
from pixel_middleware.watch.live import SECRET

COMMAND = [sys.executable, "-m", "pixel_middleware", "log"]
REFUSED = "HTTP 400: no such luck"


class Taking(Destination):
    """Takes all but events called poison; the lane is the write key, and those that begin with bad are on hold."""

    def __init__(self):
        self.taken = []
        self.is_up = True

    def lane(self, event):
        return event["writeKey"]

    def send(self, events):
        if not self.is_up:
            raise ConnectionError("no route")
        if events[0]["writeKey"].startswith("bad"):
            raise RetryLater("unknown key", hold=True)
        self.taken += [event["event"] for event in events if event["event"] != "poison"]
        if poison := [event for event in events if event["event"] == "poison"]:
            raise Rejected("never", events=poison)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


@pytest.fixture
def lake():
    return Taking()


@pytest.fixture
def mixed(path, lake, make_event):
    """A log of two taken events, a dead letter (its id is 3) and one on hold (4), for the destination lake."""
    with closing(EventLog(path, {"lake": lake})) as log:
        log.put_many([make_event("a"), make_event("b"), make_event("poison"), make_event("c", "bad")])
        until(lambda: log.stats()["destinations"]["lake"]["lag"] == 0, "the courier")
    return path


def no_poison(write_key, batch):
    return (400, {}) if any(event["event"] == "poison" for event in batch) else None


def invoke(*arguments):
    return CliRunner().invoke(cli.cli, ["log", *map(str, arguments)], catch_exceptions=False)


def write(path, *statements):
    """What another program might do to the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def setbacks(path):
    with closing(EventLog(path)) as log:
        return log.read("SELECT destination, id, state FROM setbacks ORDER BY destination, id")


# what it shows


def test_it_shows_each_destination_and_why_lanes_are_on_hold(mixed):
    done = invoke(mixed)
    assert done.exit_code == 0
    assert re.sub(r"\d+(\.\d)? (s|KiB)\b", r"N \2", done.output) == (
        f"{mixed}: 4 events in N KiB, 0% of 1.0 GiB (max_bytes)\n"
        "\n"
        "lake\n"
        "  lag         0\n"
        "  held        1\n"
        "  oldest      N s\n"
        "  dead        1\n"
        "  given up    0\n"
        "  sent        2, the last N s ago\n"
        "  carried by  nobody now\n"
        "  last error  the events of lane 'bad' wait: unknown key\n"
        "\n"
        "On hold (the lanes that wait longest):\n"
        "  lake  bad  1 event  next try in N s  unknown key\n"
    )


def test_json_is_one_object_with_all_of_it(mixed):
    seen = json.loads(invoke(mixed, "--json").output)
    lake = seen["destinations"]["lake"]
    assert 0 <= lake.pop("last_success_age_s") < PATIENCE_S
    assert 0 <= lake.pop("oldest_age_s") < PATIENCE_S
    (hold,) = seen.pop("longest_holds")
    assert time.time() < hold.pop("retry_at") < time.time() + 3600
    assert datetime.fromisoformat(hold.pop("oldest_received_at")) <= datetime.now(UTC)
    assert hold == {"destination": "lake", "lane": "bad", "events": 1, "reason": "unknown key"}
    assert seen.pop("bytes") / 2**30 == seen.pop("full")
    assert 0 < seen.pop("pinned") < 0.001
    assert seen == {
        "version": schema.VERSION,
        "events": 4,
        "max_bytes": 2**30,
        "lanes_on_hold": 1,
        "destinations": {
            "lake": {
                "lag": 0,
                "held": 1,
                "dead": 1,
                "given_up": 0,
                "sent": 2,
                "retried": 1,
                "last_error": "the events of lane 'bad' wait: unknown key",
                "cause": "other",
                "carrier": None,
                "hangs": False,
                "unclaimed": False,
            }
        },
    }


def test_options_may_stand_on_either_side_of_the_file(mixed):
    before, behind = (json.loads(invoke(*arguments).output) for arguments in [("--json", mixed), (mixed, "--json")])
    assert (before.keys(), before["events"]) == (behind.keys(), behind["events"])


def test_a_log_without_destinations_has_the_disk_as_its_bound(path, make_event):
    with closing(EventLog(path)) as log:
        log(make_event())
    assert re.fullmatch(rf"{path}: 1 event in [\d.]+ KiB, [\d.,]+ \w+ are free on its disk\n", invoke(path).output)
    seen = json.loads(invoke(path, "--json").output)
    assert (seen["max_bytes"], seen["full"], seen["pinned"], seen["destinations"]) == (None, None, None, {})


def test_it_warns_of_what_is_pinned_from_80_percent_on(path, make_event, lake):
    lake.is_up = False
    with closing(EventLog(path, {"lake": lake})) as log:
        log.put_many([make_event(f"e{number}") for number in range(1000)])
        size = log.stats()["bytes"]
    assert "Warning" not in invoke(path, "--max-bytes", int(size / 0.75)).output
    warned = invoke(path, "--max-bytes", int(size / 0.85)).output
    assert "\nWarning: it is 85% full of what is still to be delivered; at 100% pixels are refused.\n" in warned
    write(path, "UPDATE destinations SET position = 1000")  # all is delivered: full, but of what may go
    assert "Warning" not in invoke(path, "--max-bytes", int(size / 0.85)).output


def test_it_names_the_process_that_carries_and_says_whether_it_hangs(path, make_event):
    lake = Taking()
    with closing(EventLog(path, {"lake": lake})) as log:
        log(make_event())
        assert log.flush(timeout_s=PATIENCE_S)
        assert f"  carried by  process {os.getpid()}\n" in invoke(path).output
        lake.is_up = False
        write(path, "UPDATE destinations SET beat_at = 0, position = 0")
        assert f"  carried by  process {os.getpid()}, which hangs\n" in invoke(path).output


def test_it_says_which_destination_no_process_has_any_more(mixed):
    write(mixed, "UPDATE destinations SET claimed_at = 1")
    assert (
        "  unclaimed   no process has had it for 7 days: it pins nothing any more; drop ends it\n"
        in invoke(mixed).output
    )


def test_it_shows_the_lanes_that_wait_longest_and_how_many_more_there_are(path, lake, make_event):
    with closing(EventLog(path, {"lake": lake})) as log:
        log.put_many([make_event("e", f"bad-{number}\x1b[2J") for number in range(23)])
        until(lambda: log.stats()["destinations"]["lake"]["held"] == 23, "the courier")
    write(
        path,
        f"UPDATE lanes SET lane = '{positions.OTHERS}' WHERE lane LIKE 'bad-0%'".replace("\0", "' || char(0) || '"),
    )
    write(path, "UPDATE setbacks SET lane = '' || char(0) || 'others' WHERE lane LIKE 'bad-0%'")
    shown = invoke(path).output.partition("\nOn hold ")[2]
    assert shown.startswith("(the lanes that wait longest; 3 more do):\n  lake  (all others)  1 event  ")
    assert re.findall(r"bad-(\d+)\?\[2J ", shown) == [str(number) for number in range(1, 20)]


@pytest.fixture
def on_terminal(popen, tmp_path):
    """Runs a command on a terminal of 80 columns: what it prints, and its exit code. Ctrl-C when it `shows` this."""

    def on_terminal(*arguments, shows=None):
        ours, its_end = pty.openpty()
        termios.tcsetwinsize(its_end, (50, 80))
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), its_end)
        process = popen([*COMMAND, *arguments], cwd=tmp_path, env=os.environ | {"PYTHONDEVMODE": ""}, **ends)
        os.close(its_end)
        printed = b""
        with open(ours, "rb", buffering=0) as screen, suppress(OSError):  # so Linux says that the end is closed
            while said := screen.read(65536):
                printed += said
                if shows is not None and shows in printed:
                    process.send_signal(signal.SIGINT)
                    shows = None
        return printed.decode(), process.wait(PATIENCE_S)

    return on_terminal


def test_a_terminal_of_80_columns_shows_long_errors_in_several_lines(mixed, on_terminal):
    write(mixed, f"UPDATE destinations SET last_error = '{'why ' * 50}'")
    printed, _ = on_terminal(mixed.name)
    assert max(map(len, printed.splitlines())) <= 80
    assert f"  last error  {'why ' * 16}".rstrip() in printed
    assert f"\r\n{' ' * 14}why why" in printed
    assert f"  last error  {'why ' * 50}".rstrip() + "\n" in invoke(mixed).output  # whole lines in a pipe


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (119, "119 s"), (150, "2 min"), (7300, "2 h"), (86400 * 12345, "12,345 days")]
)
def test_a_duration_is_shown_in_a_unit_that_people_read(seconds, shown):
    assert terminal.duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(512, "0.5 KiB"), (3 << 20, "3.0 MiB"), (1 << 30, "1.0 GiB"), (5000 << 40, "5,000.0 TiB")]
)
def test_a_size_is_shown_in_a_unit_that_people_read(count, shown):
    assert terminal.size(count) == shown


# refused


@pytest.fixture
def refusing(path):
    """A log that has kept one refusal of each kind."""
    kept = [
        Refusal(
            *(1767323045.678, "rejected", "missing_event", "event is missing; add event=...", "/pixel/v1/track"),
            *("writeKey=k&x=" + "y" * 5000, "Mozilla/5.0", "192.0.2.0"),
        ),
        Refusal(1767323046.0, "failed", "sink_failed", "", "/pixel/v1/page", "a=\x1b[2J", "", "", "OSError: full"),
        Refusal(1767323047.0, "dropped", cause="honor_gpc"),
    ]
    with closing(EventLog(path)) as log:
        for refusal in kept:
            log.refused(refusal)
    return path


def test_refused_lists_a_request_a_line_with_its_whole_query(refusing):
    query = "writeKey=k&x=" + "y" * 5000
    lines = [
        f"2026-01-02T03:04:05.678Z  rejected  missing_event  /pixel/v1/track?{query}  "
        "event is missing; add event=...  from 192.0.2.0",
        "2026-01-02T03:04:06.000Z  failed    sink_failed  /pixel/v1/page?a=?[2J  OSError: full",
        "2026-01-02T03:04:07.000Z  dropped   honor_gpc",
    ]
    assert invoke(refusing, "refused").output.splitlines() == lines
    assert invoke(refusing, "refused", "-n", "1").output.splitlines() == lines[2:]


def test_refused_has_the_rest_as_json(refusing):
    first, second, third = map(json.loads, invoke(refusing, "refused", "--json").output.splitlines())
    assert (first["user_agent"], first["at"]) == ("Mozilla/5.0", "2026-01-02T03:04:05.678Z")
    assert (second["query"], third["kind"]) == ("a=\x1b[2J", "dropped")


# send


def test_send_carries_what_is_left_and_says_how_much_it_was(path, make_event):
    with DataPlane(no_poison) as plane:
        with closing(EventLog(path, {"lake": Taking()})):
            pass
        with closing(EventLog(path)) as log:
            log.put_many([make_event("a"), make_event("b"), make_event("poison")])
        done = invoke(path, "send", f"lake={plane.url}")
        assert (done.exit_code, done.stdout) == (0, "2 sent, 1 dead, 0 left\n")
        assert [event["event"] for event in plane.stored] == ["a", "b"]
        assert invoke(path, "send", f"lake={plane.url}").output == "0 sent, 0 dead, 0 left\n"


def test_send_to_a_destination_that_is_new_says_that_history_needs_a_rewind(path, make_event):
    with closing(EventLog(path)) as log:
        log(make_event())
    with DataPlane() as plane:
        done = invoke(path, "send", f"lake={plane.url}")
        assert done.output == (
            f"lake is new to {path}: it gets what comes from now on, and not the 1 event before.\n"
            f"To send them too: pixel-middleware log {path} rewind lake\n"
            "0 sent, 0 dead, 0 left\n"
        )
        invoke(path, "rewind", "lake")
        assert invoke(path, "send", f"lake={plane.url}").output == "1 sent, 0 dead, 0 left\n"


def test_what_is_left_when_the_time_is_over_exits_1_and_says_why(path, make_event):
    with closing(EventLog(path, {"lake": Taking()})):
        pass
    with closing(EventLog(path)) as log:
        log.put_many([make_event("a"), make_event("b")])
    with DataPlane(lambda key, batch: (503, {})) as plane:
        done = invoke(path, "send", f"lake={plane.url}", "--timeout", "0.5")
    assert done.exit_code == 1
    assert done.stdout == (
        "0 sent, 0 dead, 2 left\nlake: nothing can be delivered, and the events are kept: HTTP 503: no such luck\n"
    )
    done = invoke(path, "send", "lake=http://127.0.0.1:9", "--timeout", "0")
    assert done.exit_code == 1


def test_a_terminal_shows_a_bar_and_what_holds_it_up_until_ctrl_c(path, make_event, on_terminal):
    with closing(EventLog(path, {"lake": Taking()})):
        pass
    with closing(EventLog(path)) as log:
        log.put_many([make_event("a"), make_event("b")])
    with DataPlane(lambda key, batch: (503, {})) as plane:
        why = b"lake: nothing can be delivered, and the events are kept: HTTP 503"
        printed, code = on_terminal(path, "send", f"lake={plane.url}", shows=why)
    assert (code, " 0/2 [" in printed, "Traceback" in printed) == (1, True, False)
    assert "\r\n0 sent, 0 dead, 2 left\r\n" in printed


def test_a_terminal_says_that_the_process_that_carries_hangs(path, make_event, on_terminal):
    may_end = threading.Event()

    class Hanging(Destination):
        def send(self, events):
            if events[0]["event"] == "slow":
                may_end.wait(PATIENCE_S)

    with closing(EventLog(path, {"lake": Hanging()})) as log:
        log(make_event("fast"))
        assert log.flush(PATIENCE_S)
        log(make_event("slow"))
        write(path, "UPDATE destinations SET beat_at = 0")  # long ago
        hangs = f"lake: process {os.getpid()}, which carries, hangs".encode()
        printed, code = on_terminal(path, "send", "lake=http://127.0.0.1:9", shows=hangs)
        may_end.set()
    assert (code, hangs.decode() in printed) == (1, True)


def test_where_another_process_carries_send_shows_its_progress(path, make_event, popen):
    lake = Taking()
    lake.is_up = False
    with closing(EventLog(path, {"lake": lake}, retry_min_s=0.01, retry_max_s=0.1)) as log:
        log(make_event("a"))
        until(lambda: log.stats()["destinations"]["lake"]["carries"], "the courier")
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONDEVMODE": ""}
        command = [*COMMAND, path, "send", "lake=http://127.0.0.1:9"]
        process = popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        said = process.stdout.readline()
        assert said == f"Process {os.getpid()} carries to lake already; this shows how far it is.\n"
        lake.is_up = True
        assert process.stdout.read() == "1 sent, 0 dead, 0 left\n"
        assert (process.wait(PATIENCE_S), lake.taken) == (0, ["a"])


# dead letters


def test_dead_lists_what_was_refused_and_why(mixed):
    listed = invoke(mixed, "dead").output
    assert re.fullmatch(r"lake: 1 dead\n +3  2\S+Z  track  poison  by a\n +lane k: never\n", listed)
    (letter,) = map(json.loads, invoke(mixed, "dead", "--destination", "lake", "--json").output.splitlines())
    assert letter.pop("event")["event"] == "poison"
    assert letter == {"destination": "lake", "id": 3, "lane": "k", "reason": "never"}


def test_dead_shows_the_newest_and_json_all(path, make_event):
    class Refusing(Destination):
        def send(self, events):
            raise Rejected("never", events=list(events))

    with closing(EventLog(path, {"lake": Refusing()})) as log:
        log.put_many([make_event(f"e{number}") for number in range(1005)])
        assert log.flush(timeout_s=PATIENCE_S)
    listed = invoke(path, "dead").output
    assert listed.startswith("lake: 1,005 dead, the newest 20\n     986  ")
    assert re.findall(r"  e(\d+)  ", listed) == [str(number) for number in range(985, 1005)]
    assert "lane" not in listed
    letters = list(map(json.loads, invoke(path, "dead", "--json").output.splitlines()))
    assert [letter["id"] for letter in letters] == list(range(1, 1006))


def test_retry_has_dead_letters_and_held_events_tried_again(mixed, make_event):
    done = invoke(mixed, "retry")
    assert done.output == "lake: 1 dead and 1 held event will be tried again\n".replace("held event", "held events")
    assert setbacks(mixed) == [("lake", 3, "held"), ("lake", 4, "held")]
    with DataPlane() as plane:
        assert invoke(mixed, "send", f"lake={plane.url}").output == "2 sent, 0 dead, 0 left\n"
        assert {event["event"] for event in plane.stored} == {"poison", "c"}
    assert setbacks(mixed) == []


def test_a_process_that_carries_notices_a_retry_at_once(path, make_event):
    lake = Taking()
    with closing(EventLog(path, {"lake": lake})) as log:
        log.put_many([make_event("a"), make_event("poison"), make_event("c", "bad")])
        until(lambda: log.stats()["destinations"]["lake"]["lag"] == 0, "the courier")
        lake.send = lambda events: lake.taken.extend(event["event"] for event in events)  # it is mended
        assert invoke(path, "retry", "--destination", "lake").exit_code == 0
        until(lambda: sorted(lake.taken) == ["a", "c", "poison"], "the retry")
    assert setbacks(path) == []


class Flaky(Destination):
    """Fails one event alone, with an error that may be its fault, until it is mended."""

    def __init__(self):
        self.taken = []
        self.is_mended = False

    def send(self, events):
        if not self.is_mended and any(event["event"] == "odd" for event in events):
            raise ValueError("odd")
        self.taken += [event["event"] for event in events]


def test_retry_hastens_events_that_failed_alone(path, make_event):
    flaky = Flaky()
    with closing(EventLog(path, {"lake": flaky}, retry_min_s=3000.0, retry_max_s=3000.0)) as log:
        log.put_many([make_event("a"), make_event("odd"), make_event("b")])
        until(lambda: log.read("SELECT attempts FROM setbacks") == [(1,)], "the courier")
        flaky.is_mended = True
        assert invoke(path, "retry", "--id", "2").output == "lake: 0 dead and 1 held events will be tried again\n"
        until(lambda: flaky.taken == ["a", "b", "odd"], "the courier")


@pytest.mark.parametrize(
    ("which", "states"),
    [
        (["--lane", "bad"], ["dead", "held", "dead"]),
        (["--lane", "k"], ["held", "held", "held"]),
        (["--id", "3"], ["held", "held", "dead"]),
        (["--lane", "k", "--id", "4"], ["dead", "held", "dead"]),
        ([], ["held", "held", "held"]),
    ],
)
def test_retry_takes_all_or_a_lane_or_one_event(mixed, which, states):
    write(mixed, "INSERT INTO setbacks SELECT 'lake', 1, lane, state, reason, 0, 0, 100 FROM setbacks WHERE id = 3")
    assert invoke(mixed, "retry", *which).exit_code == 0
    ids = {id_: state for _, id_, state in setbacks(mixed)}
    assert [ids[3], ids[4], ids[1]] == states


def test_lanes_that_are_too_many_to_have_a_row_wait_together(path, lake, make_event):
    with closing(EventLog(path, {"lake": lake})) as log:
        log.put_many([make_event(f"e{number}") for number in range(3)])
    write(
        path,
        "UPDATE destinations SET position = 3",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9998) "
        "INSERT OR REPLACE INTO lanes SELECT 'lake', 'lane-' || i, 1, 0, 0, '' FROM n",
        "DELETE FROM lanes WHERE lane NOT LIKE 'lane-%'",
        "INSERT INTO setbacks SELECT 'lake', id, 'of-' || id, 'dead', 'why', 0, 0, 100 FROM events",
    )
    assert invoke(path, "retry").output == "lake: 3 dead and 0 held events will be tried again\n"
    with closing(EventLog(path)) as log:
        assert log.read("SELECT lane FROM setbacks ORDER BY id") == [("of-1",), ("\0others",), ("\0others",)]
        assert log.read("SELECT lane, hold_s > 0 FROM lanes WHERE lane NOT LIKE 'lane-%' ORDER BY lane") == [
            ("\0others", 1),
            ("of-1", 1),
        ]
    assert invoke(path, "check").exit_code == 0


def test_more_setbacks_than_go_into_one_transaction_are_all_retried_and_all_discarded(path, make_event):
    count = 1203
    with closing(EventLog(path, {"lake": Taking()})) as log:
        log.put_many([make_event("poison") for _ in range(count)])
        assert log.flush(timeout_s=PATIENCE_S)
    assert invoke(path, "retry").output == "lake: 1,203 dead and 0 held events will be tried again\n"
    assert invoke(path, "discard").output == "lake: 0 events discarded; 1,203 are held, and still tried (--held)\n"
    assert invoke(path, "discard", "--held").output == "lake: 1,203 events discarded\n"
    assert setbacks(path) == []


def test_discard_forgets_dead_letters_and_held_events_only_when_told(mixed):
    assert invoke(mixed, "discard").output == "lake: 1 event discarded; 1 are held, and still tried (--held)\n"
    assert setbacks(mixed) == [("lake", 4, "held")]
    assert invoke(mixed, "discard", "--lane", "bad", "--held").output == "lake: 1 event discarded\n"
    assert setbacks(mixed) == []
    with closing(EventLog(mixed)) as log:
        assert log.stats()["events"] == 4  # they stay in the log
    with DataPlane() as plane:
        assert invoke(mixed, "send", f"lake={plane.url}").output == "0 sent, 0 dead, 0 left\n"
        assert plane.stored == []


def test_what_is_discarded_while_it_is_tried_does_not_come_back(path, make_event):
    class Slow(Taking):
        """Tells when it is asked, and answers when it may."""

        def __init__(self):
            super().__init__()
            self.asked, self.may_answer = os.pipe(), os.pipe()

        def send(self, events):
            self.taken += [event["event"] for event in events]
            os.write(self.asked[1], b"x")
            os.read(self.may_answer[0], 1)
            raise RetryLater("unknown key", hold=True)

    slow = Slow()
    with closing(EventLog(path, {"lake": slow})) as log:
        log(make_event("a", "bad"))
        os.read(slow.asked[0], 1)
        os.write(slow.may_answer[1], b"x")
        until(lambda: setbacks(path) == [("lake", 1, "held")], "the courier")
        invoke(path, "retry")
        os.read(slow.asked[0], 1)  # it is being tried
        invoke(path, "discard", "--held")
        os.write(slow.may_answer[1], b"x")
        log(make_event("b", "bad"))
        os.read(slow.asked[0], 1)  # it has read the file anew
        os.write(slow.may_answer[1], b"x")
        until(lambda: setbacks(path) == [("lake", 2, "held")], "the courier")
    assert slow.taken == ["a", "a", "b"]  # nor is it sent once more
    for end in (*slow.asked, *slow.may_answer):
        os.close(end)


# rewind, drop


def test_rewind_sends_the_log_again_or_what_came_since(path, lake, make_event):
    with closing(EventLog(path, {"lake": lake})) as log:
        for day in (1, 2, 3):
            log(make_event(f"day {day}") | {"receivedAt": f"2026-01-0{day}T12:00:00.000Z"})
        assert log.flush(timeout_s=PATIENCE_S)
    waits = ", as soon as a process that has it runs"
    for since, count in [
        ("2026-01-02", "2 events"),
        ("2026-01-02T13:00:00+02:00", "2 events"),
        ("2026-01-02T13:00", "1 event"),
        ("2027-01-01", "0 events"),
    ]:
        assert invoke(path, "rewind", "lake", "--since", since).output.startswith(
            f"{count} will be sent again to lake{waits}"
        )
    done = invoke(path, "rewind", "lake")
    assert done.output == (f"3 events will be sent again to lake{waits} (pixel-middleware log {path} send lake=URL)\n")
    with DataPlane() as plane:
        assert invoke(path, "send", f"lake={plane.url}").output == "3 sent, 0 dead, 0 left\n"


def test_a_moment_that_is_none_says_what_one_looks_like(mixed):
    done = invoke(mixed, "rewind", "lake", "--since", "yesterday")
    assert (done.exit_code, "'yesterday' is no moment like 2026-01-02 or 2026-01-02T03:04:05+02:00" in done.output) == (
        2,
        True,
    )


def test_drop_forgets_a_destination_with_all_that_it_had(mixed):
    assert invoke(mixed, "drop", "lake").output == "lake is forgotten, and gets nothing more\n"
    with closing(EventLog(mixed)) as log:
        assert log.stats()["destinations"] == {}
        assert log.read("SELECT (SELECT count(*) FROM setbacks), (SELECT count(*) FROM lanes)") == [(0, 0)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["rewind", "see"],
        ["drop", "see"],
        ["retry", "--destination", "see"],
        ["discard", "--destination", "see"],
        ["dead", "--destination", "see"],
    ],
)
def test_a_destination_that_the_log_does_not_have_is_an_error_that_names_those_it_has(mixed, arguments):
    before = setbacks(mixed)
    done = invoke(mixed, *arguments)
    assert (done.exit_code, done.stderr) == (1, f"Error: {mixed} has no destination 'see'; it has lake\n")
    assert setbacks(mixed) == before


# check


def test_check_says_that_a_log_is_sound(mixed):
    assert invoke(mixed, "check").output == f"{mixed} is sound: version {schema.VERSION}, 4 events\n"


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE destinations SET position = 99", "destination 'lake' is at a place in the log that there is not"),
        ("DELETE FROM events WHERE id = 3", "destination 'lake' has setbacks whose events are gone"),
        (
            "UPDATE setbacks SET state = 'lost' WHERE id = 3",
            "destination 'lake' has setbacks that are neither held nor dead",
        ),
        (
            "DELETE FROM lanes WHERE lane = 'bad'",
            "destination 'lake' has events that wait for a lane that is not on hold, so that nothing tries them: "
            "retry does",
        ),
        (
            "UPDATE setbacks SET destination = 'see' WHERE id = 3",
            "there are setbacks of 'see', which is no destination of the log",
        ),
        (
            "INSERT INTO lanes VALUES ('see', 'k', 1, 0, 0, '')",
            "there are lanes of 'see', which is no destination of the log",
        ),
    ],
)
def test_check_says_what_the_tables_contradict_each_other_in(mixed, statement, fault):
    write(mixed, statement)
    done = invoke(mixed, "check")
    assert (done.exit_code, done.stdout) == (1, f"{mixed}: {fault}\n")


def test_retry_cures_events_whose_lane_nothing_tries(mixed):
    write(mixed, "DELETE FROM lanes WHERE lane = 'bad'")
    invoke(mixed, "retry", "--lane", "bad")
    assert invoke(mixed, "check").exit_code == 0


def test_check_finds_an_index_that_lacks_rows(mixed):
    other = "CREATE INDEX setbacks_by_id ON setbacks (bytes)"
    write(
        mixed, "PRAGMA writable_schema = ON", f"UPDATE sqlite_master SET sql = '{other}' WHERE name = 'setbacks_by_id'"
    )
    done = invoke(mixed, "check")
    assert (done.exit_code, "missing from index setbacks_by_id" in done.stdout) == (1, True)


def test_check_finds_a_broken_page(path, make_event):
    with closing(EventLog(path)) as log:
        log.put_many([make_event("e" * 1000) for _ in range(100)])
    content = bytearray(path.read_bytes())  # nobody has it open
    content[-20 * 4096 : -18 * 4096] = b"\xff" * 8192
    path.write_bytes(content)
    done = invoke(path, "check")
    assert (done.exit_code, "sound" in done.output) == (1, False)
    assert re.search("database disk image is malformed|page", done.output)


# the live view


def test_live_tells_the_token_that_the_file_keeps(path):
    with closing(EventLog(path)) as log:
        token = log.secret(SECRET)
        assert invoke(path, "live").stdout == f"{token}\n"
    assert path.stat().st_mode & 0o777 == 0o600


# files that are none


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dead"],
        ["retry"],
        ["discard"],
        ["rewind", "lake"],
        ["drop", "lake"],
        ["check"],
        ["live"],
        ["send", "lake=http://h"],
    ],
)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no file {}"),
        (b"no database at all" * 100, "{} is no event log: file is not a database"),
        (b"", "{} is no event log: it is empty"),
    ],
)
def test_what_is_no_log_is_one_sentence_and_no_litter(path, arguments, content, reason):
    if content is not None:
        path.write_bytes(content)
    done = invoke(path, *arguments)
    assert (done.exit_code, done.output) == (1, f"Error: {reason.format(path)}\n")
    assert os.listdir(path.parent) == ([] if content is None else [path.name])


def test_json_lines_are_no_log_but_can_be_shown(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"messageId": "m"}\n' * 100)
    done = invoke(tmp_path / "events.jsonl")
    assert done.output.endswith("file is not a database; `pixel-middleware tail` shows JSON Lines\n")


def test_another_programs_database_is_left_alone(path):
    write(path, "CREATE TABLE a (b)")
    before = path.read_bytes()
    done = invoke(path, "check")
    assert "is no event log: it is the database of another program" in done.output
    assert (path.read_bytes(), os.listdir(path.parent)) == (before, [path.name])


def test_help_needs_no_file(path):
    for command in ("send", "dead", "retry", "discard", "rewind", "drop", "check", "live"):
        done = invoke(path, command, "--help")
        assert (done.exit_code, f"log FILE {command} " in done.output) == (0, True)
