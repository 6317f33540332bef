"""What the commands share: how files and destinations are given, and how events, numbers and errors are shown."""

import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pixel_middleware.destinations import Destination, named
from pixel_middleware.errors import ConfigurationError, StorageError
from pixel_middleware.events import timestamp
from pixel_middleware.sinks import EventLog, JSONLines, positions, soundness
from pixel_middleware.sinks.files import sink_to
from pixel_middleware.sinks.stats import stats
from pixel_middleware.sinks.store import Store
from pixel_middleware.wire.printable import printable


def log_to_stderr() -> None:
    """Have the log's lines on stderr, each with its time."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z")


DESTINATIONS = (
    "a RudderStack data plane (https://...), Kafka (kafka://host:9092/topic) or a webhook (webhook+https://host/path)"
)

EXISTING = click.Path(path_type=Path, exists=True, dir_okay=False)

OUTPUT = click.option(
    "--output",
    default="events.db",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the events: JSON Lines if its name ends in .jsonl, an event log if in .db or .sqlite.",
)


def destinations_of(context: click.Context, parameter: click.Parameter, given: Any) -> dict[str, Destination]:
    """A click callback: texts like `NAME=URL` as destinations by name."""
    try:
        return named([given] if isinstance(given, str) else given)
    except ModuleNotFoundError as error:  # which says what extra to install
        raise click.ClickException(str(error)) from error
    except ConfigurationError as error:
        raise click.BadParameter(str(error), context, parameter) from error


FORWARD_TO = click.option(
    "--forward-to",
    "destinations",
    metavar="[NAME=]URL",
    multiple=True,
    callback=destinations_of,
    help=f"Send the events on, to {DESTINATIONS}; may be given several times. NAME is the host otherwise.",
)


class Moment(click.ParamType[str]):
    """An ISO date, with a time or without; in UTC unless it says otherwise."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> str:
        """As `receivedAt` has it."""
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no moment like 2026-01-02 or 2026-01-02T03:04:05+02:00", param, context)
        return timestamp(moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC))


@contextmanager
def bad_parameters() -> Iterator[None]:
    """Errors of a file become errors of `--output`, and others of the option that they name."""
    try:
        yield
    except StorageError as error:
        raise click.BadParameter(str(error), param_hint="--output") from error
    except ConfigurationError as error:
        option = error.option.partition(".")[0].replace("write_keys", "write_key").replace("_", "-")
        raise click.BadParameter(str(error), param_hint=f"--{option}") from error


@contextmanager
def clear_errors() -> Iterator[None]:
    """Errors of a file become a sentence."""
    try:
        yield
    except StorageError as error:
        raise click.ClickException(str(error)) from error


def opened_sink(output: Path, destinations: dict[str, Destination]) -> JSONLines | EventLog:
    """The sink of `--output` and `--forward-to`; says how many older events a new destination will not get."""
    count, new = 0, []
    with bad_parameters():
        if destinations and output.exists():
            with closing(Store(output, lambda connection: None)) as store:
                if soundness.version(store) != 0 and (count := stats(store)["events"]):
                    known = positions.names(store)
                    new = [name for name in destinations if name not in known]
        sink = sink_to(output, destinations)
    for name in new:
        say_older(output, name, count)
    return sink


def say_older(path: Path, name: str, count: int) -> None:
    """Say that a destination is new to a log of `count` events."""
    click.echo(
        f"{printable(name)} is new to {path}: it gets what comes from now on, and not the {events(count)} before."
    )
    click.echo(f"To send them too: pixel-middleware log {path} rewind {name}")


@contextmanager
def log_at(path: Path) -> Iterator[Store]:
    """The file of the event log at `path`, closed afterwards. Errors become a sentence; nothing is made."""
    if not path.exists():
        raise click.ClickException(f"there is no file {path}")
    with clear_errors():
        try:
            store = Store(path, lambda connection: None)
            is_log = soundness.version(store) > 0
        except StorageError as error:
            hint = "; `pixel-middleware tail` shows JSON Lines" if path.suffix == ".jsonl" else ""
            raise click.ClickException(f"{path} is no event log: {error.__cause__ or error}{hint}") from error
        with closing(store):
            if not is_log:
                raise click.ClickException(f"{path} is no event log: it is empty")
            yield store


def line(event: Any) -> str:
    """An event in a line for people; nothing in it can control the terminal."""
    label = event.get("event") or event.get("name") or ""
    who = event.get("anonymousId") or event.get("userId")
    return f"{event['receivedAt']}  {event['type']:5}  {printable(label)}  by {printable(who)}"


def say(label: str, text: str) -> None:
    """Print `text`, which may be a stranger's, behind a label; on a terminal its further lines begin where it does."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    wrapped = textwrap.wrap(printable(text), max(20, width - len(label)), break_on_hyphens=False) or [""]
    click.echo(label + f"\n{' ' * len(label)}".join(wrapped))


def events(count: int) -> str:
    """`1 event`, `2,000 events`."""
    return f"{count:,} event{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """`3 s`, `12 min`, `5 h`, `9 days`."""
    for unit_s, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds // unit_s:,.0f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """`0.5 KiB`, `12.3 MiB`."""
    units = ["TiB", "GiB", "MiB", "KiB"]
    count /= 1024
    while count >= 1024 and len(units) > 1:
        units.pop()
        count /= 1024
    return f"{count:,.1f} {units[-1]}"


def free_bytes(path: Path) -> int:
    """What the file system of `path` has left for who is not root."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize
