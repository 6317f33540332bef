"""How an event log sends what it holds while somebody watches: for `log FILE send` and `replay`."""

import time
from collections.abc import Collection
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pixel_middleware.commands.terminal import log_at, say
from pixel_middleware.sinks import EventLog, LogStats, positions
from pixel_middleware.sinks.stats import HUNG_S, stats
from pixel_middleware.sinks.store import Store
from pixel_middleware.wire.printable import printable

POLL_S = 0.1
STUCK_S = 1.0  # without a step, before the bar says why


def send_all(path: Path, log: EventLog, names: Collection[str], before: LogStats, timeout_s: float) -> None:
    """Have `log`, at `path`, send what it holds now to its destinations `names`, show how that goes, and close it.

    `before` is what `log` said before it was given anything to send. Raises `click.exceptions.Exit(1)` if something is
    left when the time is over, or at Ctrl-C.
    """
    with log_at(path) as store:
        newest = positions.newest_id(store)
        with closing(log):
            for name in names:
                if (carrier := positions.carrier(store, name)) is not None:
                    click.echo(f"Process {carrier[0]} carries to {printable(name)} already; this shows how far it is.")
            with suppress(KeyboardInterrupt):
                _watch(store, log, newest, names, time.monotonic() + timeout_s)
        after = stats(store)["destinations"]
        left = {name: positions.count_left(store, name, newest) for name in names}
    sent = sum(after[name]["sent"] - before["destinations"][name]["sent"] for name in names)
    dead = sum(after[name]["dead"] - before["destinations"][name]["dead"] for name in names)
    click.echo(f"{sent:,} sent, {dead:,} dead, {sum(left.values()):,} left")
    for name in (name for name, count in left.items() if count):
        say(f"{printable(name)}: ", after[name]["last_error"] or "nothing has failed; there was no more time")
    if any(left.values()):
        raise click.exceptions.Exit(1)


def _watch(store: Store, log: EventLog, newest: int, names: Collection[str], deadline: float) -> None:
    """A bar, on a terminal, and below it what holds it up; returns when all is sent, or at the deadline."""
    left = total = sum(positions.count_left(store, name, newest) for name in names)
    moved_at = time.monotonic()
    with logging_redirect_tqdm(), _bar(total=total, unit="event") as bar, _bar(bar_format="{desc}", position=1) as why:
        log.start()
        while left and time.monotonic() < deadline:
            time.sleep(POLL_S)
            before, left = left, sum(positions.count_left(store, name, newest) for name in names)
            bar.update(before - left)
            if before != left:
                moved_at = time.monotonic()
            reasons = {}
            if time.monotonic() - moved_at >= STUCK_S:
                errors = positions.last_errors(store)
                reasons = {name: text for name, (text, lasts) in errors.items() if name in names and lasts}
                for name in names:
                    carrier = positions.carrier(store, name)
                    if carrier is not None and carrier[1] > HUNG_S:
                        reasons[name] = f"process {carrier[0]}, which carries, hangs"
            why.set_description_str(
                "; ".join(f"{printable(name)}: {printable(reason)}" for name, reason in reasons.items())
            )


def _bar(**options: Any) -> Any:
    return tqdm(disable=None, dynamic_ncols=True, leave="total" in options, **options)  # None: not in a pipe
