"""`pixel-middleware tail`: the events of a file, as they come."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, BinaryIO

import click

from pixel_middleware.commands.terminal import log_at
from pixel_middleware.runtime.growing_file import GrowingFile
from pixel_middleware.wire.printable import printable

POLL_S = 0.3
PAGE = 1000  # events in memory at once
BLOCK = 65536  # bytes
LONGEST = 1 << 24  # bytes of an event

Events = Iterator[str | bytes | None]
"""Events as JSON, the oldest first; `None` when there is no more for now."""


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "-n", "count", default=10, show_default=True, type=click.IntRange(0), help="Show this many older events first."
)
@click.option("--follow/--no-follow", default=True, help="Wait for new events, until Ctrl-C.")
def tail(path: Path, count: int, follow: bool) -> None:
    """Print events as they come.

    FILE is an event log, or JSON Lines if its name ends in .jsonl. Readable on a terminal, JSON in a pipe.
    """
    show = _coloured if sys.stdout.isatty() else json.dumps
    events = _of_lines(path, count) if path.suffix == ".jsonl" else _of_log(path, count)
    with suppress(KeyboardInterrupt):
        for text in events:
            if text is not None:
                with suppress(ValueError):  # half a line
                    click.echo(show(json.loads(text)))
            elif follow:
                time.sleep(POLL_S)
            else:
                break


def _of_log(path: Path, count: int) -> Events:
    with log_at(path) as store:
        before = "SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?"
        ((last,),) = store.read(f"SELECT coalesce(({before}), 0)", count)
        file = store.identity_at_path()
        while True:
            rows = store.read("SELECT id, event FROM events WHERE id > ? ORDER BY id LIMIT ?", last, PAGE)
            for id_, text in rows:
                last = id_
                yield text
            if len(rows) < PAGE:
                yield None
            if store.identity_at_path() != file:  # it was replaced
                file, last = store.identity_at_path(), 0


def _of_lines(path: Path, count: int) -> Events:
    try:
        with path.open("rb") as lines:
            start = _start_of_last(lines, count)
        file = GrowingFile(path, LONGEST, start)
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {error.strerror}") from error
    with closing(file):
        for block in file.blocks():  # pragma: no branch - it never ends
            yield from block
            if not block:
                yield None


def _start_of_last(lines: BinaryIO, count: int) -> int:
    """Where the last `count` lines begin."""
    position = lines.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - BLOCK)
        lines.seek(start)
        block = lines.read(position - start)
        end = len(block)
        while (end := block.rfind(b"\n", 0, end)) >= 0:
            count -= 1
            if count < 0:
                return start + end + 1
        position = start
    return 0


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
