"""A processor that takes only pixels whose URL this site made."""

from collections.abc import Collection
from typing import Any, cast

from webob import Request

from pixel_middleware.errors import BadPixel, ConfigurationError
from pixel_middleware.events import Event
from pixel_middleware.wire.query import DEFAULT_LIMITS, LIMITS, split_pairs
from pixel_middleware.wire.signatures import SIGNATURE, VERIFIED, is_signed


class verify_signature:
    """Refuse (400, `invalid_signature`) a pixel that `pixel_url(..., signing_key=)` did not make with one of `keys`.

    Several keys allow for rotation: sign with the new one, and verify with both while old mails are read.

    New in 0.1.
    """

    never_waits = True

    def __init__(self, keys: str | Collection[str]) -> None:
        self._keys = [keys] if isinstance(keys, str) else list(keys)
        if not self._keys or not all(isinstance(key, str) and key for key in self._keys):
            raise ConfigurationError.must_be("keys", "a secret, or several; strings that are not empty", type(keys))

    def __call__(self, event: Event, request: Request) -> Event:
        limits = request.environ.get(LIMITS, DEFAULT_LIMITS)
        pairs = split_pairs(request.environ.get("QUERY_STRING", ""), limits)
        if not is_signed(event["type"], pairs, self._keys):
            raise BadPixel("invalid_signature", "the signature is missing or wrong; use the URL as it was made")
        request.environ[VERIFIED] = True  # for processors that believe only what this site signed
        cast(dict[str, Any], event).pop(SIGNATURE, None)
        return event
