"""`pixel-middleware prune`: delete what is too old."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from pixel_middleware.commands.terminal import events, log_at
from pixel_middleware.events import timestamp
from pixel_middleware.sinks.pruning import prune as prune_log


class Age(click.ParamType[str]):
    """A number of hours, days or weeks."""

    name = "AGE"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> str:
        """The moment so long ago, as `receivedAt` has it."""
        match = re.fullmatch(r"(\d{1,6})([hdw])", value)
        if match is None:
            self.fail(f"{value!r} is no age like 12h, 90d or 6w", param, context)
        age = int(match[1]) * {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}[match[2]]
        try:
            return timestamp(datetime.now(UTC) - age)
        except OverflowError:
            self.fail(f"{value!r} is longer ago than there are dates", param, context)


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--older-than", "before", required=True, type=Age(), help="Age, like 12h, 90d or 6w.")
@click.option("--undelivered", is_flag=True, help="Also delete what a destination has not had.")
def prune(path: Path, before: str, undelivered: bool) -> None:
    """Delete old events, and old refused requests, from the log FILE.

    Events that a destination has not had are kept. The file does not shrink: free pages are used again. To delete old
    events all the time, give your EventLog keep_days.
    """
    with log_at(path) as store:
        deleted, lacking = prune_log(store, before, undelivered=undelivered)
    click.echo(f"{events(deleted)} received before {before} deleted")
    if lacking and undelivered:
        click.echo(f"{lacking:,} of them had not been delivered to every destination")
    elif lacking:
        click.echo(f"{events(lacking)} left: a destination has not had them (--undelivered deletes them too)")
