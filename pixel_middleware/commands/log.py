"""`pixel-middleware log`: a look into an event log, and a hand."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pixel_middleware.commands.sending import send_all
from pixel_middleware.commands.summary import MOST_SHOWN, look, show
from pixel_middleware.commands.terminal import (
    Moment,
    bad_parameters,
    clear_errors,
    destinations_of,
    events,
    line,
    log_at,
    say,
    say_older,
)
from pixel_middleware.destinations import Destination
from pixel_middleware.events import timestamp
from pixel_middleware.sinks import EventLog, interventions, positions, refusals, soundness
from pixel_middleware.sinks.kept_secrets import secret
from pixel_middleware.sinks.stats import stats
from pixel_middleware.sinks.store import Store
from pixel_middleware.watch.live import SECRET
from pixel_middleware.wire.printable import printable

PAGE = 1000  # dead letters in memory at once


class LogCommands(click.Group):
    """Options behind FILE are `log`'s own, unless a command comes first."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """See click."""
        context.allow_interspersed_args = not any(each in self.commands for each in args[1:])
        return super().parse_args(context, args)


@click.group(cls=LogCommands, invoke_without_command=True)
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--max-bytes", type=click.IntRange(1), help="What your EventLog has, if that is not the default of 1 GiB."
)
@click.pass_context
def log(context: click.Context, path: Path, as_json: bool, max_bytes: int | None) -> None:
    """Show what the event log FILE holds, and how its destinations are doing."""
    context.obj = path
    if context.invoked_subcommand is not None:
        return
    with log_at(path) as store:
        seen = look(store, max_bytes)
    if as_json:
        click.echo(json.dumps(seen))
    else:
        show(path, seen)


@log.command()
@click.argument("destinations", metavar="NAME=URL", callback=destinations_of)
@click.option("--timeout", "timeout_s", default=3600.0, show_default=True, help="Stop after this many seconds.")
@click.pass_obj
def send(path: Path, destinations: dict[str, Destination], timeout_s: float) -> None:
    """Send a destination what it lacks, now.

    Exit 1 if something is left. What comes meanwhile is not waited for. URL is a data plane (https://...), Kafka
    (kafka://host:9092/topic) or a webhook (webhook+https://host/path).
    """
    with log_at(path) as store:
        known, count = positions.names(store), stats(store)["events"]
    with clear_errors(), bad_parameters():
        carrying = EventLog(path, destinations)
    for name in destinations:
        if name not in known:
            say_older(path, name, count)
    send_all(path, carrying, destinations, carrying.stats(), timeout_s)


@log.command()
@click.option("--destination", help="Only of this destination.")
@click.option("--json", "as_json", is_flag=True, help="Print all of them, one JSON object a line.")
@click.pass_obj
def dead(path: Path, destination: str | None, as_json: bool) -> None:
    """List the events that were refused, and why."""
    with log_at(path) as store:
        for name in _chosen(store, destination):
            if as_json:
                for letter in _dead_letters(store, name):
                    click.echo(json.dumps(letter))
            else:
                count = stats(store)["destinations"][name]["dead"]
                newest = f", the newest {MOST_SHOWN}" if count > MOST_SHOWN else ""
                click.echo(f"{printable(name)}: {count:,} dead{newest}")
                for record, lane, reason in positions.newest_dead_letters(store, name, limit=MOST_SHOWN):
                    say(f"  {record.id:>6}  ", line(record.event))
                    say(" " * 10, f"lane {lane[:80]}: {reason}" if lane else reason)


def _dead_letters(store: Store, name: str) -> Iterator[dict[str, Any]]:
    after = 0
    while letters := positions.dead_letters(store, name, after=after, limit=PAGE):
        for record, lane, reason in letters:
            yield {"destination": name, "id": record.id, "lane": lane, "reason": reason, "event": record.event}
            after = record.id


def _chosen(store: Store, destination: str | None) -> list[str]:
    known = positions.names(store)
    if destination is None:
        return known
    if destination not in known:
        raise click.ClickException(
            f"{store.path} has no destination {destination!r}; it has {', '.join(known) or 'none'}"
        )
    return [destination]


WHICH = (
    click.option("--destination", help="Only of this destination."),
    click.option("--lane", help="Only of this lane."),
    click.option("--id", "id_", type=int, help="Only this event; `dead` shows ids."),
)


def which(command: Any) -> Any:
    """Options that choose among setbacks."""
    for option in reversed(WHICH):
        command = option(command)
    return command


@log.command()
@which
@click.pass_obj
def retry(path: Path, destination: str | None, lane: str | None, id_: int | None) -> None:
    """Try dead letters and held events again."""
    with log_at(path) as store:
        for name in _chosen(store, destination):
            dead, held = interventions.retry(store, name, lane, id_)
            click.echo(f"{printable(name)}: {dead:,} dead and {held:,} held events will be tried again")


@log.command()
@which
@click.option("--held", is_flag=True, help="Also held events, which are tried again.")
@click.pass_obj
def discard(path: Path, destination: str | None, lane: str | None, id_: int | None, held: bool) -> None:
    """Forget dead letters.

    The destination never gets them. The events stay in the log for as long as others do.
    """
    with log_at(path) as store:
        for name in _chosen(store, destination):
            count = interventions.discard(store, name, lane, id_, held=held)
            left = stats(store)["destinations"][name]["held"]
            still = f"; {left:,} are held, and still tried (--held)" if left and not held else ""
            click.echo(f"{printable(name)}: {events(count)} discarded{still}")


@log.command()
@click.argument("name")
@click.option(
    "--since", type=Moment(), help="Only what was received since, like 2026-01-02T03:04; UTC if it has no zone."
)
@click.pass_obj
def rewind(path: Path, name: str, since: str | None) -> None:
    """Send a destination the log again.

    From its start, or since a moment.
    """
    with log_at(path) as store:
        count = interventions.rewind(store, name, since)
        is_carried = positions.carrier(store, name) is not None
    later = (
        "" if is_carried else f", as soon as a process that has it runs (pixel-middleware log {path} send {name}=URL)"
    )
    click.echo(f"{events(count)} will be sent again to {printable(name)}{later}")


@log.command()
@click.argument("name")
@click.pass_obj
def drop(path: Path, name: str) -> None:
    """Forget a destination.

    It gets nothing more, and what it lacks pins the log no longer. Take it out of the settings of your app first, or
    it is new to the log at the next start.
    """
    with log_at(path) as store:
        interventions.drop(store, name)
    click.echo(f"{printable(name)} is forgotten, and gets nothing more")


@log.command()
@click.pass_obj
def check(path: Path) -> None:
    """Read the whole file, and say whether it is sound.

    Exit 1 if it is not.
    """
    with log_at(path) as store:
        faults = soundness.faults(store)
        version, count = soundness.version(store), stats(store)["events"]
    for fault in faults:
        click.echo(f"{path}: {printable(fault)}")
    if faults:
        raise click.exceptions.Exit(1)
    click.echo(f"{path} is sound: version {version}, {events(count)}")


@log.command()
@click.option("-n", "count", default=100, show_default=True, type=click.IntRange(1), help="So many, the newest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with what the line leaves out.")
@click.pass_obj
def refused(path: Path, count: int, as_json: bool) -> None:
    """List the newest requests that were refused, failed or dropped.

    The oldest of them first, a line each with the whole query. The log keeps 1,000, if your app hands them over
    (refused=log.refused), or shows the log in a live view.
    """
    with log_at(path) as store:
        for each in refusals.newest(store, count):
            at = timestamp(datetime.fromtimestamp(each.at, UTC))
            if as_json:
                click.echo(json.dumps(each._asdict() | {"at": at}))
                continue
            asked = f"{each.path}?{each.query}" if each.query else each.path
            cells = [at, f"{each.kind:8}", each.reason, asked, each.cause, each.message, f"from {each.network}"]
            told = [cell for cell in cells if cell.removeprefix("from ")]
            click.echo(printable("  ".join(told)))


@log.command()
@click.pass_obj
def live(path: Path) -> None:
    """Print the token of the live view.

    Open the view's address with `?token=` and this behind it.
    """
    with log_at(path) as store:
        click.echo(secret(store, SECRET))
