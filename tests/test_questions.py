"""What a log answers: views, `report` and `export`."""

import csv
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from chromium import browse, needs_chromium
from pyarrow import parquet

from pixel_middleware import events as events_module
from pixel_middleware.events import Refusal
from pixel_middleware.sinks import EventLog, JSONLines

COMMAND = [sys.executable, "-m", "pixel_middleware"]

OPENS = [  # day, visitor, campaign
    ("2026-11-01", "ann", "spring"),
    ("2026-11-01", "ann", "spring"),
    ("2026-11-01", "bob", "spring"),
    ("2026-11-03", "ann", "summer"),
    ("2026-11-03", "eve", None),
]


@pytest.fixture
def path(tmp_path, make_event):
    """A log of five opened mails, of which the second was stored twice."""
    path = tmp_path / "events.db"
    with closing(EventLog(path)) as log:
        for number, (day, visitor, campaign) in enumerate(OPENS):
            properties = {} if campaign is None else {"campaign": campaign}
            event = make_event("Opened", anonymousId=visitor, properties=properties)
            event |= {"receivedAt": f"{day}T10:0{number}:00.000Z", "messageId": f"m{max(1, number)}"}
            log(event)
    return path


def test_views_have_a_column_for_what_is_asked_most(tmp_path, make_event):
    visit = events_module.Visit("192.0.2.1", "Mozilla", "de-CH", "https://shop.example/a")
    sent = {"writeKey": "k", "anonymousId": "ann", "userId": "7", "name": "Home", "properties": {"title": "Hello"}}
    page = events_module.make_event("page", sent, visit)
    track = make_event("Buy", context={"campaign": {"name": "spring"}}, properties={"total": "3"})
    with closing(EventLog(tmp_path / "events.db")) as log:
        log(page)
        log(track)
        assert log.read("SELECT * FROM pages") == [
            (
                1,
                page["receivedAt"],
                "k",
                page["messageId"],
                "ann",
                "7",
                "Home",
                "https://shop.example/a",
                None,
                "Hello",
                None,
                None,
                "192.0.2.1",
                "Mozilla",
                "de-CH",
                json.dumps(page["properties"], separators=(",", ":")),
            )
        ]
        assert log.read("SELECT * FROM tracks") == [
            (
                2,
                track["receivedAt"],
                "k",
                track["messageId"],
                "a",
                None,
                "Buy",
                None,
                "spring",
                "192.0.2.1",
                "tests",
                None,
                '{"total":"3"}',
            )
        ]


def test_visitors_and_campaigns_are_counted(path):
    with closing(EventLog(path)) as log:
        assert log.read("SELECT * FROM visitors ORDER BY visitor") == [
            ("ann", "2026-11-01T10:00:00.000Z", "2026-11-03T10:03:00.000Z", 3, 2, 0, 3),
            ("bob", "2026-11-01T10:02:00.000Z", "2026-11-01T10:02:00.000Z", 1, 1, 0, 1),
            ("eve", "2026-11-03T10:04:00.000Z", "2026-11-03T10:04:00.000Z", 1, 1, 0, 1),
        ]
        assert log.read("SELECT * FROM campaigns ORDER BY campaign") == [
            ("spring", "2026-11-01T10:00:00.000Z", "2026-11-01T10:02:00.000Z", 3, 2, 2),
            ("summer", "2026-11-03T10:03:00.000Z", "2026-11-03T10:03:00.000Z", 1, 1, 1),
        ]


def row(by, key, *counts):
    return {by: key} | dict(zip(("events", "visitors", "messages"), counts, strict=True))


ROWS = {
    "day": [row("day", "2026-11-01", 3, 2, 2), row("day", "2026-11-02", 0, 0, 0), row("day", "2026-11-03", 2, 2, 2)],
    "name": [row("name", "Opened", 5, 3, 4)],
    "key": [row("key", "k", 5, 3, 4)],
    "campaign": [row("campaign", *each) for each in (("spring", 3, 2, 2), ("", 1, 1, 1), ("summer", 1, 1, 1))],
}


@pytest.mark.parametrize("by", ROWS)
def test_report_counts_events_visitors_and_messages(path, pixel, by):
    expected = {"events": 5, "visitors": 3, "messages": 4, "rows": ROWS[by]}
    assert json.loads(pixel("report", path, "--by", by, "--json")) == expected


@pytest.fixture
def scattered(path):
    """The file, with ids as if 3,000,000 events had been stored, and most of them deleted."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE events SET id = id * 600000")
        connection.commit()
    return path


@pytest.mark.parametrize("by", ["day", "campaign"])
def test_report_counts_the_same_in_parts_and_by_several_processes(scattered, run, by):
    done = run([*COMMAND, "report", scattered, "--by", by, "--json"])
    assert json.loads(done.stdout) == {"events": 5, "visitors": 3, "messages": 4, "rows": ROWS[by]}


def test_report_forks_no_process_that_has_other_threads(scattered, pixel):
    is_over = threading.Event()
    thread = threading.Thread(target=is_over.wait)
    thread.start()
    try:
        expected = {"events": 5, "visitors": 3, "messages": 4, "rows": ROWS["campaign"]}
        assert json.loads(pixel("report", scattered, "--by", "campaign", "--json")) == expected
    finally:
        is_over.set()
        thread.join()


def test_report_of_a_period_has_its_first_moment_and_not_its_last(path, pixel):
    period = ["--since", "2026-11-01T10:02", "--until", "2026-11-03T11:04:00+01:00"]
    assert json.loads(pixel("report", path, "--by", "campaign", "--json", *period)) == {
        "events": 2,
        "visitors": 2,
        "messages": 2,
        "rows": [row("campaign", "spring", 1, 1, 1), row("campaign", "summer", 1, 1, 1)],
    }
    empty = {"events": 0, "visitors": 0, "messages": 0, "rows": []}
    assert json.loads(pixel("report", path, "--since", "2027-01-01", "--json")) == empty


def test_report_gives_csv(path, pixel):
    assert list(csv.reader(pixel("report", path, "--by", "campaign", "--csv").splitlines())) == [
        ["campaign", "events", "visitors", "messages"],
        ["spring", "3", "2", "2"],
        ["", "1", "1", "1"],
        ["summer", "1", "1", "1"],
    ]


def test_report_in_a_pipe_is_plain(path, pixel):
    assert pixel("report", path) == (
        "day         events  visitors  messages\n"
        "2026-11-01       3         2         2\n"
        "2026-11-02       0         0         0\n"
        "2026-11-03       2         2         2\n"
        "all              5         3         4\n"
    )


def put_mails(path, make_event, names):
    with closing(EventLog(path)) as log:
        log.put_many(make_event(name) for name in names)


def test_report_on_a_terminal_has_bars_and_fits(tmp_path, popen, make_event):
    path = tmp_path / "events.db"
    put_mails(path, make_event, ["long " * 30] * 1500 + ["\x1b[2J"] * 1000 + [f"{number}" for number in range(60)])
    terminal, its_end = pty.openpty()
    environment = os.environ | {"COLUMNS": "70"}
    popen([*COMMAND, "report", path, "--by", "name"], stdout=its_end, env=environment)
    os.close(its_end)
    output = b""
    while True:
        try:
            output += os.read(terminal, 65536)
        except OSError:  # its program has ended
            break
    lines = output.decode().splitlines()
    assert lines[1].endswith("…   1,500         1     1,500  ████████████████████████")
    assert lines[2].startswith("?[2J ")
    assert lines[2].endswith(" 1,000         1     1,000  ████████████████")
    assert max(map(len, lines)) <= 70
    assert lines[-1] == "12 more are in --csv and --json"


def test_report_by_reason_counts_refused_requests(path, pixel):
    with closing(EventLog(path)) as log:
        for reason, at in (("missing_event", 10.0), ("missing_event", 20.0), ("too_deep", 20.0)):
            log.refused(Refusal(at, "rejected", reason))
    rows = [{"reason": "missing_event", "refused": 2}, {"reason": "too_deep", "refused": 1}]
    assert json.loads(pixel("report", path, "--by", "reason", "--json")) == {"refused": 3, "rows": rows}
    later = json.loads(pixel("report", path, "--by", "reason", "--json", "--since", "1970-01-01T00:00:15"))
    assert later["refused"] == 2


@needs_chromium
def test_report_writes_a_page_for_browsers(tmp_path, pixel, make_event):
    path, page = tmp_path / "events.db", tmp_path / "report.html"
    put_mails(path, make_event, ["<b>&bold"] * 4 + ["other"])
    assert pixel("report", path, "--by", "name", "--html", page) == f"{page} is written\n"
    dom, console = browse(page.as_uri(), tmp_path / "profile")
    rows = [re.findall(r">([^<>]+)<", row) for row in dom.partition("<tbody>")[2].split("</tr>")]
    assert rows[:2] == [["&lt;b&gt;&amp;bold", "4", "1", "4"], ["other", "1", "1", "1"]]
    assert re.findall("width:([0-9.%]+)", dom.partition("<tbody>")[2]) == ["100.00%", "25.00%"]
    assert console == []
    assert not re.search(r"(src|href)=|url\(|<script", page.read_text("utf-8"))


def test_report_says_how_to_ask_right(path, tmp_path, pixel):
    assert "give one of --json, --csv and --html" in pixel("report", path, "--json", "--csv", fails=True)
    assert "is no moment like 2026-01-02" in pixel("report", path, "--since", "yesterday", fails=True)
    nowhere = tmp_path / "nowhere" / "report.html"
    expected = f"Error: cannot write {nowhere}: No such file or directory\n"
    assert pixel("report", path, "--html", nowhere, fails=True) == expected


def test_days_are_filled_in_only_between_dates(tmp_path, pixel, make_event):
    path = tmp_path / "events.db"
    with closing(EventLog(path)) as log:
        log(make_event() | {"receivedAt": "2000-01-01T00:00:00.000Z"})
        log(make_event() | {"receivedAt": "2026-01-01T00:00:00.000Z"})
    assert len(json.loads(pixel("report", path, "--json"))["rows"]) == 2
    with closing(EventLog(path)) as log:
        log(make_event() | {"receivedAt": "yesterday"})
    assert [row["day"] for row in json.loads(pixel("report", path, "--json"))["rows"]] == [
        "2000-01-01",
        "2026-01-01",
        "yesterday",
    ]


def stored(path):
    with closing(sqlite3.connect(path)) as log:
        return [json.loads(text) for (text,) in log.execute("SELECT event FROM events ORDER BY id")]


def test_json_lines_have_the_events_as_they_are(path, tmp_path, pixel):
    target = tmp_path / "out.jsonl"
    assert pixel("export", path, "--to", target) == f"5 events in {target}; the last id is 5\n"
    assert [json.loads(line) for line in target.read_text("utf-8").splitlines()] == stored(path)
    assert target.stat().st_mode & 0o777 == 0o600


def test_csv_and_parquet_have_the_same_rows(tmp_path, pixel, make_event):
    path = tmp_path / "events.db"
    track = make_event('say "hi", \r\n', userId="7", properties={"campaign": "ü"}, context={"page": {"url": "u"}})
    odd = make_event() | {"receivedAt": "yesterday"}
    with closing(EventLog(path)) as log:
        log.put_many([track, odd])
    pixel("export", path, "--to", tmp_path / "out.csv")
    pixel("export", path, "--to", tmp_path / "out.parquet")
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    first = {
        "id": "1",
        "received_at": track["receivedAt"],
        "type": "track",
        "write_key": "k",
        "message_id": track["messageId"],
        "anonymous_id": "a",
        "user_id": "7",
        "name": 'say "hi", \r\n',
        "campaign": "ü",
        "url": "u",
    }
    assert [json.loads(row.pop("event")) for row in rows] == [track, odd]
    assert rows[0] == first
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [json.loads(row.pop("event")) for row in table] == [track, odd]
    moment = datetime.fromisoformat(track["receivedAt"]).astimezone(UTC)
    assert table[0] == first | {"id": 1, "received_at": moment}
    assert (table[1]["received_at"], table[1]["user_id"]) == (None, None)


def test_an_export_has_what_was_asked_for_and_replaces_what_was_there(path, tmp_path, pixel):
    target = tmp_path / "out.jsonl"
    whole = stored(path)

    def export(*options):
        said = pixel("export", path, "--to", target, *options)
        lines = target.read_text("utf-8").splitlines()
        return said.split("last id is ")[1].strip(), [whole.index(json.loads(line)) for line in lines]

    assert export("--after-id", 3) == ("5", [3, 4])
    assert export("--after-id", 5) == ("5", [])
    assert export("--anonymous-id", "ann") == ("4", [0, 1, 3])
    assert export("--since", "2026-11-01T10:01", "--until", "2026-11-03") == ("3", [1, 2])


def test_an_export_reads_pages_and_writes_row_groups(tmp_path, pixel, make_event, monkeypatch):
    monkeypatch.setattr("pixel_middleware.commands.export.ROW_GROUP", 4000)
    put_mails(tmp_path / "events.db", make_event, map(str, range(9000)))
    pixel("export", tmp_path / "events.db", "--to", tmp_path / "out.parquet")
    file = parquet.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(number).num_rows for number in range(3)] == [4000, 4000, 1000]
    assert file.read(["name"])["name"].to_pylist() == [*map(str, range(9000))]
    pixel("export", tmp_path / "events.db", "--to", tmp_path / "none.parquet", "--after-id", 9000)
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0


def test_an_export_that_fails_leaves_what_was_there(path, tmp_path, pixel, make_event):
    assert "must end in .parquet, .csv or .jsonl" in pixel("export", path, "--to", tmp_path / "a.xml", fails=True)
    nowhere = tmp_path / "nowhere" / "out.csv"
    expected = f"Error: cannot write {nowhere}: No such file or directory\n"
    assert pixel("export", path, "--to", nowhere, fails=True) == expected
    log = path.rename(tmp_path / "log.jsonl")
    assert "it is the log itself" in pixel("export", log, "--to", log, fails=True)
    target = tmp_path / "out.csv"
    target.write_text("old")
    with closing(sqlite3.connect(log)) as broken, broken:
        broken.execute("UPDATE events SET event = '{' WHERE id = 5")
    pixel("export", log, "--to", target, fails=True)
    assert target.read_text() == "old"
    assert {file.name for file in tmp_path.iterdir() if file.name.startswith(".")} == set()


def test_parquet_says_what_to_install(path, tmp_path):
    code = (
        "import sys; sys.modules['pyarrow'] = None; from pixel_middleware.commands.cli import cli;"
        f"cli(['export', {str(path)!r}, '--to', {str(tmp_path / 'a.parquet')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "Error: export to Parquet needs pyarrow: pip install 'pixel-middleware[parquet]'\n"


ASK = (Path(__file__).parents[1] / "docs" / "how-to" / "ask.md").read_text("utf-8")

ANSWERS = [
    [(2,)],
    [("week-47", 3, 2), ("week-46", 1, 1)],
    [("/shop", 1, 1)],
    [("2026-11-02", 1, 12.5)],
    [("ann",)],
    [("ann", "2026-11-01T08:00:00.000Z", "2026-11-02T07:00:00.000Z")],
    [("week-47", 2), ("week-46", 1)],
    [(datetime(2026, 11, 2, tzinfo=UTC), 12.5)],
]


@pytest.fixture
def asked(tmp_path, make_event, monkeypatch):
    """The directory of a log for which the recipes of the docs have answers."""
    monkeypatch.chdir(tmp_path)
    visit = events_module.Visit("192.0.2.1", "tests")
    sent = {"writeKey": "k", "anonymousId": "bob", "name": "Shop", "properties": {"path": "/shop"}}
    page = events_module.make_event("page", sent, visit)
    opens = [("ann", "week-47"), ("ann", "week-47"), ("bob", "week-47"), ("bob", "week-46")]
    events = [
        *(make_event("Email Opened", anonymousId=who, properties={"campaign": mail}) for who, mail in opens),
        page,
        make_event("Order Completed", anonymousId="ann", properties={"total": "12.5"}),
    ]
    moments = ["01T08:00", "01T08:01", "01T08:02", "01T08:03", "01T08:04", "02T07:00"]
    with closing(EventLog("events.db")) as log:
        for event, moment in zip(events, moments, strict=True):
            log(event | {"receivedAt": f"2026-11-{moment}:00.000Z"})
    return tmp_path


def test_recipes_in_sql_have_these_answers(asked, pixel):
    pixel("export", "events.db", "--to", "events.parquet")
    duck = duckdb.connect()
    duck.execute("SET TimeZone = 'UTC'")
    with closing(sqlite3.connect("events.db")) as log:
        answers = [
            (duck if ".parquet" in query else log).execute(query).fetchall()
            for query in re.findall(r"```sql\n(.*?)```", ASK, re.DOTALL)
        ]
    assert answers == ANSWERS


@pytest.mark.parametrize("page", ["ask", "privacy"])
def test_commands_in_the_guides_work(asked, run, page, make_event):
    with closing(JSONLines("old.jsonl")) as lines:
        lines(make_event())
    text = (Path(__file__).parents[1] / "docs" / "how-to" / f"{page}.md").read_text("utf-8")
    commands = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONDEVMODE": ""}
    done = run(["sh", "-e", "-c", commands], env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    if page == "ask":
        assert re.search(r"^week-47 +2$", done.stdout, re.MULTILINE)
        assert "0 events in events-2.parquet; the last id is 6" in done.stdout
        assert "6 events in november.csv" in done.stdout


def test_opens_are_reported_by_who_loaded_them_each_mail_once(pixel, tmp_path, make_event):
    loads = [("m1", "person"), ("m1", "person"), ("m1", "machine"), ("m2", "machine"), ("m3", "proxy"), ("m4", None)]
    with closing(EventLog(tmp_path / "events.db")) as log:
        for message, verdict in loads:
            context = {} if verdict is None else {"open": {"by": verdict, "reason": "x"}}
            log(make_event("Opened", context=context) | {"messageId": message})
    rows = json.loads(pixel("report", tmp_path / "events.db", "--by", "verdict", "--json"))["rows"]
    assert {row["verdict"]: (row["events"], row["messages"]) for row in rows} == {
        "person": (2, 1),
        "machine": (2, 2),
        "proxy": (1, 1),
        "": (1, 1),
    }
