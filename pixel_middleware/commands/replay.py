"""`pixel-middleware replay`: events recovered from access logs."""

from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from pixel_middleware.commands.sending import send_all
from pixel_middleware.commands.terminal import EXISTING, FORWARD_TO, OUTPUT, bad_parameters, opened_sink
from pixel_middleware.destinations import Destination
from pixel_middleware.replay import Replay, opened, size_of
from pixel_middleware.sinks import EventLog, JSONLines

BATCH = 2000  # events a commit


@click.command()
@click.argument("logs", nargs=-1, required=True, type=EXISTING)
@OUTPUT
@FORWARD_TO
@click.option(
    "--status", "statuses", multiple=True, type=int, default=[200], show_default=True, help="Take these only."
)
@click.option("--prefix", default="/pixel/v1", show_default=True, help="Where the pixels were.")
@click.option(
    "--timeout", "timeout_s", default=3600.0, show_default=True, help="Stop to forward after so many seconds."
)
def replay(
    logs: tuple[Path, ...],
    output: Path,
    destinations: dict[str, Destination],
    statuses: list[int],
    prefix: str,
    timeout_s: float,
) -> None:
    """Recover events from access logs.

    What the output holds already is left out. LOGS are nginx's or Apache's, gzipped or not. With --forward-to, exit 1
    if something is left to be sent.
    """
    sink = opened_sink(output, destinations)
    before = sink.stats() if isinstance(sink, EventLog) and destinations else None
    with bad_parameters(), closing(sink):
        replaying = Replay(prefix, statuses, sink.message_ids())
        with tqdm(total=size_of(logs), unit="B", unit_scale=True, disable=None) as bar:
            for path in logs:
                _replay_one(path, replaying, sink, bar)
    for outcome, count in replaying.counts.most_common():
        click.echo(f"{count:>9,}  {outcome}")
    if isinstance(sink, EventLog) and before is not None:
        send_all(output, sink, destinations, before, timeout_s)


def _replay_one(path: Path, replaying: Replay, sink: JSONLines | EventLog, bar: Any) -> None:
    with path.open("rb") as raw:
        events = replaying.events(opened(raw))
        read = 0
        while batch := list(islice(events, BATCH)):
            sink.put_many(batch)
            bar.update(raw.tell() - read)
            read = raw.tell()
        bar.update(path.stat().st_size - read)
