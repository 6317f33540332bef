"""The events of a file, as they come: for `tail` and `serve`."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import click

from pixel_middleware.commands.terminal import log_at
from pixel_middleware.runtime.growing_file import GrowingFile

POLL_S = 0.3
PAGE = 1000  # events in memory at once
BLOCK = 65536  # bytes
LONGEST = 1 << 24  # bytes of an event

Events = Iterator[str | bytes | int | None]
"""Events as JSON, the oldest first; a number for so many that are left out; `None` when there is no more for now."""


def follow(path: Path, count: int, most: int | None = None) -> Events:
    """The last `count` events of an event log, or of JSON Lines if the name ends so, and all that come.

    Between two `None`, at most `most` are told, and the others counted alone: what reads may be slower than what
    writes. Raises `click.ClickException` if the file is none of both.
    """
    return _of_lines(path, count, most) if path.suffix == ".jsonl" else _of_log(path, count, most)


def _of_log(path: Path, count: int, most: int | None) -> Events:
    with log_at(path) as store:
        before = "SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?"
        ((last,),) = store.read(f"SELECT coalesce(({before}), 0)", count)
        file = store.identity_at_path()
        while True:
            rows = store.read("SELECT id, event FROM events WHERE id > ? ORDER BY id LIMIT ?", last, most or PAGE)
            for id_, text in rows:
                last = id_
                yield text
            if most and len(rows) == most:
                ((newest,),) = store.read("SELECT coalesce(max(id), 0) FROM events")
                if newest > last:
                    yield newest - last
                    last = newest
                yield None
            elif len(rows) < PAGE:
                yield None
            if store.identity_at_path() != file:  # it was replaced
                file, last = store.identity_at_path(), 0


def _of_lines(path: Path, count: int, most: int | None) -> Events:
    try:
        with path.open("rb") as lines:
            start = _start_of_last(lines, count)
        file = GrowingFile(path, LONGEST, start)
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {error.strerror}") from error
    with closing(file):
        told = left_out = 0
        blocks = file.blocks()
        while True:
            block = next(blocks)
            most_of_block = len(block) if most is None else max(0, most - told)
            yield from block[:most_of_block]
            told += len(block)
            left_out += max(0, len(block) - most_of_block)
            if not block:
                if left_out:
                    yield left_out
                told = left_out = 0
                yield None


def _start_of_last(lines: BinaryIO, count: int) -> int:
    """Where the last `count` lines begin."""
    position = lines.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - BLOCK)
        lines.seek(start)
        block = lines.read(position - start)
        end = len(block)
        while (end := block.rfind(b"\n", 0, end)) >= 0:
            count -= 1
            if count < 0:
                return start + end + 1
        position = start
    return 0
