"""Who loaded a pixel: a person, a proxy for one, a machine, or nobody can tell (extra `[bots]`).

    from pixel_middleware.processors import verify_signature
    from pixel_middleware.processors.opens import drop_machines, judge_open

    processors = [verify_signature("s3cret"), judge_open(), drop_machines]

Three tables decide. `HEADERS` and `AGENTS` turn a request into *signs*; `RULES` turns signs into a verdict.
docs/how-to/opens.md says where the rows come from, how often they are wrong, and what nobody can know.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal, NamedTuple

from webob import Request

from pixel_middleware import settings
from pixel_middleware.errors import ConfigurationError
from pixel_middleware.events import Event
from pixel_middleware.runtime.extras import needed_by
from pixel_middleware.wire.signatures import VERIFIED
from pixel_middleware.wire.urls import SENT_AT

with needed_by("judge_open", "crawler-user-agents", extra="bots"):
    from crawleruseragents import is_crawler

By = Literal["person", "proxy", "machine", "unknown"]
Find = Callable[[str], object]


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


class Agent(NamedTuple):
    """The `signs` of a user agent in which `find` finds something, and whose software that is, where it matters."""

    signs: str
    provider: str
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


def _has(pattern: str) -> Find:
    return re.compile(pattern).search  # in text that is in small letters


HEADERS = (
    Header("head", "REQUEST_METHOD", _has("^head$")),
    Header("speculative", "HTTP_SEC_PURPOSE", _has("prefetch|prerender|preview")),
    Header("speculative", "HTTP_PURPOSE", _has("prefetch|prerender|preview")),
    Header("speculative", "HTTP_X_PURPOSE", _has("prefetch|prerender|preview")),
    Header("speculative", "HTTP_X_MOZ", _has("prefetch|prerender|preview")),
    Header("from", "HTTP_FROM", _has(r"\S")),
    Header("navigation", "HTTP_SEC_FETCH_DEST", _has("^(document|iframe)$")),
)
"""What a request says beside its agent. Referer and Via decide nothing: companies' proxies change them for people."""

DESKTOPS = r"windows nt [\d.]+(; win64; x64|; wow64)?|macintosh; intel mac os x [\d._]+|x11; (ubuntu; )?linux x86_64"
PHONES = r"iphone; cpu iphone os [\d_]+ like mac os x|ipad; cpu os [\d_]+ like mac os x"
ENGINE = r"applewebkit/[\d.]+ \(khtml, like gecko\)"
CHROMIUM = r"chrome/[\d.]+( mobile)? safari/[\d.]+( edg/[\d.]+)?"
SAFARI = r"(version/[\d.]+( mobile/\w+)? safari/[\d.]+|mobile/\w+)"
SYSTEMS = "windows|macintosh|x11|linux|android|iphone|ipad|ipod|blackberry|bb10|symbian|series|bada|web0s|msie"


AGENTS = (
    Agent("no_agent", "", _has("^$")),
    # Prefetches: the mail has arrived, and nobody has opened it yet.
    Agent("privacy_prefetch", "apple", _has(r"^mozilla/5\.0$")),
    Agent("gmail_prefetch", "gmail", _has(r"edge/12\.246 (mozilla/5\.0|gmail-content-sampling)$")),
    # Proxies that fetch a picture when somebody looks at it.
    Agent("image_proxy", "gmail", _has(r"googleimageproxy|via ggpht\.com")),
    Agent("image_proxy", "yahoo", _has("yahoomailproxy")),
    Agent("image_proxy", "fastmail", _has("fastmailua")),
    Agent("image_proxy", "hey", _has(r"hey\.com/imageproxy")),
    Agent("image_proxy", "seznam", _has("seznamemailproxy")),
    Agent("image_proxy", "rambler", _has("^ramblermail/")),
    Agent("image_proxy", "ukr.net", _has(r"mail\.ukr\.net proxy")),
    Agent("image_proxy", "wp.pl", _has("wpimageproxy")),
    Agent("image_proxy", "shortwave", _has("shortwave image fetcher")),
    Agent("image_proxy", "github", _has("github-camo")),
    Agent("image_proxy", "slack", _has("slack-imgproxy")),
    Agent("image_proxy", "startpage", _has("startpageprivateimageproxy")),
    Agent("image_proxy", "tweakers", _has("tweakers image proxy")),
    # Discord's calls itself a Firefox: one of 2015, or one that cannot be, since Firefox calls every Mac 10.15.
    Agent("image_proxy", "discord", _has(r"intel mac os x 10\.10; rv:38\.0\) gecko/20100101 firefox/38\.0$")),
    Agent("image_proxy", "discord", _has(r"intel mac os x 11\.6; rv:92\.0\) gecko/20100101 firefox/92\.0$")),
    Agent("image_proxy", "", _has(r"(image|img|mail)[ _-]?proxy|camo[ -]asset[ -]proxy|imagefetcher/")),
    Agent("doubtful_proxy", "yandex", _has("yandeximageresizer")),
    # Mail clients that give their name.
    Agent("client", "outlook", _has("(microsoft|office) outlook|ms-office|msoffice|macoutlook|microsoft entourage")),
    Agent("client", "outlook", _has("outlook-(ios|android|express)|^outlook/.* cfnetwork/|^windowsmail/")),
    Agent("client", "thunderbird", _has("thunderbird/|icedove/|betterbird/")),
    Agent("client", "yahoo", _has(r"^yahoo(%20|!%20| )?mail/|yahoomobilemail/|\.ymail/")),
    Agent("client", "gmail", _has("^android-gmail/")),
    Agent("client", "apple", _has("^(mobile)?mail/.* cfnetwork/")),
    Agent("client", "", _has("^(airmail|the bat!) |^(navermailapp|mailbar|barca|barcapro|emclient)/|^superhuman")),
    Agent("client", "", _has("lotus-notes|em client/|postbox[ /]|mailbird/|mailspring/|bluemail/|foxmail/|mailmaster")),
    Agent("client", "", _has("(spicebird|seamonkey|iceape)/")),
    # Those who scan mail, where they give their name.
    Agent("scanner", "barracuda", _has("barracuda")),
    Agent("scanner", "proofpoint", _has("proofpoint")),
    Agent("scanner", "mimecast", _has("mimecast")),
    Agent("scanner", "cisco", _has("ciscosecureemail|cisco secure email|ironport")),
    Agent("scanner", "symantec", _has("symantec|messagelabs")),
    Agent("scanner", "forcepoint", _has("forcepoint")),
    Agent("scanner", "sophos", _has("sophos")),
    Agent("scanner", "trendmicro", _has("tmes|trend ?micro")),
    Agent("scanner", "zscaler", _has("zscaler")),
    Agent("scanner", "fortinet", _has("fortiguard|fortimail|fortinet")),
    Agent("scanner", "trellix", _has("fireeye|trellix")),
    Agent("scanner", "microsoft", _has("microsoft office (existence|protocol) discovery|office 365 connectors")),
    Agent("scanner", "microsoft", _has("safelinks")),
    Agent("scanner", "", _has("hornetsecurity|spamtitan|mailscanner|cloudmark|avanan|vadesecure|scmguard|twinwave")),
    # Previews, and browsers that nobody looks at.
    Agent("crawler", "", _has("^whatsapp/|^facebookexternal|linkexpanding|url preview|urlscan")),
    Agent("crawler", "", _has("headless|phantomjs|slimerjs|puppeteer|playwright|selenium| cypress/")),
    # Tools and libraries, whose name stands first.
    Agent("crawler", "", _has(r"http-?client|httplib|lua-resty-http|^(java|php|python|guzzle)[/\d-]")),
    Agent("crawler", "", _has("^(ahc|aiohttp|axios|curl|jetty|libwww-perl|node-fetch|reqwest|ruby|undici|wget)/")),
    Agent("crawler", "", _has("^(cortex|guzzlehttp|httpie|postmanruntime|restsharp|yarn)/|^hubspot connect")),
    # People and robots have both been seen with these.
    Agent("doubtful_client", "", _has("^dalvik/|okhttp/|dataaccessd/|^microsoft exchange/")),
    Agent("doubtful_client", "", _has("^amazon cloudfront$")),  # what that CDN says for everybody unless told otherwise
    # Whole lines that millions of people's browsers send: no list, also no later one, may take them for a robot's.
    Agent("client", "", _has(rf"^mozilla/5\.0 \(({DESKTOPS}|linux; android)\) {ENGINE} {CHROMIUM}$")),
    Agent("client", "", _has(rf"^mozilla/5\.0 \(({DESKTOPS}); rv:[\d.]+\) gecko/\d+ firefox/[\d.]+$")),
    Agent("client", "", _has(rf"^mozilla/5\.0 \(({DESKTOPS}|{PHONES})\) {ENGINE} {SAFARI}$")),
    # Apps made of Electron: the crawler list knows some by names that they share with robots.
    Agent("client", "", _has("^mozilla/.* electron/")),
    # Robots by their manners: an address for complaints, or a word that says what they are.
    Agent("crawler", "", _has(r"(^|\+|[;(] ?)https?://|khtml, like gecko; ")),
    Agent("crawler", "", _has(r"compatible;[^)]*bot\b|^[\w.-]*bot\b|bot/\d|spider|crawler|scraper")),
    # The 1,500 patterns of https://github.com/monperrus/crawler-user-agents.
    Agent("crawler", "", lambda agent: is_crawler(agent, case_sensitive=False)),
    # What Mail on a Mac and the new Outlook send: the engine, and no more.
    Agent("client, shared_agent", "", _has(rf"({SYSTEMS}).*{ENGINE}$")),
    # Any other browser; compatible things that do not say with what are seldom one.
    Agent("", "", _has(r"^[^(]*\(compatible; (?!msie|konqueror)")),
    Agent("client", "", _has(rf"^mozilla.?\d.*?({SYSTEMS})")),
    Agent("", "", _has("")),
)
"""The first row that finds something decides. It is shown the agent in small letters, without `NO_ROBOTS`."""

NO_ROBOTS = (
    # A phone and its build. One Android 15 build of Oppo and OnePlus, AP3A.240617.008, stands in the crawler list.
    (re.compile(r"\(linux;[^()]*?android(?:[^()]++|\([^()]*+\))*+\)"), "(linux; android)"),
    # Devices, browsers and apps of people in whose names a robot's fits: bot, Sonic, Sogou, NING/.
    (re.compile("cubot|panasonic|viewsonic|butterfly|sogou(mse|mobilebrowser|search)|lightning/"), ""),
    (re.compile("coc_?coc(browser)?| viber$| (viber|blackboard|freespoke|fluid)/|metaiab facebook"), ""),
)
"""What is taken out of an agent before any row sees it, as patterns and what comes in their place."""

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
    """

    def __init__(self, window_s: float = 60, networks: Iterable[str | IPv4Network | IPv6Network] = ()) -> None:
        if not settings.is_number(window_s, 0):
            raise ConfigurationError.must_be("window_s", "a number of seconds, 0 or more", window_s)
        self._ends = (("t < 2", 2), ("t < 60", 60), ("t < 600", 600), ("t < window", window_s))
        self._networks = _by_length(networks)
        self._rules = [(rule, _signs(rule.signs)) for rule in RULES]

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
        seconds = _seconds_since_sent(event) if environ.get(VERIFIED) else None
        signs.update(["no t"] if seconds is None else [sign for sign, end in self._ends if seconds < end])

        rule = next(rule for rule, needed in self._rules if needed <= signs)
        verdict: dict[str, Any] = {"by": rule.by, "reason": rule.reason}
        if provider:
            verdict["provider"] = provider
        if seconds is not None:
            verdict["secondsSinceSent"] = int(seconds)
        event["context"]["open"] = verdict
        return event


def drop_machines(event: Event, request: Request) -> Event | None:
    """Drop what `judge_open`, which must come before, calls a machine's. The others are kept, and so are unknown ones.

    Raises `ConfigurationError`, answered 503, if no `judge_open` came before.
    """
    verdict = event["context"].get("open")
    if not isinstance(verdict, dict) or "by" not in verdict:
        raise ConfigurationError("processors", "drop_machines needs judge_open before it in processors")
    return None if verdict["by"] == "machine" else event


# Most of an agent's row costs a look into the crawler list, and a site sees the same browsers again and again.
@lru_cache(maxsize=4096)
def judge_agent(agent: str) -> tuple[frozenset[str], str]:
    """The signs of a user agent, by `AGENTS`, and its provider, `""` where there is none."""
    agent = agent.strip().lower()
    for pattern, instead in NO_ROBOTS:
        agent = pattern.sub(instead, agent)
    row = next(row for row in AGENTS if row.find(agent))
    return _signs(row.signs), row.provider


def _signs(text: str) -> frozenset[str]:
    return frozenset(text.split(", ") if text else ())


def _seconds_since_sent(event: Event) -> float | None:
    """Also `None` for a mail that, by the clocks, is yet to be sent."""
    try:
        sent = datetime.fromisoformat(event["properties"][SENT_AT])
        seconds = (datetime.fromisoformat(event["receivedAt"]) - sent).total_seconds()
    except (KeyError, ValueError, TypeError):  # not there, no moment, or one without a time zone
        return None
    return seconds if seconds >= 0 else None


def _by_length(networks: Iterable[str | IPv4Network | IPv6Network]) -> dict[tuple[int, int], set[int]]:
    """Networks by version and length, so that thousands cost no more than their few lengths."""
    if isinstance(networks, str) or not isinstance(networks, Iterable):
        raise ConfigurationError.must_be("networks", 'a list of networks, like ["192.0.2.0/24"]', networks)
    found: dict[tuple[int, int], set[int]] = {}
    for given in networks:
        try:
            network = ipaddress.ip_network(given)
        except (ValueError, TypeError) as error:
            raise ConfigurationError.must_be("networks", f"networks like 192.0.2.0/24 ({error})", given) from error
        start = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
        found.setdefault((network.version, network.prefixlen), set()).add(start)
    return found
