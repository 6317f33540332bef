"""`pixel-middleware replay`: events recovered from access logs."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from tqdm import tqdm

from pixel_middleware import settings
from pixel_middleware.collector.config import load
from pixel_middleware.commands.sending import send_all
from pixel_middleware.commands.terminal import EXISTING, FORWARD_TO, OUTPUT, Moment, bad_parameters, opened_sink
from pixel_middleware.destinations import Destination
from pixel_middleware.errors import ConfigurationError, StorageError
from pixel_middleware.events import Event
from pixel_middleware.replay import LONGEST_LINE, Replay, opened, size_of
from pixel_middleware.runtime.growing_file import GrowingFile
from pixel_middleware.sinks import EventLog, JSONLines
from pixel_middleware.sinks.known import Known, Stored

OWN = {"prefix", "response", "trusted_proxies", "amp", "refused"}
"""Options of `PixelMiddleware` that a line has no use for, or that have a flag of their own."""

BATCH = 2000  # events a commit
POLL_S = 0.3
TRY_AGAIN_S = 1.0
FORGET_AFTER = 1_000_000  # lines that were followed: what is known of them takes some 40 MB
REMEMBER_S = 86400.0


@click.command()
@click.argument("logs", nargs=-1, required=True, type=EXISTING)
@OUTPUT
@FORWARD_TO
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=int,
    help="Replay only requests with this status; repeatable.  [default: 200]",
)
@click.option("--since", type=Moment(), help="Only requests of this moment or later, like 2026-01-31T13:00.")
@click.option("--until", type=Moment(), help="Only requests before this moment.")
@click.option("--prefix", default="/pixel/v1", show_default=True, help="Where the pixels were.")
@click.option(
    "--config",
    type=EXISTING,
    help="The collector's file of options (TOML): its output, prefix, write keys, processors and limits hold here.",
)
@click.option(
    "--option",
    "texts",
    multiple=True,
    metavar="NAME=TEXT",
    help="An option of the collector's PixelMiddleware, as in an ini file; overrides --config.",
)
@click.option(
    "--follow", is_flag=True, help="Go on with what comes to the last of LOGS, across rotations, until Ctrl-C."
)
@click.option("--dry-run", is_flag=True, help="Store nothing; say what would become of the lines.")
@click.option(
    "--timeout", "timeout_s", default=3600.0, show_default=True, help="Stop forwarding after this many seconds."
)
@click.pass_context
def replay(
    context: click.Context,
    logs: tuple[Path, ...],
    output: Path,
    destinations: dict[str, Destination],
    statuses: tuple[int, ...],
    since: str | None,
    until: str | None,
    prefix: str,
    config: Path | None,
    texts: tuple[str, ...],
    follow: bool,
    dry_run: bool,
    timeout_s: float,
) -> None:
    """Recover events from access logs.

    Events that the output holds already are left out, also those that were collected live: each stands for one line
    that says the same within two seconds. LOGS are nginx's or Apache's, gzipped or not, the oldest first. With
    --forward-to, exit 1 if something is left to be sent.
    """
    if not (since or until or statuses):
        click.echo("Neither --since, --until nor --status bounds what is replayed: all of the logs is.", err=True)
    sys.path.insert(0, "")  # for processors of your own
    collected: dict[str, Any] = {}
    if config is not None:
        with bad_parameters():
            made = load(config).made(touch=not dry_run)
        collected = {name: value for name, value in made.options.items() if name not in OWN}
        if context.get_parameter_source("output") is ParameterSource.DEFAULT:
            output = Path(made.values["output"])
        if context.get_parameter_source("prefix") is ParameterSource.DEFAULT:
            prefix = made.values["prefix"]
    sink = None if dry_run and not output.exists() else opened_sink(output, {} if dry_run else destinations)
    before = sink.stats() if isinstance(sink, EventLog) and destinations and not dry_run else None
    with bad_parameters(), ExitStack() as opened_files:
        if sink is not None:
            opened_files.callback(sink.close)
        known = opened_files.enter_context(closing(Known()))
        options = settings.read(dict(text.partition("=")[::2] for text in texts), settings.SETTINGS)
        if wrong := OWN & options.keys():
            raise ConfigurationError("option", f"replay sets {', '.join(sorted(wrong))} itself")
        replaying = Replay(prefix, statuses or (200,), known, since=since, until=until, **collected | options)
        stored = None
        if sink is not None:
            stored = opened_files.enter_context(closing(Stored(output, sink if isinstance(sink, EventLog) else None)))
            known.learn(stored.new())
        target = None if dry_run else sink
        with tqdm(total=size_of(logs), unit="B", unit_scale=True, disable=None) as bar:
            for path in logs[:-1] if follow else logs:
                _replay_one(path, replaying, target, bar)
        if follow:
            _follow(logs[-1], replaying, known, stored, target)
    for outcome, count in replaying.counts.most_common():
        click.echo(f"{count:>9,}  {'would be stored' if dry_run and outcome == 'stored' else outcome}")
    if isinstance(sink, EventLog) and before is not None and not follow:
        send_all(output, sink, destinations, before, timeout_s)


def _replay_one(path: Path, replaying: Replay, sink: JSONLines | EventLog | None, bar: Any) -> None:
    with path.open("rb") as raw:
        events = replaying.events(opened(raw))
        read = 0
        while batch := list(islice(events, BATCH)):
            if sink is not None:
                sink.put_many(batch)
            bar.update(raw.tell() - read)
            read = raw.tell()
        bar.update(path.stat().st_size - read)


def _follow(
    path: Path, replaying: Replay, known: Known, stored: Stored | None, sink: JSONLines | EventLog | None
) -> None:
    """Replay a log and what comes to it, until SIGINT or SIGTERM. Raises `StorageError` if the disk is full then."""
    if isinstance(sink, EventLog):
        sink.start()
    followed = 0
    with _signalled() as is_over, closing(GrowingFile(path, LONGEST_LINE)) as file:
        click.echo(f"{path} is followed; Ctrl-C ends it.", err=True)
        for lines in file.blocks():  # pragma: no branch - it never ends
            if stored is not None:
                known.learn(stored.new())  # what is collected live is stored before its line is written
            events = list(replaying.events(lines))
            if sink is not None and events:
                _put(events, sink, is_over)
            if is_over():
                break
            followed += len(lines)
            if not lines:
                time.sleep(POLL_S)
            if followed > FORGET_AFTER:
                known.forget_before(time.time() - REMEMBER_S)
                followed = 0


def _put(events: list[Event], sink: JSONLines | EventLog, is_over: Callable[[], bool]) -> None:
    """Store the events, however long that takes. Raises `StorageError` if it fails when all is over."""
    try:
        return sink.put_many(events)
    except StorageError as error:
        click.echo(f"{error}; it is tried again", err=True)
    while not is_over():
        time.sleep(TRY_AGAIN_S)
        with suppress(StorageError):
            return sink.put_many(events)
    sink.put_many(events)


@contextmanager
def _signalled() -> Iterator[Callable[[], bool]]:
    """Tells whether SIGINT or SIGTERM came, which end nothing meanwhile."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
