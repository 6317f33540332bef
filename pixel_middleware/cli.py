"""The command line: a collector of its own, and a look into an outbox."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import click
from tqdm import tqdm
from waitress.server import create_server

from pixel_middleware.destinations import outbox_to, sink_to
from pixel_middleware.errors import ConfigurationError, StorageError
from pixel_middleware.events import Event, timestamp
from pixel_middleware.live import LiveView
from pixel_middleware.middleware import PixelMiddleware, Sink
from pixel_middleware.replay import Replay, opened, size_of
from pixel_middleware.sinks import JSONLines, Outbox, SQLite
from pixel_middleware.sinks.backlog import Backlog

EXAMPLE = "/pixel/v1/track?writeKey=demo&anonymousId=me&event=Hello"
DESTINATIONS = "a RudderStack data plane (https://...) or Kafka (kafka://host:9092/topic)"
_THIS_MACHINE = ("127.0.0.0/8", "::1")
OLD_LETTERS = 20  # how many dead letters a terminal shows
REPLAY_BATCH = 2000
TAIL_POLL_S = 0.3

OUTPUT = click.option(
    "--output",
    default="events.db",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the events: JSON Lines if its name ends in .jsonl, and else SQLite.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pixel-middleware")
def cli() -> None:
    """Collect analytics events from pixels."""


# serve


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: any free one.")
@OUTPUT
@click.option("--forward-to", metavar="URL", help=f"Send the events on, to {DESTINATIONS}; needs SQLite.")
@click.option("--allow", metavar="NETWORK", multiple=True, help="Who may see the live view, beside this machine.")
def serve(host: str, port: int, output: Path, forward_to: str | None, allow: tuple[str, ...]) -> None:
    """Collect events until Ctrl-C, print one line for each, and show them at /."""
    with _bad_parameters():
        sink = sink_to(output, forward_to)
        app = LiveView(
            PixelMiddleware(_not_here, _announced(sink)), "/", allow=[*_THIS_MACHINE, *allow] if allow else None
        )
    server = _listen(app, host, port)
    address = f"http://{host}:{server.effective_port}"
    onward = f", and on to {forward_to}" if forward_to else ""
    click.echo(f"Collecting pixels at {address}/pixel/v1/ into {output}{onward}. Press Ctrl-C to stop.")
    click.echo(f"Watch them come:      {address}/")
    click.echo(f"Paste into a browser: {address}{EXAMPLE}")
    if isinstance(sink, Outbox):
        sink.start()
    server.run()


@contextmanager
def _bad_parameters() -> Iterator[None]:
    """Errors of the file and of the destination become errors of `--output` and `--forward-to`."""
    try:
        yield
    except StorageError as error:
        raise click.BadParameter(str(error), param_hint="--output") from error
    except ModuleNotFoundError as error:  # which says what extra to install
        raise click.ClickException(str(error)) from error
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint=f"--{error.option.replace('_', '-')}") from error


def _announced(sink: Sink) -> Callable[[Event], None]:
    """`sink`, with one line on the terminal for each event that it took."""

    def announce(event: Event) -> None:
        sink(event)
        click.echo(_line(event))

    return announce


def _line(event: Any) -> str:
    label = event.get("event") or event.get("name") or ""
    who = event.get("anonymousId") or event.get("userId")
    return f"{event['receivedAt']}  {event['type']:5}  {_printable(label)}  by {_printable(who)}"


def _printable(text: Any) -> str:
    """What a client sent, without the control characters that could take over a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def _listen(app: WSGIApplication, host: str, port: int) -> Any:
    try:
        return create_server(app, host=host, port=port)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _not_here(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """What a collector has beside its pixels: nothing."""
    body = f"This is a pixel collector. Try {EXAMPLE}\n".encode()
    start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]


# outbox


@cli.group(invoke_without_command=True)
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_context
def outbox(context: click.Context, path: Path) -> None:
    """Show what waits in the outbox at PATH."""
    context.obj = path
    if context.invoked_subcommand is None:
        backlog = _backlog(path)
        click.echo(f"waiting  {backlog.count_waiting()}  since {backlog.oldest_received_at() or 'never'}")
        click.echo(f"dead     {backlog.count_dead()}")
        for lane, reason in backlog.holds().items():
            click.echo(f"on hold  {_printable(lane)}: {_printable(reason)}")


@outbox.command()
@click.option("--forward-to", metavar="URL", required=True, help=f"Send to {DESTINATIONS}.")
@click.option("--timeout", "timeout_s", default=3600.0, show_default=True, help="Give up after so many seconds.")
@click.pass_obj
def drain(path: Path, forward_to: str, timeout_s: float) -> None:
    """Send everything that waits; exit 1 if something is left."""
    with _bad_parameters():
        draining = outbox_to(path, forward_to)
    _drain(path, draining, _backlog(path).count_waiting(), timeout_s)


def _drain(path: Path, draining: Outbox, total: int, timeout_s: float) -> None:
    """Show how the outbox sends `total` events; exit 1 if it could not send all."""
    backlog = _backlog(path)
    newest = backlog.newest()
    deadline = time.monotonic() + timeout_s
    with tqdm(total=total, unit="event") as bar:
        draining.start()
        while backlog.has_waiting_up_to(newest) and time.monotonic() < deadline:
            time.sleep(0.1)
            bar.update(max(0, total - backlog.count_waiting() - bar.n))
        bar.update(max(0, total - backlog.count_waiting() - bar.n))
    draining.close()
    left = backlog.count_waiting()
    click.echo(f"{total - left} sent or buried, {left} left, {backlog.count_dead()} dead")
    if left:
        raise click.exceptions.Exit(1)


@outbox.command()
@click.option("--json", "as_json", is_flag=True, help="All of them, one JSON object a line.")
@click.pass_obj
def dead(path: Path, as_json: bool) -> None:
    """List the events that the destination will not take, and why."""
    letters = _backlog(path).dead(limit=-1 if as_json else OLD_LETTERS)
    for letter in letters:
        event = letter["event"] = json.loads(letter["event"])
        buried_at = timestamp(datetime.fromtimestamp(letter["buried_at"], UTC))
        click.echo(json.dumps(letter) if as_json else f"{buried_at}  {_line(event)}  {_printable(letter['reason'])}")


@outbox.command()
@click.pass_obj
def retry(path: Path) -> None:
    """Put the dead letters back into the queue."""
    click.echo(f"{_backlog(path).requeue_dead()} events wait again")


# replay and tail


@cli.command()
@click.argument("logs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@OUTPUT
@click.option("--forward-to", metavar="URL", help=f"Send the events on, to {DESTINATIONS}; needs SQLite.")
@click.option(
    "--status", "statuses", multiple=True, type=int, default=[200], show_default=True, help="Take these only."
)
@click.option("--prefix", default="/pixel/v1", show_default=True, help="Where the pixels were.")
def replay(logs: tuple[Path, ...], output: Path, forward_to: str | None, statuses: list[int], prefix: str) -> None:
    """Store the events of access logs; what is stored already is left out."""
    with _bad_parameters():
        sink = sink_to(output, forward_to)
    known = sink.message_ids()
    waiting = sink.stats()["waiting"] if isinstance(sink, Outbox) else 0
    replaying = Replay(prefix, statuses, known)
    with tqdm(total=size_of(logs), unit="B", unit_scale=True) as bar:
        for path in logs:
            _replay_one(path, replaying, sink, bar)
    for outcome, count in replaying.counts.most_common():
        click.echo(f"{count:>9,}  {outcome}")
    if isinstance(sink, Outbox):
        _drain(output, sink, waiting + replaying.counts["stored"], timeout_s=3600.0)


def _replay_one(path: Path, replaying: Replay, sink: JSONLines | SQLite | Outbox, bar: Any) -> None:
    with path.open("rb") as raw:
        events = replaying.events(opened(raw))
        read = 0
        while batch := list(islice(events, REPLAY_BATCH)):
            sink.put_many(batch)
            bar.update(raw.tell() - read)
            read = raw.tell()
        bar.update(path.stat().st_size - read)


@cli.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "-n", "count", default=10, show_default=True, type=click.IntRange(0), help="Show so many older ones first."
)
@click.option("--follow/--no-follow", default=True, help="Wait for what comes, until Ctrl-C.")
def tail(path: Path, count: int, follow: bool) -> None:
    """Print the events in the SQLite file at PATH as they come: readable on a terminal, JSON in a pipe."""
    store = _store(path)
    show = _coloured if sys.stdout.isatty() else json.dumps
    ((newest,),) = store.read("SELECT coalesce(max(id), 0) FROM events")
    older = store.read("SELECT event FROM events WHERE id <= ? ORDER BY id DESC LIMIT ?", newest, count)
    for (text,) in reversed(older):
        click.echo(show(json.loads(str(text))))
    while follow:
        time.sleep(TAIL_POLL_S)
        for id_, text in store.read("SELECT id, event FROM events WHERE id > ? ORDER BY id", newest):
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
            click.style(_printable(event.get("event") or event.get("name") or ""), bold=True),
            _printable(event.get("anonymousId") or event.get("userId")),
            click.style(_printable(where), dim=True),
        ]
    )


def _store(path: Path) -> SQLite:
    try:
        return SQLite(path)
    except StorageError as error:
        raise click.ClickException(str(error)) from error


def _backlog(path: Path) -> Backlog:
    return Backlog(_store(path))
