"""`pixel-middleware outbox`: a look into an outbox, and a hand."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import click
from tqdm import tqdm

from pixel_middleware.commands.terminal import DESTINATIONS, EXISTING, backlog_at, bad_parameters, line
from pixel_middleware.events import timestamp
from pixel_middleware.sinks import Outbox
from pixel_middleware.sinks.backlog import Backlog
from pixel_middleware.sinks.files import outbox_to
from pixel_middleware.wire.printable import printable

OLD_LETTERS = 20  # how many dead letters a terminal shows


@click.group(invoke_without_command=True)
@click.argument("path", type=EXISTING)
@click.pass_context
def outbox(context: click.Context, path: Path) -> None:
    """Show what waits in the outbox at PATH."""
    context.obj = path
    if context.invoked_subcommand is not None:
        return
    with backlog_at(path) as backlog:
        click.echo(f"waiting  {backlog.count_waiting()}  since {backlog.oldest_received_at() or 'never'}")
        click.echo(f"dead     {backlog.count_dead()}")
        for lane, reason in backlog.holds().items():
            click.echo(f"on hold  {printable(lane)}: {printable(reason)}")


@outbox.command()
@click.option("--forward-to", metavar="URL", required=True, help=f"Send to {DESTINATIONS}.")
@click.option("--timeout", "timeout_s", default=3600.0, show_default=True, help="Give up after so many seconds.")
@click.pass_obj
def drain(path: Path, forward_to: str, timeout_s: float) -> None:
    """Send everything that waits; exit 1 if something is left."""
    with bad_parameters():
        draining = outbox_to(path, forward_to)
    send_all(path, draining, draining.stats()["waiting"], timeout_s)


def send_all(path: Path, draining: Outbox, total: int, timeout_s: float) -> None:
    """Show how the outbox sends `total` events, and close it; exit 1 if it could not send all."""
    with backlog_at(path) as backlog:
        _show_sending(backlog, draining, total, timeout_s)
        draining.close()
        left = backlog.count_waiting()
        click.echo(f"{total - left} sent or buried, {left} left, {backlog.count_dead()} dead")
    if left:
        raise click.exceptions.Exit(1)


def _show_sending(backlog: Backlog, draining: Outbox, total: int, timeout_s: float) -> None:
    newest = backlog.newest()
    deadline = time.monotonic() + timeout_s
    with tqdm(total=total, unit="event") as bar:
        draining.start()
        while backlog.has_waiting_up_to(newest) and time.monotonic() < deadline:
            time.sleep(0.1)
            bar.update(max(0, total - backlog.count_waiting() - bar.n))
        bar.update(max(0, total - backlog.count_waiting() - bar.n))


@outbox.command()
@click.option("--json", "as_json", is_flag=True, help="All of them, one JSON object a line.")
@click.pass_obj
def dead(path: Path, as_json: bool) -> None:
    """List the events that the destination will not take, and why."""
    with backlog_at(path) as backlog:
        letters = backlog.dead(limit=-1 if as_json else OLD_LETTERS)
    for letter in letters:
        event = letter["event"] = json.loads(letter["event"])
        buried_at = timestamp(datetime.fromtimestamp(letter["buried_at"], UTC))
        click.echo(json.dumps(letter) if as_json else f"{buried_at}  {line(event)}  {printable(letter['reason'])}")


@outbox.command()
@click.pass_obj
def retry(path: Path) -> None:
    """Put the dead letters back into the queue."""
    with backlog_at(path) as backlog:
        click.echo(f"{backlog.requeue_dead()} events wait again")
