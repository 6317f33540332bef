"""Where events go, said in a string: for the command line and for ini files."""

import os
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from pixel_middleware.errors import ConfigurationError
from pixel_middleware.sinks import JSONLines, Kafka, Outbox, RudderStack, SQLite
from pixel_middleware.sinks.courier import Sender


def sink_to(output: str | os.PathLike[str], forward_to: str | None = None) -> JSONLines | SQLite | Outbox:
    """A sink on the file `output`: JSON Lines if its name ends in `.jsonl`, and else SQLite.

    With `forward_to` it is an `outbox_to` there. Raises `ConfigurationError`, or `StorageError` if the
    file cannot be used.
    """
    if forward_to is not None:
        return outbox_to(output, forward_to)
    return JSONLines(output) if _is_jsonl(output) else SQLite(output)


def outbox_to(output: str | os.PathLike[str], forward_to: str) -> Outbox:
    """An outbox on the SQLite file `output`, for what `sender_to(forward_to)` delivers to. Raises like `sink_to`."""
    if _is_jsonl(output):
        raise ConfigurationError("output", os.fspath(output), "an SQLite file, like events.db, to be forwarded")
    return Outbox(output, sender_to(forward_to))


def sender_to(url: str) -> Sender:
    """The sender for a URL: `https://host` is a RudderStack data plane, `kafka://host:9092,host/topic` a topic.

    A `?` behind the topic gives librdkafka's options: `?compression.type=zstd`. Raises `ConfigurationError`.
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.hostname:
        return RudderStack(url)
    topic = unquote(parts.path[1:])
    if parts.scheme == "kafka" and parts.netloc and topic and "/" not in topic:
        return Kafka(topic, dict(parse_qsl(parts.query)) | {"bootstrap.servers": parts.netloc})
    raise ConfigurationError(
        "forward_to", url, "the URL of a data plane, like https://hosted.rudderlabs.com, or kafka://host:9092/topic"
    )


def _is_jsonl(output: str | os.PathLike[str]) -> bool:
    return Path(output).suffix == ".jsonl"
