"""Who loaded a pixel: a person, a proxy for one, a machine, or nobody can tell (extra `[bots]`).

    from pixel_middleware.processors import verify_signature
    from pixel_middleware.processors.opens import drop_machines, judge_open

    processors = [verify_signature("s3cret"), judge_open(), drop_machines]

Three tables decide. `HEADERS` and `AGENTS` turn a request into *signs*; `RULES` turns signs into a verdict.
docs/how-to/opens.md says where the rows come from, how often they are wrong, and what nobody can know.
"""

import ipaddress
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal, NamedTuple

from webob import Request

from pixel_middleware import checks
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.events import Event, never_waits
from pixel_middleware.processors.agents import Find, has, judge_agent, signs_of
from pixel_middleware.wire.signatures import VERIFIED
from pixel_middleware.wire.urls import SENT_AT

By = Literal["person", "proxy", "machine", "unknown"]


class Rule(NamedTuple):
    """The verdict on a request that has all of `signs`, which stand in one text with commas between them."""

    by: By
    reason: str
    signs: str


class Header(NamedTuple):
    """The `sign` of a request whose environ has something at `key` in which `find` finds something."""

    sign: str
    key: str
    find: Find


RULES = (
    Rule("machine", "head", "head"),
    Rule("machine", "speculative", "speculative"),
    Rule("machine", "robot_from", "from"),
    Rule("machine", "privacy_prefetch", "privacy_prefetch"),
    Rule("machine", "gmail_prefetch", "gmail_prefetch"),
    Rule("machine", "listed_network", "listed_network, t < 600"),
    Rule("machine", "scanner", "scanner"),
    Rule("machine", "crawler", "crawler"),
    Rule("machine", "instant", "t < 2"),
    Rule("proxy", "image_proxy", "image_proxy"),
    Rule("unknown", "listed_network", "listed_network"),
    Rule("unknown", "doubtful_proxy", "doubtful_proxy, t < 60"),
    Rule("unknown", "doubtful_proxy", "doubtful_proxy, no t"),
    Rule("proxy", "doubtful_proxy", "doubtful_proxy"),
    Rule("unknown", "no_agent", "no_agent"),
    Rule("unknown", "doubtful_client", "doubtful_client"),
    Rule("unknown", "navigation", "navigation"),
    Rule("unknown", "too_soon", "t < window"),
    Rule("unknown", "shared_agent", "shared_agent, no t"),
    Rule("person", "client", "client"),
    Rule("unknown", "unrecognised", ""),
)
"""The first rule all of whose signs are there decides.

`t` is the time since the mail was sent, in seconds, `no t` that it is not known, and `window` is `judge_open`'s own.
"""


HEADERS = (
    Header("head", "REQUEST_METHOD", has("^head$")),
    Header("speculative", "HTTP_SEC_PURPOSE", has("prefetch|prerender|preview")),
    Header("speculative", "HTTP_PURPOSE", has("prefetch|prerender|preview")),
    Header("speculative", "HTTP_X_PURPOSE", has("prefetch|prerender|preview")),
    Header("speculative", "HTTP_X_MOZ", has("prefetch|prerender|preview")),
    Header("from", "HTTP_FROM", has(r"\S")),
    Header("navigation", "HTTP_SEC_FETCH_DEST", has("^(document|iframe)$")),
)
"""What a request says beside its agent. Referer and Via decide nothing: companies' proxies change them for people."""

MOST_AGENT_CHARACTERS = 1024
"""Longer agents are cut: no browser sends more, and what is remembered of 4,096 agents stays below 10 MB."""


class judge_open:
    """Set `context.open` to who loaded the pixel, and drop nothing.

    It is `{"by": ..., "reason": ..., "provider": ..., "secondsSinceSent": ...}`: `by` is `"person"`, `"proxy"`
    (somebody looks at it through a mail provider), `"machine"` or `"unknown"`; `reason` is the word of the rule in
    `RULES`; `provider` and the whole seconds stand there where they are known. What a client says below
    `context.open` is overwritten.

    Args:
        window_s: how long after sending a browser may be a mail gateway's, in seconds. Its opens are `"unknown"`.
        networks: of mail gateways, as texts (`"192.0.2.0/24"`) or `ip_network`s; what comes from them within 10
            minutes is a machine's, and unknown later. Put this processor before `anonymize_ip`, then.

    The time of sending is that of `pixel_url(..., sent_at=)`, and is believed only if `verify_signature` came before.
    Raises `ConfigurationError`. Thread-safe.

    New in 0.1.
    """

    never_waits = True

    def __init__(self, window_s: float = 60, networks: Iterable[str | IPv4Network | IPv6Network] = ()) -> None:
        if not checks.is_number(window_s, 0):
            raise ConfigurationError.must_be("window_s", "a number of seconds, 0 or more", window_s)
        self._ends = (("t < 2", 2), ("t < 60", 60), ("t < 600", 600), ("t < window", window_s))
        if isinstance(networks, str) or not isinstance(networks, Iterable):
            raise ConfigurationError.must_be("networks", 'a list of networks, like ["192.0.2.0/24"]', networks)
        # By version and length, so that thousands cost no more than their few lengths.
        self._networks: dict[tuple[int, int], set[int]] = {}
        for given in networks:
            try:
                network = ipaddress.ip_network(given)
            except (ValueError, TypeError) as error:
                raise ConfigurationError.must_be("networks", f"networks like 192.0.2.0/24 ({error})", given) from error
            start = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
            self._networks.setdefault((network.version, network.prefixlen), set()).add(start)
        self._rules = [(rule, signs_of(rule.signs)) for rule in RULES]

    def __call__(self, event: Event, request: Request) -> Event:
        environ = request.environ
        of_agent, provider = judge_agent(environ.get("HTTP_USER_AGENT", "")[:MOST_AGENT_CHARACTERS])
        signs = set(of_agent)
        signs.update(sign for sign, key, find in HEADERS if key in environ and find(environ[key].lower()))
        if self._networks:
            with suppress(ValueError):  # no address
                address = ipaddress.ip_address(event["request_ip"])
                address = getattr(address, "ipv4_mapped", None) or address
                if any(
                    version == address.version and int(address) >> (address.max_prefixlen - length) in networks
                    for (version, length), networks in self._networks.items()
                ):
                    signs.add("listed_network")
        seconds = None
        if environ.get(VERIFIED):
            with suppress(KeyError, ValueError, TypeError):  # not there, no moment, or one without a time zone
                sent = datetime.fromisoformat(event["properties"][SENT_AT])
                seconds = (datetime.fromisoformat(event["receivedAt"]) - sent).total_seconds()
            if seconds is not None and seconds < 0:  # a mail that, by the clocks, is yet to be sent
                seconds = None
        signs.update(["no t"] if seconds is None else [sign for sign, end in self._ends if seconds < end])

        rule = next(rule for rule, needed in self._rules if needed <= signs)
        verdict: dict[str, Any] = {"by": rule.by, "reason": rule.reason}
        if provider:
            verdict["provider"] = provider
        if seconds is not None:
            verdict["secondsSinceSent"] = int(seconds)
        event["context"]["open"] = verdict
        return event


@never_waits
def drop_machines(event: Event, request: Request) -> Event | None:
    """Drop what `judge_open`, which must come before, calls a machine's. The others are kept, and so are unknown ones.

    Raises `ConfigurationError`, answered 503, if no `judge_open` came before.

    New in 0.1.
    """
    verdict = event["context"].get("open")
    if not isinstance(verdict, dict) or "by" not in verdict:
        raise ConfigurationError("processors", "drop_machines needs judge_open before it in processors")
    return None if verdict["by"] == "machine" else event
