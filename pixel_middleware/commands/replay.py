"""`pixel-middleware replay`: events recovered from access logs."""

import sys
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from pixel_middleware import settings
from pixel_middleware.commands.sending import send_all
from pixel_middleware.commands.terminal import EXISTING, FORWARD_TO, OUTPUT, Moment, bad_parameters, opened_sink
from pixel_middleware.destinations import Destination
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.replay import Known, Replay, opened, size_of, stored_events
from pixel_middleware.sinks import EventLog, JSONLines

BATCH = 2000  # events a commit


@click.command()
@click.argument("logs", nargs=-1, required=True, type=EXISTING)
@OUTPUT
@FORWARD_TO
@click.option("--status", "statuses", multiple=True, type=int, help="Take these only.  [default: 200]")
@click.option("--since", type=Moment(), help="Only requests of this moment or later, like 2026-01-31T13:00.")
@click.option("--until", type=Moment(), help="Only requests before this moment.")
@click.option("--prefix", default="/pixel/v1", show_default=True, help="Where the pixels were.")
@click.option(
    "--option",
    "texts",
    multiple=True,
    metavar="NAME=TEXT",
    help="An option of the collector's PixelMiddleware, as in an ini file: write_keys, processors, and others.",
)
@click.option("--dry-run", is_flag=True, help="Store nothing; say what would become of the lines.")
@click.option(
    "--timeout", "timeout_s", default=3600.0, show_default=True, help="Stop to forward after so many seconds."
)
def replay(
    logs: tuple[Path, ...],
    output: Path,
    destinations: dict[str, Destination],
    statuses: tuple[int, ...],
    since: str | None,
    until: str | None,
    prefix: str,
    texts: tuple[str, ...],
    dry_run: bool,
    timeout_s: float,
) -> None:
    """Recover events from access logs.

    What the output holds already is left out, also events that were collected live: as many as there are lines that
    say the same within two seconds. LOGS are nginx's or Apache's, gzipped or not, the oldest first. With --forward-to,
    exit 1 if something is left to be sent.
    """
    if not (since or until or statuses):
        click.echo("Neither --since, --until nor --status bounds what is replayed: all of the logs is.", err=True)
    sys.path.insert(0, "")  # for processors of your own
    sink = None if dry_run and not output.exists() else opened_sink(output, {} if dry_run else destinations)
    before = sink.stats() if isinstance(sink, EventLog) and destinations and not dry_run else None
    with bad_parameters(), closing(Known(stored_events(sink) if sink else ())) as known:
        options = settings.read(dict(text.partition("=")[::2] for text in texts), settings.SETTINGS)
        if wrong := {"prefix", "response", "trusted_proxies", "amp", "refused"} & options.keys():
            raise ConfigurationError("option", f"replay sets {', '.join(sorted(wrong))} itself")
        replaying = Replay(prefix, statuses or (200,), known, since=since, until=until, **options)
        try:
            with tqdm(total=size_of(logs), unit="B", unit_scale=True, disable=None) as bar:
                for path in logs:
                    _replay_one(path, replaying, None if dry_run else sink, bar)
        finally:
            if sink is not None:
                sink.close()
    for outcome, count in replaying.counts.most_common():
        click.echo(f"{count:>9,}  {'would be stored' if dry_run and outcome == 'stored' else outcome}")
    if isinstance(sink, EventLog) and before is not None:
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
