"""Where an event log sends to. Importing this needs no extra; a destination asks for its own when it is built."""

from collections.abc import Iterable
from urllib.parse import parse_qsl, unquote, urlsplit

from pixel_middleware.destinations.base import Destination
from pixel_middleware.destinations.kafka import Kafka
from pixel_middleware.destinations.rudderstack import RudderStack
from pixel_middleware.errors import ConfigurationError

__all__ = ["Destination", "Kafka", "RudderStack", "from_url", "named"]


def named(texts: Iterable[str]) -> dict[str, Destination]:
    """The destinations that texts like `NAME=URL` say, by name; without a NAME it is the host.

    Raises `ConfigurationError`, also if two have one name, and as `from_url`.
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
            raise ConfigurationError.must_be("forward_to", right, text)
        if name in destinations:
            sentence = f"two destinations are called {name}: give each a NAME=URL of its own"
            raise ConfigurationError("forward_to", sentence)
        destinations[name] = destination
    return destinations


def from_url(url: str) -> Destination:
    """The destination for a URL: `https://host` is a RudderStack data plane, `kafka://host:9092,host/topic` a topic.

    A `?` behind the topic gives librdkafka's options: `?compression.type=zstd`. Raises `ConfigurationError`.
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.hostname:
        return RudderStack(url)
    topic = unquote(parts.path[1:])
    if parts.scheme == "kafka" and parts.netloc and topic and "/" not in topic:
        return Kafka(topic, dict(parse_qsl(parts.query)) | {"bootstrap.servers": parts.netloc})
    raise ConfigurationError.must_be(
        "forward_to", "the URL of a data plane, like https://hosted.rudderlabs.com, or kafka://host:9092/topic", url
    )
