"""Text that strangers wrote, made fit for a terminal, a log or an error: printable, and short."""

from typing import Any

_UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"  # printable, says Unicode, and yet nothing to see


def printable(text: Any) -> str:
    """`text` with a `?` for each control character, which could take over a terminal or begin a line of a log."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def shorten(name: str) -> str:
    """A parameter's name for an error string: in quotes, printable, on one line, at most 40 characters."""
    return f"'{printable(name)}'" if len(name) <= 40 else f"'{printable(name[:39])}…'"


def is_blank(text: str) -> bool:
    """Whether nobody could see `text`: white space, and what rudder-server strips as invisible.

    That is controls, formats such as U+200B, private use, unassigned, and a few fillers such as U+3164.
    """
    # The comparison, of the first character with those of ASCII, answers for nearly every text.
    return not "!" <= text < "\x7f" and all(
        letter.isspace() or not letter.isprintable() or letter in _UNSEEN for letter in text
    )
