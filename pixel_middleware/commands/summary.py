"""What `pixel-middleware log FILE` shows: how full the file is, each destination, and what is on hold."""

import time
from pathlib import Path
from typing import Any

import click

from pixel_middleware.commands.terminal import duration, events, free_bytes, say, size
from pixel_middleware.sinks import positions, soundness
from pixel_middleware.sinks.retention import DEFAULT_BYTES, pinned_share, unclaimed
from pixel_middleware.sinks.stats import HUNG_S, DestinationStats, stats
from pixel_middleware.sinks.store import Store
from pixel_middleware.wire.printable import printable

MOST_SHOWN = 20  # dead letters of a destination, and lanes on hold
NEARLY_FULL = 0.8


def look(store: Store, max_bytes: int | None) -> dict[str, Any]:
    """What there is to show, as the JSON has it."""
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


def show(path: Path, seen: dict[str, Any]) -> None:
    """Print what `look` saw."""
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
    holds, total = seen["longest_holds"], seen["lanes_on_hold"]
    if holds:
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
