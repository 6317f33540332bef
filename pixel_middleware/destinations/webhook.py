"""Sends to any HTTP endpoint, as JSON, signed (extra `[webhook]`)."""

import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from pixel_middleware.destinations.base import Record, RecordDestination, Undelivered
from pixel_middleware.destinations.http import Part, Peer, post_in_bodies, refusal
from pixel_middleware.errors import ConfigurationError, RetryLater

NEVER = (400, 413, 422)
SIGNATURE = "Pixel-Signature"


class Webhook(RecordDestination):
    """POSTs events to `url`, as a JSON array of at most 1,000 events and 500 kB.

    Args:
        url: anything of http or https; a query is kept. Redirects are not followed.
        secret: signs each request, see `sign`. Text, which the receiver needs as well.
        headers: sent with each request, `{"Authorization": "Bearer ..."}` say.
        timeout_s: for a whole request, from the connection to the answer's last byte.
        max_per_second: events a second, see `Destination`.

    Each array has an `Idempotency-Key`, which is the same if the same array is sent again. 2xx: taken. 400, 413 and
    422: the array is halved until the event at fault is alone, which is rejected. Any other answer means later, as
    long as a `Retry-After` asks for.

    New in 0.1.
    """

    def __init__(
        self,
        url: str,
        secret: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 10,
        max_per_second: float | None = None,
    ) -> None:
        if secret is not None and not (isinstance(secret, str) and secret):
            # The value is not repeated: it may be a secret of another type.
            raise ConfigurationError("secret", f"secret must be text, or None to sign nothing, got {type(secret)}")
        if not isinstance(headers, Mapping | None) or any(
            not isinstance(text, str) for pair in (headers or {}).items() for text in pair
        ):
            raise ConfigurationError("headers", "headers must be a mapping of names to values, both text")
        self._peer = Peer(
            url, option="url", example="https://example.com/hook", timeout_s=timeout_s, who="Webhook", extra="webhook"
        )
        self.max_per_second = max_per_second
        self._secret = secret
        self._headers = {"Content-Type": "application/json", "User-Agent": "pixel-middleware", **(headers or {})}

    def __str__(self) -> str:
        """Where it sends to, without secrets."""
        return str(self._peer)

    def deliver(self, records: Sequence[Record]) -> None:
        """Return once all are taken. Raises `RetryLater` or `Rejected`, by name."""

        def post(parts: Sequence[Part]) -> None:
            body = b"[" + b",".join(text for _, text in parts) + b"]"
            headers = self._headers | {"Idempotency-Key": hashlib.sha256(body).hexdigest()[:32]}
            if self._secret is not None:
                headers[SIGNATURE] = sign(self._secret, int(time.time()), body)
            status, text, retry_after = self._peer.post(body, headers)
            if not 200 <= status < 300:
                raise refusal(status, text, retry_after, never=NEVER, hold=False)

        undelivered = Undelivered()
        with suppress(RetryLater):  # which is noted as well
            post_in_bodies([(record, record.text.encode()) for record in records], post, undelivered)
        undelivered.raise_if_any()

    def close(self) -> None:
        """Close the connection."""
        self._peer.close()


def sign(secret: str, moment: int, body: bytes) -> str:
    """The header `Pixel-Signature`: `t=MOMENT,v1=HEX`, where HEX is the HMAC-SHA256 of `MOMENT.BODY`.

    `moment` is a Unix time in seconds: a receiver refuses what is older than some minutes, so that nobody can repeat
    a request that was overheard.
    """
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"
