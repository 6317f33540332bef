"""The events of a file, as they come: for `tail` and `serve`."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import click

from pixel_middleware.commands.terminal import log_at

POLL_S = 0.3
PAGE = 1000  # events in memory at once
BLOCK = 65536  # bytes

Events = Iterator[str | bytes | int | None]
"""Events as JSON, the oldest first; a number for so many that are left out; `None` when there is no more for now."""


def follow(path: Path, count: int, most: int | None = None) -> Events:
    """The last `count` events of an event log, or of JSON Lines if the name ends so, and all that come.

    Between two `None`, at most about `most` are told, and the others counted alone: what reads may be slower than what
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
    lines = _opened(path)
    try:
        _seek_to_last(lines, count)
        rest = b""
        told = left_out = 0
        while True:
            block = lines.read(BLOCK)
            *whole, rest = (rest + block).split(b"\n")
            if most is None or told < most:
                told += len(whole)
                yield from whole
            else:
                left_out += len(whole)
            if block:
                continue
            if left_out:
                yield left_out
            told = left_out = 0
            yield None
            with suppress(FileNotFoundError):  # while it is rotated
                now = os.stat(path)
                if not os.path.samestat(now, os.fstat(lines.fileno())):
                    lines.close()
                    lines, rest = _opened(path), b""
                elif now.st_size < lines.tell():
                    lines.seek(0)
                    rest = b""
    finally:
        lines.close()


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {error.strerror}") from error


def _seek_to_last(lines: BinaryIO, count: int) -> None:
    """Go to the beginning of the last `count` lines."""
    position = lines.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - BLOCK)
        lines.seek(start)
        block = lines.read(position - start)
        end = len(block)
        while (end := block.rfind(b"\n", 0, end)) >= 0:
            count -= 1
            if count < 0:
                lines.seek(start + end + 1)
                return
        position = start
    lines.seek(0)
