"""`pixel-middleware tail`: the events of a file, as they come."""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from pixel_middleware.commands.following import POLL_S, follow
from pixel_middleware.wire.printable import printable


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "-n", "count", default=10, show_default=True, type=click.IntRange(0), help="Show this many older events first."
)
@click.option("--follow/--no-follow", "goes_on", default=True, help="Wait for new events, until Ctrl-C.")
def tail(path: Path, count: int, goes_on: bool) -> None:
    """Print events as they come.

    FILE is an event log, or JSON Lines if its name ends in .jsonl. Readable on a terminal, JSON in a pipe.
    """
    show = _coloured if sys.stdout.isatty() else json.dumps
    with suppress(KeyboardInterrupt):
        for text in follow(path, count):
            if isinstance(text, str | bytes):
                with suppress(ValueError):  # half a line
                    click.echo(show(json.loads(text)))
            elif goes_on:
                time.sleep(POLL_S)
            else:
                break


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
