"""A signature on a pixel's query, so that nobody without the key can make one up.

HMAC-SHA256 over the kind and the decoded names and values, in the order of their names; so it
does not matter how they are percent-encoded, or in which order a client sends them.
"""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from urllib.parse import quote

from pixel_middleware.events import Kind

SIGNATURE = "signature"
"""The parameter that carries it, which is not part of what is signed."""

VERIFIED = "pixel_middleware.signature_verified"
"""True in the environ of a request whose signature was verified. No client can set it: its headers begin with HTTP_."""


def sign(kind: Kind, pairs: Iterable[tuple[str, str]], key: str) -> str:
    """The signature of a pixel of this kind, 43 characters. Values of a repeated name are signed in their order."""
    signed = sorted((pair for pair in pairs if pair[0] != SIGNATURE), key=lambda pair: pair[0])
    canonical = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in signed)
    digest = hmac.digest(key.encode(), f"{kind}?{canonical}".encode(), hashlib.sha256)
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def is_signed(kind: Kind, pairs: Iterable[tuple[str, str]], keys: Iterable[str]) -> bool:
    """Whether the pairs carry the signature of one of the keys. Takes as long whichever it is."""
    pairs = list(pairs)
    given = dict(reversed(pairs)).get(SIGNATURE, "")
    matches = [hmac.compare_digest(sign(kind, pairs, key).encode(), given.encode()) for key in keys]
    return any(matches)
