"""The raw query string: cut into decoded (name, value) pairs, within limits.

    >>> list(split_pairs("a=1&b=%C3%BC"))
    [('a', '1'), ('b', 'ü')]

Pure functions of their arguments, safe from any thread.
"""

import re
from binascii import a2b_qp
from collections.abc import Iterable
from dataclasses import dataclass

from pixel_middleware.errors import BadPixel


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one pixel may carry. A request over a limit is answered 400."""

    max_query_bytes: int = 32768  # 16 times the 2,000 bytes that mail clients keep of a URL
    max_params: int = 1000  # as rudder-server's own tools cap a pixel; names may nest into 4 times as many objects
    max_depth: int = 32  # likewise
    max_event_bytes: int = 65536  # of the event's JSON, with what the server adds; twice the longest query


DEFAULT_LIMITS = Limits()

LIMITS = "pixel_middleware.limits"
"""Where the endpoint leaves its `Limits` in the environ, for processors that read the query themselves."""

_ALL_BUT_SIGNS = bytes(set(range(256)) - set(b"=&"))
_AS_QUOTED_PRINTABLE = bytes.maketrans(b"%+=&", b"= \0\0")
_STRAY = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def split_pairs(query: str, limits: Limits = DEFAULT_LIMITS) -> Iterable[tuple[str, str]]:
    """The decoded (name, value) pairs of a query string, in order of arrival. Raises `BadPixel`."""
    return zip(*split(query, limits), strict=True)


def split(query: str, limits: Limits) -> tuple[list[str], list[str]]:
    """The decoded names, and their values, in order of arrival. Raises `BadPixel`.

    Decodes as `urllib.parse.unquote_plus` does, in a tenth of its time, and all at once: quoted-printable is
    percent-encoding with `=` for `%`, and has a decoder in C. A NUL stands between the parts, and decodes to itself.
    """
    if len(query) > limits.max_query_bytes:
        raise BadPixel("query_too_long", f"the query string is longer than {limits.max_query_bytes} bytes")
    # "replace" for a server that breaks PEP 3333 and hands over more than one byte a character.
    raw = query.encode("latin-1", "replace")
    signs = raw.translate(None, _ALL_BUT_SIGNS)
    count = len(signs) // 2 + 1
    if signs != b"=&" * (count - 1) + b"=":  # then some pair has no `=` or several, or is empty
        pairs = [pair.partition(b"=") for pair in raw.split(b"&") if pair]
        count = len(pairs)
        raw = b"&".join([name + b"=" + value.replace(b"=", b"%3D") for name, _, value in pairs])
    if count > limits.max_params:
        raise BadPixel("too_many_parameters", f"there are more than {limits.max_params} parameters")
    if not count:
        return [], []

    encoded = raw.translate(_AS_QUOTED_PRINTABLE)
    decoded = a2b_qp(encoded)
    # Each escape shortens the text by two, unless it is none (`%zz`) or a line break follows, which means
    # something else in quoted-printable.
    if len(encoded) - len(decoded) != 2 * encoded.count(b"=") or b"\n" in raw or b"\r" in raw:
        decoded = a2b_qp(_STRAY.sub(b"%25", raw).translate(_AS_QUOTED_PRINTABLE))
    parts = decoded.decode("utf-8", "replace").split("\0")
    if len(parts) != 2 * count:
        raise BadPixel("invalid_character", "the query string holds a NUL (%00), which no event can carry")
    return parts[::2], parts[1::2]
