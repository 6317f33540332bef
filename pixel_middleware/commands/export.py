"""`pixel-middleware export`: events of a log as a file that other programs read."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click

from pixel_middleware.commands.terminal import Moment, events, log_at
from pixel_middleware.runtime.extras import needed_by
from pixel_middleware.sinks.schema import CAMPAIGN
from pixel_middleware.sinks.selection import Selection, newest_id, pages

ROW_GROUP = 100_000  # rows, at most
ROW_GROUP_BYTES = 32 << 20  # of events, about

COLUMNS = {
    "id": "id",
    "received_at": "received_at",
    "type": "type",
    "write_key": "write_key",
    "message_id": "message_id",
    "anonymous_id": "CAST(event ->> '$.anonymousId' AS TEXT)",
    "user_id": "CAST(event ->> '$.userId' AS TEXT)",
    "name": "name",
    "campaign": f"CAST({CAMPAIGN} AS TEXT)",
    "url": "CAST(event ->> '$.context.page.url' AS TEXT)",
    "event": "event",
}
"""Of a CSV or Parquet file: the name, and what it is in SQL."""

Row = tuple[Any, ...]
Write = Callable[[Sequence[Row]], None]


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write: its name ends in .parquet, .csv or .jsonl. What stands there is replaced.",
)
@click.option("--since", type=Moment(), help="Only what was received at this moment or later, like 2026-01-31.")
@click.option("--until", type=Moment(), help="Only what was received before this moment.")
@click.option("--after-id", default=0, type=click.IntRange(0), help="Only what came after the event of this id.")
@click.option("--anonymous-id", help="Only the events of this anonymousId.")
def export(
    path: Path, target: Path, since: str | None, until: str | None, after_id: int, anonymous_id: str | None
) -> None:
    """Write the events of the log FILE to a Parquet, CSV or JSON Lines file.

    The last id is printed: with `--after-id` the next export has only what is new.
    """
    kinds = {".parquet": _parquet, ".csv": _csv, ".jsonl": _json_lines}
    if target.suffix not in kinds:
        raise click.BadParameter(f"{target}: its name must end in .parquet, .csv or .jsonl", param_hint="--to")
    if target.resolve() == path.resolve():
        raise click.BadParameter("it is the log itself", param_hint="--to")
    columns = "id, event" if target.suffix == ".jsonl" else ", ".join(COLUMNS.values())
    count, last_id = 0, after_id
    with log_at(path) as store, _replaced(target) as file, kinds[target.suffix](file) as write:
        selection = Selection(since, until, anonymous_id)
        for rows in pages(store, selection, columns, after_id=after_id, up_to_id=newest_id(store)):
            write(rows)
            count += len(rows)
            last_id = rows[-1][0]
    click.echo(f"{events(count)} in {target}; the last id is {last_id}")


@contextmanager
def _replaced(target: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `target` at the end, whole and on disk; after an error there is none of it."""
    try:
        file = tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}-", delete=False)  # noqa: SIM115
        try:
            with file:
                yield file  # type: ignore[misc]
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise
    except OSError as error:
        raise click.ClickException(f"cannot write {target}: {error.strerror}") from error


@contextmanager
def _json_lines(file: BinaryIO) -> Iterator[Write]:
    def write(rows: Sequence[Row]) -> None:
        file.write("".join(f"{event}\n" for _, event in rows).encode())

    yield write


@contextmanager
def _csv(file: BinaryIO) -> Iterator[Write]:
    def line(row: Sequence[Any]) -> str:
        # The csv module looks at each letter, which takes three times as long.
        return '"' + '","'.join(["" if cell is None else str(cell).replace('"', '""') for cell in row]) + '"\r\n'

    def write(rows: Sequence[Row]) -> None:
        file.write("".join(map(line, rows)).encode())

    file.write(line(tuple(COLUMNS)).encode())
    yield write


@contextmanager
def _parquet(file: BinaryIO) -> Iterator[Write]:
    try:
        with needed_by("export to Parquet", "pyarrow", extra="parquet"):
            import pyarrow
            from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise click.ClickException(str(error)) from error
    types = {"id": pyarrow.int64(), "received_at": pyarrow.timestamp("ms", "UTC")}
    schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in COLUMNS])
    batches: list[Any] = []

    def flush() -> None:
        writer.write_table(pyarrow.Table.from_batches(batches, schema))
        batches.clear()

    def write(rows: Sequence[Row]) -> None:
        arrays = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
        arrays["received_at"] = tuple(map(_moment, arrays["received_at"]))
        batches.append(pyarrow.record_batch(arrays, schema))
        if sum(map(len, batches)) >= ROW_GROUP or sum(batch.nbytes for batch in batches) >= ROW_GROUP_BYTES:
            flush()

    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        yield write
        if batches:
            flush()


def _moment(received_at: str) -> datetime | None:
    try:
        return datetime.fromisoformat(received_at).replace(tzinfo=UTC)
    except ValueError:  # a processor's idea of a moment; the event has it
        return None
