"""The lines of a file that others append to and rotate, as they come: what `tail -F` prints."""

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from glob import escape
from pathlib import Path

BLOCK = 1 << 20  # bytes that are read at once
KNOWN = 512  # bytes before the position by which a file is recognised; a log's line with its time is shorter


class GrowingFile:
    """Reads a file from `start`, and then what is appended to it, across rotations.

    - Renamed: what is still written to the old file is read as well, until the next one is.
    - Copied and truncated: what was written between the last look and the truncation is read from the copy, which is
      the newest file beside it that begins like it is called, and holds what was read.

    Memory is bounded: of a line that is longer than `longest`, its first `longest` bytes and one more are the line.
    Raises `OSError` if there is no such file now. Not thread-safe.
    """

    def __init__(self, path: Path, longest: int, start: int = 0) -> None:
        self._path = path
        self._longest = longest
        self._parts = [_Part(path, longest, start)]

    def blocks(self) -> Iterator[list[bytes]]:
        """The lines without their ends, as lists; an empty list when there are no more for now. It never ends."""
        while True:
            for part in self._parts:  # the older first
                yield from part.blocks()
                while part.is_truncated:
                    yield from self._rest_of_copy(part)
                    part.begin_anew()
                    yield from part.blocks()
            with suppress(FileNotFoundError):  # while it is rotated
                if not os.path.samestat(os.stat(self._path), self._parts[-1].stat()):
                    while len(self._parts) > 1:
                        yield from self._last_of(self._parts.pop(0))
                    self._parts.append(_Part(self._path, self._longest))
                    continue
            yield []

    def close(self) -> None:
        """Close the files."""
        for part in self._parts:
            part.close()

    def _rest_of_copy(self, part: "_Part") -> Iterator[list[bytes]]:
        beside = {}
        for path in self._path.parent.glob(f"{escape(self._path.stem)}*"):
            with suppress(FileNotFoundError):
                beside[path] = path.stat().st_mtime
        for path in sorted(beside, key=lambda path: beside[path], reverse=True):
            with suppress(OSError), closing(part.on_at(path)) as copy:
                if copy.holds_what_was_read():
                    yield from self._last_of(copy)
                    break

    def _last_of(self, part: "_Part") -> Iterator[list[bytes]]:
        """What is left of a file that nobody writes any more: also a line without an end."""
        yield from part.blocks()
        if part.rest:
            yield [part.rest]
        part.close()


class _Part:
    """One file, read to where it ends for now."""

    def __init__(self, path: Path, longest: int, start: int = 0) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._longest = longest
        self._position = start
        self._before = os.pread(self._fd, min(start, KNOWN), max(0, start - KNOWN))
        self.rest = b""
        """A line whose end has not come."""
        self._skips = False  # the rest of a line that is too long
        self.is_truncated = False
        """It does not hold any more what was read."""

    def blocks(self) -> Iterator[list[bytes]]:
        """Its lines, up to its end for now, or until it is truncated."""
        while True:
            known = len(self._before)
            data = os.pread(self._fd, known + BLOCK, self._position - known)
            self.is_truncated = not data.startswith(self._before)
            if self.is_truncated or len(data) == known:
                break
            self._position += len(data) - known
            self._before = data[-KNOWN:]
            *lines, self.rest = (self.rest + data[known:]).split(b"\n")
            if lines and self._skips:
                del lines[0]
                self._skips = False
            if self._skips:
                self.rest = b""
            elif len(self.rest) > self._longest:
                lines.append(self.rest)
                self.rest, self._skips = b"", True
            if lines:
                yield [line[: self._longest + 1] for line in lines]

    def on_at(self, path: Path) -> "_Part":
        """Another file, to be read on where this one was. Raises `OSError`."""
        other = _Part(path, self._longest)
        other._position, other._before, other.rest, other._skips = self._position, self._before, self.rest, self._skips
        return other

    def holds_what_was_read(self) -> bool:
        """Whether what stands before the position is what was read there."""
        return os.pread(self._fd, len(self._before), self._position - len(self._before)) == self._before

    def begin_anew(self) -> None:
        """It was truncated: read what comes now."""
        self._position, self._before, self.rest, self._skips = 0, b"", b"", False
        self.is_truncated = False

    def stat(self) -> os.stat_result:
        """What the file system says of it, whatever it is called now."""
        return os.fstat(self._fd)

    def close(self) -> None:
        """Close it; may be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
