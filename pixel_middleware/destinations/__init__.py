"""Where an event log sends to. Importing this needs no extra; a destination asks for its own when it is built."""

from urllib.parse import parse_qsl, unquote, urlsplit

from pixel_middleware.destinations.base import Destination
from pixel_middleware.destinations.kafka import Kafka
from pixel_middleware.destinations.rudderstack import RudderStack
from pixel_middleware.errors import ConfigurationError

__all__ = ["Destination", "Kafka", "RudderStack", "from_url", "named"]


def named(text: str) -> tuple[str, Destination]:
    """The name and the destination that `NAME=URL` says; without a NAME it is the host. Raises as `from_url`."""
    name, equals, url = text.partition("=")
    if not equals or "/" in name:
        url = text
        name = urlsplit(url).netloc.rpartition("@")[2].partition(",")[0].rpartition(":")[0] or urlsplit(url).netloc
    return name, from_url(url)


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
