"""Where an event log sends to. Importing this needs no extra; a destination asks for its own when it is built."""

from collections.abc import Iterable
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pixel_middleware.destinations.base import Destination
from pixel_middleware.destinations.kafka import Kafka
from pixel_middleware.destinations.rudderstack import RudderStack
from pixel_middleware.destinations.webhook import Webhook
from pixel_middleware.errors import ConfigurationError

__all__ = ["Destination", "Kafka", "RudderStack", "Webhook", "from_url", "named"]


def named(texts: Iterable[str]) -> dict[str, Destination]:
    """The destinations that texts like `NAME=URL` say, by name; without a NAME it is the host.

    Raises `ConfigurationError`, also if two have one name, and as `from_url`.

    New in 0.1.
    """
    destinations: dict[str, Destination] = {}
    for text in texts:
        name, equals, url = text.partition("=")
        if not equals or "/" in name:
            destination = from_url(text)  # which knows a URL
            name = (urlsplit(text).hostname or "").partition(",")[0]
        else:
            destination = from_url(url)
        if not 0 < len(name) <= 100 or not name.isprintable():
            right = "NAME=URL with a NAME of 1 to 100 printable characters"
            raise ConfigurationError.must_be("forward_to", right, _without_secrets(text))
        if name in destinations:
            sentence = f"two destinations are called {name}: give each a NAME=URL of its own"
            raise ConfigurationError("forward_to", sentence)
        destinations[name] = destination
    return destinations


def from_url(url: str) -> Destination:
    """The destination that a URL says.

    - `https://host`: a RudderStack data plane. `#max_per_second=100` behind it bounds the events a second.
    - `kafka://host:9092,host:9092/topic`: a topic. A `?` behind it gives librdkafka's options, `compression.type=zstd`,
      say, `dead.letters=TOPIC`, and `max.per.second=100`.
    - `webhook+https://host/path?query`: a webhook. `#secret=TEXT` behind it signs, and is not sent;
      `#max_per_second=100` as above.

    Raises `ConfigurationError`, which repeats nothing that may be secret.

    New in 0.1.
    """
    try:
        parts = urlsplit(url)
        is_usable = bool(parts.hostname)
    except ValueError:  # "Invalid IPv6 URL"
        is_usable = False
    options = dict(parse_qsl(parts.fragment)) if is_usable else {}
    if is_usable and parts.scheme in ("http", "https"):
        rate = _rate(options.get("max_per_second"))
        return RudderStack(parts._replace(fragment="").geturl(), max_per_second=rate)
    if is_usable and parts.scheme in ("webhook+http", "webhook+https"):
        target = parts._replace(scheme=parts.scheme.removeprefix("webhook+"), fragment="").geturl()
        return Webhook(target, options.get("secret"), max_per_second=_rate(options.get("max_per_second")))
    if is_usable and parts.scheme == "kafka" and len(parts.path) > 1 and "/" not in parts.path[1:]:
        return _kafka(parts)
    raise ConfigurationError(
        "forward_to",
        "forward_to must be the URL of a data plane, like https://hosted.rudderlabs.com, "
        f"or kafka://host:9092/topic, or webhook+https://host/path, got {_without_secrets(url)!r}",
    )


def _kafka(parts: SplitResult) -> Kafka:
    if "@" in parts.netloc:
        raise ConfigurationError(
            "forward_to",
            "forward_to: a Kafka URL takes user and password as options, not before an @: "
            "kafka://host:9093/topic?security.protocol=SASL_SSL&sasl.mechanism=PLAIN&sasl.username=...&sasl.password=...",
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    dead_letters = options.pop("dead.letters", None)
    rate = _rate(options.pop("max.per.second", None))
    try:
        config = options | {"bootstrap.servers": parts.netloc}
        return Kafka(unquote(parts.path[1:]), config, dead_letters=dead_letters, max_per_second=rate)
    except ConfigurationError as error:
        raise ConfigurationError("forward_to", f"forward_to, behind the ? of its URL: {error}") from error


def _rate(text: str | None) -> float | None:
    try:
        rate = None if text is None else float(text)
    except ValueError:
        rate = 0.0
    if rate is not None and not 0 < rate < float("inf"):
        raise ConfigurationError.must_be("forward_to", "a URL with a max_per_second that is a number above 0", text)
    return rate


def _without_secrets(url: str) -> str:
    """A URL up to its user, query and fragment."""
    bare = url.partition("?")[0].partition("#")[0]
    before, slashes, host = bare.partition("//")
    return before + slashes + host.rpartition("@")[2]
