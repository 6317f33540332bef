"""Every error of ours, in one small tree.

PixelError
├── ConfigurationError   an option is wrong; raised at construction
├── BadPixel             a request that cannot become an event; answered 400
├── UnsendableEvent      an event that no pixel URL can carry, or that Source does not take
├── StorageError         a sink's file cannot take or give events; answered 503
├── RetryLater           a destination could not take events now; the log keeps them
└── Rejected             a destination will never take these events
"""

import re
from collections.abc import Sequence
from typing import Any, Literal, Self

Reason = Literal[
    "missing_write_key",
    "invalid_write_key",
    "missing_anonymous_id",
    "missing_event",
    "query_too_long",
    "event_too_long",
    "too_many_parameters",
    "too_deep",
    "invalid_name",
    "conflicting_names",
    "invalid_character",
    "invalid_signature",
    "schema_mismatch",
    "sink_failed",
    "not_found",
    "method_not_allowed",
]
"""Our own vocabulary of `X-Pixel-Error`: fixed words, so that no input can reach a header."""

_REASON = re.compile("[a-z_]{1,40}")


class PixelError(Exception):
    """The base of all errors of this package.

    New in 0.1.
    """


class ConfigurationError(PixelError, ValueError):
    """An option is wrong: a sentence that says what was given and what is right, and the option's name.

    New in 0.1.
    """

    def __init__(self, option: str, sentence: str) -> None:
        super().__init__(sentence)
        self.option = option

    @classmethod
    def must_be(cls, option: str, accepted: str, given: object) -> Self:
        """The usual sentence."""
        return cls(option, f"{option} must be {accepted}, got {given!r}")


class BadPixel(PixelError):
    """A request that cannot become an event.

    `reason` goes to the `X-Pixel-Error` header and the counters: one of `Reason`, or a processor's own word, of
    1 to 40 small letters and underscores. `message` is the one line that the client reads; it quotes nothing of
    the request but, shortened, a parameter's name. Raises `ConfigurationError` for another reason.

    New in 0.1.
    """

    def __init__(self, reason: Reason | str, message: str) -> None:
        if not isinstance(reason, str) or not _REASON.fullmatch(reason):
            # Not quoted: whoever makes reasons of input must not find it in the log either.
            raise ConfigurationError("reason", "reason must be 1 to 40 of a-z and _, like not_in_the_plan")
        self.reason: str = reason
        self.message = " ".join(message.splitlines())
        super().__init__(self.message)


class UnsendableEvent(PixelError, ValueError):
    """An event that no pixel URL can carry, or that `Source` does not take.

    Says what is wrong with it, and quotes none of its values.

    New in 0.1.
    """


class StorageError(PixelError):
    """A sink's file cannot take or give events: full, locked, read-only, broken. Nothing was stored.

    New in 0.1.
    """


class RetryLater(PixelError):
    """Raised by a destination: not delivered, and not the events' fault.

    `after` is when to try again, in seconds; `None` leaves it to the log. With `hold`, the trouble is these lanes'
    alone (a write key that the destination does not know, say): they are set aside, and the others go on.
    With `unclear`, it may be an event's fault after all: the log finds out at once, as for any other exception.
    `events` names those that were not delivered, and the others of the batch then count as delivered; none named means
    that none was delivered. `cause` is the trouble in a fixed word, for metrics.

    New in 0.1.
    """

    def __init__(
        self,
        message: str = "",
        *,
        after: float | None = None,
        hold: bool = False,
        unclear: bool = False,
        events: Sequence[Any] = (),
        cause: str = "other",
    ) -> None:
        super().__init__(message)
        self.after = after
        self.hold = hold
        self.unclear = unclear
        self.events = events
        self.cause = cause


class Rejected(PixelError):
    """Raised by a destination: it will never take these events as they are.

    The log makes dead letters of `events`, with this message as the reason, and takes the others of the batch for
    delivered. Without `events` it halves the batch until the one at fault is alone.

    New in 0.1.
    """

    def __init__(self, message: str = "", *, events: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.events = events
