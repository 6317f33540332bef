"""`pixel-middleware log`: a look into an event log, and a hand."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pixel_middleware.commands.sending import send_all
from pixel_middleware.commands.terminal import (
    Moment,
    bad_parameters,
    clear_errors,
    destinations_of,
    duration,
    events,
    free_bytes,
    line,
    log_at,
    say,
    say_older,
    size,
)
from pixel_middleware.destinations import Destination
from pixel_middleware.sinks import EventLog, interventions, positions, soundness
from pixel_middleware.sinks.kept_secrets import secret
from pixel_middleware.sinks.retention import DEFAULT_BYTES, pinned_share, unclaimed
from pixel_middleware.sinks.stats import HUNG_S, DestinationStats, stats
from pixel_middleware.sinks.store import Store
from pixel_middleware.watch.live import SECRET
from pixel_middleware.wire.printable import printable

MOST_SHOWN = 20  # dead letters of a destination, and lanes on hold
NEARLY_FULL = 0.8
PAGE = 1000  # dead letters in memory at once


class LogCommands(click.Group):
    """Options behind FILE are `log`'s own, unless a command comes first."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """See click."""
        context.allow_interspersed_args = not any(each in self.commands for each in args[1:])
        return super().parse_args(context, args)


@click.group(cls=LogCommands, invoke_without_command=True)
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
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
        seen = _look(store, max_bytes)
    if as_json:
        click.echo(json.dumps(seen))
    else:
        _show(path, seen)


def _look(store: Store, max_bytes: int | None) -> dict[str, Any]:
    of_all = stats(store)
    last_errors = positions.last_errors(store)
    nobodys = store.look(unclaimed)
    limit = max_bytes or (DEFAULT_BYTES if of_all["destinations"] else None)
    share = store.look(pinned_share) if of_all["destinations"] else 0.0
    return {
        "version": soundness.version(store),
        "events": of_all["events"],
        "bytes": of_all["bytes"],
        "max_bytes": limit,
        "full": None if limit is None else of_all["bytes"] / limit,
        "pinned": None if limit is None else share * of_all["bytes"] / limit,
        "destinations": {
            name: _destination(of_one, positions.carrier(store, name), last_errors[name][0], name in nobodys)
            for name, of_one in of_all["destinations"].items()
        },
        "lanes_on_hold": positions.count_holds(store),
        "longest_holds": [hold._asdict() for hold in positions.longest_holds(store, MOST_SHOWN)],
    }


def _destination(
    of_one: DestinationStats, carrier: tuple[int, float] | None, last_error: str, is_unclaimed: bool
) -> dict[str, Any]:
    return {key: value for key, value in of_one.items() if key != "carries"} | {
        "carrier": None if carrier is None else carrier[0],
        "last_error": last_error,
        "hangs": carrier is not None and of_one["lag"] > 0 and carrier[1] > HUNG_S,
        "unclaimed": is_unclaimed,
    }


def _show(path: Path, seen: dict[str, Any]) -> None:
    if seen["max_bytes"] is None:
        room = f"{size(free_bytes(path))} are free on its disk"
    else:
        room = f"{seen['full']:.0%} of {size(seen['max_bytes'])} (max_bytes)"
    say("", f"{path}: {events(seen['events'])} in {size(seen['bytes'])}, {room}")
    if (seen["pinned"] or 0) >= NEARLY_FULL:
        say(
            "",
            f"Warning: it is {seen['pinned']:.0%} full of what is still to be delivered; at 100% pixels are refused.",
        )
    for name, of_one in seen["destinations"].items():
        _show_destination(name, of_one)
    if seen["longest_holds"]:
        _show_holds(seen["longest_holds"], seen["lanes_on_hold"])


def _show_holds(holds: list[dict[str, Any]], total: int) -> None:
    more = f"; {total - len(holds):,} more do" if total > len(holds) else ""
    click.echo(f"\nOn hold (the lanes that wait longest{more}):")
    rows = [
        (
            printable(hold["destination"]),
            "(all others)" if hold["lane"] == positions.OTHERS else printable(hold["lane"])[:40],
            events(hold["events"]),
            f"next try in {duration(max(0.0, hold['retry_at'] - time.time()))}",
        )
        for hold in holds
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, hold in zip(rows, holds, strict=True):
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say(f"  {cells}  ", hold["reason"])


def _show_destination(name: str, of_one: dict[str, Any]) -> None:
    click.echo(f"\n{printable(name)}")
    ago = of_one["last_success_age_s"]
    last = "" if ago is None else f", the last {duration(ago)} ago"
    if of_one["carrier"] is None:
        carrier = "nobody now"
    elif of_one["hangs"]:
        carrier = f"process {of_one['carrier']}, which hangs"
    else:
        carrier = f"process {of_one['carrier']}"
    rows = {
        "lag": f"{of_one['lag']:,}",
        "held": f"{of_one['held']:,}",
        "oldest": duration(of_one["oldest_age_s"]) if of_one["lag"] or of_one["held"] else "none",
        "dead": f"{of_one['dead']:,}",
        "given up": f"{of_one['given_up']:,}",
        "sent": f"{of_one['sent']:,}{last}",
        "carried by": carrier,
        "last error": of_one["last_error"] or "none",
    }
    if of_one["unclaimed"]:
        rows["unclaimed"] = "no process has had it for 7 days: it pins nothing any more; drop ends it"
    for label, text in rows.items():
        say(f"  {label:11} ", text)


@log.command()
@click.argument("destinations", metavar="NAME=URL", callback=destinations_of)
@click.option("--timeout", "timeout_s", default=3600.0, show_default=True, help="Stop after so many seconds.")
@click.pass_obj
def send(path: Path, destinations: dict[str, Destination], timeout_s: float) -> None:
    """Send a destination what it lacks, now.

    Exit 1 if something is left. What comes meanwhile is not waited for. URL is a data plane (https://...) or Kafka
    (kafka://host:9092/topic).
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
@click.option("--destination", help="Of this one alone.")
@click.option("--json", "as_json", is_flag=True, help="All of them, one JSON object a line.")
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
    click.option("--destination", help="Of this one alone."),
    click.option("--lane", help="Of this lane alone."),
    click.option("--id", "id_", type=int, help="This event alone; `dead` shows ids."),
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
@click.option("--held", is_flag=True, help="Also those that are still tried.")
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
@click.pass_obj
def live(path: Path) -> None:
    """Print the token of the live view.

    Open the view's address with `?token=` and this behind it.
    """
    with log_at(path) as store:
        click.echo(secret(store, SECRET))
