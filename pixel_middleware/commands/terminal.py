"""What the commands share: how files and destinations are given, and how events are shown."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from pixel_middleware.errors import ConfigurationError, StorageError
from pixel_middleware.sinks import EventLog
from pixel_middleware.wire.printable import printable

DESTINATIONS = "a RudderStack data plane (https://...) or Kafka (kafka://host:9092/topic)"

EXISTING = click.Path(path_type=Path, exists=True, dir_okay=False)

OUTPUT = click.option(
    "--output",
    default="events.db",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the events: JSON Lines if its name ends in .jsonl, and else SQLite.",
)

FORWARD_TO = click.option("--forward-to", metavar="URL", help=f"Send the events on, to {DESTINATIONS}; needs SQLite.")


@contextmanager
def bad_parameters() -> Iterator[None]:
    """Errors of the file and of the destination become errors of `--output` and `--forward-to`."""
    try:
        yield
    except StorageError as error:
        raise click.BadParameter(str(error), param_hint="--output") from error
    except ModuleNotFoundError as error:  # which says what extra to install
        raise click.ClickException(str(error)) from error
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint=f"--{error.option.replace('_', '-')}") from error


def line(event: Any) -> str:
    label = event.get("event") or event.get("name") or ""
    who = event.get("anonymousId") or event.get("userId")
    return f"{event['receivedAt']}  {event['type']:5}  {printable(label)}  by {printable(who)}"


@contextmanager
def log_at(path: Path) -> Iterator[EventLog]:
    """The event log at `path`, closed afterwards."""
    try:
        log = EventLog(path)
    except StorageError as error:
        raise click.ClickException(str(error)) from error
    with closing(log):
        yield log
