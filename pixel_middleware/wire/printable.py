"""Text that strangers wrote, made fit for a terminal, a log or an error: printable, and short."""

from typing import Any


def printable(text: Any) -> str:
    """`text` with a `?` for each control character, which could take over a terminal or begin a line of a log."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def shorten(name: str) -> str:
    """A parameter's name for an error string: in quotes, printable, on one line, at most 40 characters."""
    return f"'{printable(name)}'" if len(name) <= 40 else f"'{printable(name[:39])}…'"
