"""`pixel-middleware tail`: the events of an SQLite file, as they come."""

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from pixel_middleware.commands.terminal import EXISTING, log_at
from pixel_middleware.sinks import EventLog
from pixel_middleware.wire.printable import printable

POLL_S = 0.3


@click.command()
@click.argument("path", type=EXISTING)
@click.option(
    "-n", "count", default=10, show_default=True, type=click.IntRange(0), help="Show so many older ones first."
)
@click.option("--follow/--no-follow", default=True, help="Wait for what comes, until Ctrl-C.")
def tail(path: Path, count: int, follow: bool) -> None:
    """Print events as they come.

    PATH is an SQLite file of `serve` or of a sink. Readable on a terminal, JSON in a pipe.
    """
    show = _coloured if sys.stdout.isatty() else json.dumps
    with log_at(path) as log:
        ((newest,),) = log.read("SELECT coalesce(max(id), 0) FROM events")
        older = log.read("SELECT event FROM events WHERE id <= ? ORDER BY id DESC LIMIT ?", newest, count)
        for (text,) in reversed(older):
            click.echo(show(json.loads(str(text))))
        if follow:
            with suppress(KeyboardInterrupt):
                _follow(log, newest, show)


def _follow(log: EventLog, newest: object, show: Callable[[Any], str]) -> None:
    while True:
        time.sleep(POLL_S)
        for id_, text in log.read("SELECT id, event FROM events WHERE id > ? ORDER BY id", newest):
            newest = id_
            click.echo(show(json.loads(str(text))))


def _coloured(event: Any) -> str:
    colour = "cyan" if event["type"] == "page" else "green"
    page = event["context"].get("page")
    where = page.get("url", "") if isinstance(page, dict) else ""
    return "  ".join(
        [
            click.style(event["receivedAt"], dim=True),
            click.style(f"{event['type']:5}", fg=colour),
            click.style(printable(event.get("event") or event.get("name") or ""), bold=True),
            printable(event.get("anonymousId") or event.get("userId")),
            click.style(printable(where), dim=True),
        ]
    )
