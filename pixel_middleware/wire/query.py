"""The raw query string: cut into decoded (name, value) pairs, within limits.

    >>> list(split_pairs("a=1&b=%C3%BC"))
    [('a', '1'), ('b', 'ü')]

Pure functions of their arguments, safe from any thread.
"""

from binascii import a2b_qp
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from pixel_middleware.errors import BadPixel


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one pixel may carry. A request over a limit is answered 400."""

    max_query_bytes: int = 32768  # 16 times the 2,000 bytes that mail clients keep of a URL
    max_params: int = 1000  # as rudder-server's own tools cap a pixel
    max_depth: int = 32  # likewise


DEFAULT_LIMITS = Limits()


def split_pairs(query: str, limits: Limits = DEFAULT_LIMITS) -> Iterable[tuple[str, str]]:
    """The decoded (name, value) pairs of a query string, in order of arrival. Raises `BadPixel`."""
    return zip(*split(query, limits), strict=True)


def split(query: str, limits: Limits) -> tuple[list[str], list[str]]:
    """The decoded names, and their values, in order of arrival. Raises `BadPixel`."""
    if len(query) > limits.max_query_bytes:
        raise BadPixel("query_too_long", f"the query string is longer than {limits.max_query_bytes} bytes")
    # One decode of all is several times as fast as one for each; the NUL between them decodes to itself.
    raw = [pair.replace("=", "\0", 1) if "=" in pair else f"{pair}\0" for pair in query.split("&") if pair]
    if len(raw) > limits.max_params:
        raise BadPixel("too_many_parameters", f"there are more than {limits.max_params} parameters")
    decoded = _decode("\0".join(raw)).split("\0") if raw else []
    if len(decoded) != 2 * len(raw):
        raise BadPixel("invalid_character", "the query string holds a NUL (%00), which no event can carry")
    return decoded[::2], decoded[1::2]


def _decode(text: str) -> str:
    """`text` as `urllib.parse.unquote_plus` decodes it, in about a tenth of the time.

    Quoted-printable is percent-encoding with `=` for `%`, and has a decoder in C. Each escape that it takes
    shortens the text by two; if the length says that one was none (`%zz`), or a line break is about, which means
    something else there, urllib's decoder is asked. So the results are equal for every input.
    """
    # "replace" for a server that breaks PEP 3333 and hands over more than one byte a character.
    raw = text.replace("+", " ").encode("latin-1", "replace")
    escaped = raw.replace(b"=", b"=3D").replace(b"%", b"=")
    decoded = a2b_qp(escaped)
    if len(escaped) - len(decoded) != 2 * escaped.count(b"=") or b"\n" in raw or b"\r" in raw:
        decoded = unquote_to_bytes(raw)
    return decoded.decode("utf-8", "replace")
