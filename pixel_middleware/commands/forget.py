"""`pixel-middleware forget`: delete what is stored about a person."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from pixel_middleware.commands.terminal import events, log_at
from pixel_middleware.sinks.erasure import Erased, as_json, empty_wal, forget_lines
from pixel_middleware.sinks.erasure import forget as forget_in
from pixel_middleware.sinks.selection import Selection
from pixel_middleware.wire.printable import printable

BLOCK = 1 << 20  # bytes


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--anonymous-id", help="The person's anonymousId.")
@click.option("--user-id", help="The person's userId.")
@click.option("--dry-run", is_flag=True, help="Delete nothing; say what would be deleted.")
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object.")
def forget(path: Path, anonymous_id: str | None, user_id: str | None, dry_run: bool, as_object: bool) -> None:
    """Delete a person's events from FILE, an event log or JSON Lines (.jsonl).

    This also deletes what waits for delivery, and refused requests with the id. There is no question before it. A
    collector may go on meanwhile. Destinations keep what they have had: the command says how many events that is.
    """
    if (anonymous_id is None) == (user_id is None) or "" in (anonymous_id, user_id):
        raise click.UsageError("give --anonymous-id or --user-id")
    field, id_ = ("anonymousId", anonymous_id) if anonymous_id is not None else ("userId", user_id or "")
    if path.suffix == ".jsonl":
        try:
            erased = Erased(events=forget_lines(os.fspath(path), field, id_, dry_run=dry_run))
        except OSError as error:
            raise click.ClickException(f"cannot change {path}: {error.strerror}") from error
    else:
        with log_at(path) as store:
            erased = forget_in(store, Selection(anonymous_id=anonymous_id, user_id=user_id), id_, dry_run=dry_run)
        text = as_json(id_)
        traces = {f'"{field}":{text}'} if erased.mentions else {id_, text[1:-1]}
        # In the bytes of the files, as only a process may look that has no SQLite file open: see `store`.
        if not dry_run and not erased.came_since and _contains(path, traces):
            with log_at(path) as store:  # SQLite moves rows between pages, and does not zero every copy
                empty_wal(store, rebuild=True)
            if _contains(path, traces):
                raise click.ClickException(
                    f"{path} still contains the id, in a place that is not ours, like a table of your own"
                )
    if as_object:
        click.echo(json.dumps(asdict(erased)))
    else:
        done = "would be deleted" if dry_run else "deleted"
        click.echo(f"{events(erased.events)}, {erased.setbacks:,} setbacks and {erased.refusals:,} refusals {done}")
        for name, count in erased.sent.items():
            if count:
                click.echo(f"{printable(name)} has had up to {count:,} of them: have them deleted there too")
        if erased.mentions:
            click.echo(f"The text of the id also stands in {events(erased.mentions)} of others, which stay")
        if erased.came_since:
            click.echo(f"{events(erased.came_since)} of this person came meanwhile: use the processor `suppress` first")


def _contains(path: Path, texts: set[str]) -> bool:
    needles = [text.encode() for text in texts]
    longest = max(map(len, needles))
    for file in (path, Path(f"{path}-wal")):
        if file.exists():
            with file.open("rb") as blocks:
                rest = b""
                while block := blocks.read(BLOCK):
                    rest += block
                    if any(needle in rest for needle in needles):
                        return True
                    rest = rest[-longest:]
    return False
