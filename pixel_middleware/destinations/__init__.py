"""Where an event log sends to. Importing this needs no extra; a destination asks for its own when it is built."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pixel_middleware import texts
from pixel_middleware.destinations.base import Destination
from pixel_middleware.destinations.kafka import Kafka
from pixel_middleware.destinations.rudderstack import RudderStack
from pixel_middleware.destinations.webhook import Webhook
from pixel_middleware.errors import ConfigurationError

__all__ = ["Destination", "Kafka", "RudderStack", "Webhook", "from_url", "named"]


def named(urls: Iterable[str], references: texts.References | None = None) -> dict[str, Destination]:
    """The destinations that texts like `NAME=URL` say, by name; without a NAME it is the host.

    Raises `ConfigurationError`, also if two have one name, and as `from_url`.

    New in 0.1.
    """
    destinations: dict[str, Destination] = {}
    for text in urls:
        name, equals, url = text.partition("=")
        if not equals or "/" in name:
            destination = from_url(text, references)  # which knows a URL
            name = (urlsplit(text).hostname or "").partition(",")[0]
        else:
            destination = from_url(url, references)
        if not 0 < len(name) <= 100 or not name.isprintable():
            right = "NAME=URL with a NAME of 1 to 100 printable characters"
            raise ConfigurationError.must_be("forward_to", right, _without_secrets(text))
        if name in destinations:
            sentence = f"two destinations are called {name}: give each a NAME=URL of its own"
            raise ConfigurationError("forward_to", sentence)
        destinations[name] = destination
    return destinations


def from_table(name: str, given: Any, references: texts.References) -> Destination:
    """The destination `name` of a configuration file: a URL, or a table of `url` and options.

    The options are those of the destination's class, as librdkafka calls them for Kafka. In place of a URL,
    `package.module:name` is a destination of one's own, or what makes it of the options. Raises `ConfigurationError`.
    """
    option = f"destinations.{name}"
    if isinstance(given, str):
        given = {"url": given}
    if not isinstance(given, Mapping) or not isinstance(given.get("url"), str):
        raise ConfigurationError(option, f"{option} must be a URL, or a table with a url and options")
    options = dict(references.fill(option, {key: value for key, value in given.items() if key != "url"}))
    url: str = given["url"]
    try:
        if "://" not in url:
            url = references.fill(option, url)
        if "://" not in url and ":" in url:
            made = texts.named(option, url)
            made = made if isinstance(made, Destination) and not options else made(**options)
            if not isinstance(made, Destination):
                raise ConfigurationError.must_be(option, "a Destination, or what makes one", type(made).__name__)
            return made
        return _from_url(url, references, options)
    except ConfigurationError as error:
        raise ConfigurationError(option, f"{option}: {error}") from error
    except TypeError as error:
        raise ConfigurationError(
            option, f"{option}: its options are not those of {url.partition('?')[0]}: {error}"
        ) from error


def from_url(url: str, references: texts.References | None = None) -> Destination:
    """The destination that a URL says.

    - `https://host`: a RudderStack data plane. `#max_per_second=100` behind it bounds the events a second.
    - `kafka://host:9092,host:9092/topic`: a topic. A `?` behind it gives librdkafka's options, `compression.type=zstd`,
      say, `dead.letters=TOPIC`, and `max.per.second=100`.
    - `webhook+https://host/path?query`: a webhook. `#secret=TEXT` behind it signs, and is not sent;
      `#max_per_second=100` as above.

    `references` fills in `{env:NAME}` and `{file:PATH}` behind the `?` and the `#`.

    Raises `ConfigurationError`, which repeats nothing that may be secret.

    New in 0.1.
    """
    return _from_url(url, references or texts.References(), {})


def _from_url(url: str, references: texts.References, more: dict[str, Any]) -> Destination:
    try:
        parts = urlsplit(url)
        is_usable = bool(parts.hostname)
    except ValueError:  # "Invalid IPv6 URL"
        is_usable = False
    options = references.fill("forward_to", dict(parse_qsl(parts.fragment))) if is_usable else {}
    if is_usable and parts.scheme in ("http", "https"):
        given = {"max_per_second": _rate(options.get("max_per_second"))} | more
        return RudderStack(references.fill("forward_to", parts._replace(fragment="").geturl()), **given)
    if is_usable and parts.scheme in ("webhook+http", "webhook+https"):
        target = parts._replace(scheme=parts.scheme.removeprefix("webhook+"), fragment="").geturl()
        given = {"secret": options.get("secret"), "max_per_second": _rate(options.get("max_per_second"))} | more
        return Webhook(references.fill("forward_to", target), **given)
    if is_usable and parts.scheme == "kafka" and len(parts.path) > 1 and "/" not in parts.path[1:]:
        return _kafka(parts, references.fill("forward_to", dict(parse_qsl(parts.query, keep_blank_values=True))) | more)
    raise ConfigurationError(
        "forward_to",
        "forward_to must be the URL of a data plane, like https://hosted.rudderlabs.com, "
        f"or kafka://host:9092/topic, or webhook+https://host/path, got {_without_secrets(url)!r}",
    )


def _kafka(parts: SplitResult, options: dict[str, Any]) -> Kafka:
    if "@" in parts.netloc:
        raise ConfigurationError(
            "forward_to",
            "forward_to: a Kafka URL takes user and password as options, not before an @: "
            "kafka://host:9093/topic?security.protocol=SASL_SSL&sasl.mechanism=PLAIN&sasl.username=...&sasl.password=...",
        )
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
