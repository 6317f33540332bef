"""Seconds that `report` takes for a million opened mails, and events a second that `export` writes."""

import random
import tempfile
import time
import uuid
from pathlib import Path

import workload
from click.testing import CliRunner
from measure import Result

from pixel_middleware.commands.cli import cli
from pixel_middleware.events import Visit, make_event
from pixel_middleware.sinks import EventLog
from pixel_middleware.wire.mapping import map_query

EVENTS = 1_000_000
MAILS = 20
REPORT_S = 3.0
EXPORTED_A_SECOND = 100_000


def results():
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "events.db")
        _put_opens(path)
        for by in ("day", "name", "campaign"):
            taken = _seconds("report", path, "--by", by, "--json")
            yield Result(f"report --by {by}, 1,000,000 opens", "the goal", taken, REPORT_S, 1.0, "s")
        for kind in ("jsonl", "csv", "parquet"):
            rate = EVENTS / _seconds("export", path, "--to", Path(folder, f"out.{kind}"))
            yield Result(f"export, {kind}", "the goal", rate, EXPORTED_A_SECOND, 1.0, "events/s", at_least=True)


def _seconds(*arguments):
    started = time.perf_counter()
    done = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return time.perf_counter() - started


def _put_opens(path):
    chance = random.Random(1)
    log = EventLog(path)
    queries = workload.track_pixels()
    batch = []
    for number in range(EVENTS):
        mail = number * MAILS // EVENTS
        sent = map_query("track", queries[number % len(queries)])
        sent["anonymousId"] = f"reader-{chance.randrange(EVENTS // 2)}"
        sent["messageId"] = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        sent["properties"]["campaign"] = f"mail-{mail}"
        agent = workload.AGENTS[number % len(workload.AGENTS)]
        batch.append(make_event("track", sent, Visit("192.0.2.1", agent), f"2026-11-{mail + 1:02}T10:00:00.000Z"))
        if len(batch) == 5000 or number == EVENTS - 1:
            log.put_many(batch)
            batch = []
    log.close()
