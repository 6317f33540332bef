"""Which software is behind a user agent, in words: see `opens` (extra `[bots]`)."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from pixel_middleware.runtime.extras import needed_by

with needed_by("judge_open", "crawler-user-agents", extra="bots"):
    from crawleruseragents import is_crawler

Find = Callable[[str], object]


class Agent(NamedTuple):
    """The `signs` of a user agent in which `find` finds something, and whose software that is, where it matters."""

    signs: str
    provider: str
    find: Find


def has(pattern: str) -> Find:
    """Finds a pattern in text that is in small letters."""
    return re.compile(pattern).search


DESKTOPS = r"windows nt [\d.]+(; win64; x64|; wow64)?|macintosh; intel mac os x [\d._]+|x11; (ubuntu; )?linux x86_64"
PHONES = r"iphone; cpu iphone os [\d_]+ like mac os x|ipad; cpu os [\d_]+ like mac os x"
ENGINE = r"applewebkit/[\d.]+ \(khtml, like gecko\)"
CHROMIUM = r"chrome/[\d.]+( mobile)? safari/[\d.]+( edg/[\d.]+)?"
SAFARI = r"(version/[\d.]+( mobile/\w+)? safari/[\d.]+|mobile/\w+)"
SYSTEMS = "windows|macintosh|x11|linux|android|iphone|ipad|ipod|blackberry|bb10|symbian|series|bada|web0s|msie"


AGENTS = (
    Agent("no_agent", "", has("^$")),
    # Prefetches: the mail has arrived, and nobody has opened it yet.
    Agent("privacy_prefetch", "apple", has(r"^mozilla/5\.0$")),
    Agent("gmail_prefetch", "gmail", has(r"edge/12\.246 (mozilla/5\.0|gmail-content-sampling)$")),
    # Proxies that fetch a picture when somebody looks at it.
    Agent("image_proxy", "gmail", has(r"googleimageproxy|via ggpht\.com")),
    Agent("image_proxy", "yahoo", has("yahoomailproxy")),
    Agent("image_proxy", "fastmail", has("fastmailua")),
    Agent("image_proxy", "hey", has(r"hey\.com/imageproxy")),
    Agent("image_proxy", "seznam", has("seznamemailproxy")),
    Agent("image_proxy", "rambler", has("^ramblermail/")),
    Agent("image_proxy", "ukr.net", has(r"mail\.ukr\.net proxy")),
    Agent("image_proxy", "wp.pl", has("wpimageproxy")),
    Agent("image_proxy", "shortwave", has("shortwave image fetcher")),
    Agent("image_proxy", "github", has("github-camo")),
    Agent("image_proxy", "slack", has("slack-imgproxy")),
    Agent("image_proxy", "startpage", has("startpageprivateimageproxy")),
    Agent("image_proxy", "tweakers", has("tweakers image proxy")),
    # Discord's calls itself a Firefox: one of 2015, or one that cannot be, since Firefox calls every Mac 10.15.
    Agent("image_proxy", "discord", has(r"intel mac os x 10\.10; rv:38\.0\) gecko/20100101 firefox/38\.0$")),
    Agent("image_proxy", "discord", has(r"intel mac os x 11\.6; rv:92\.0\) gecko/20100101 firefox/92\.0$")),
    Agent("image_proxy", "", has(r"(image|img|mail)[ _-]?proxy|camo[ -]asset[ -]proxy|imagefetcher/")),
    Agent("doubtful_proxy", "yandex", has("yandeximageresizer")),
    # Mail clients that give their name.
    Agent("client", "outlook", has("(microsoft|office) outlook|ms-office|msoffice|macoutlook|microsoft entourage")),
    Agent("client", "outlook", has("outlook-(ios|android|express)|^outlook/.* cfnetwork/|^windowsmail/")),
    Agent("client", "thunderbird", has("thunderbird/|icedove/|betterbird/")),
    Agent("client", "yahoo", has(r"^yahoo(%20|!%20| )?mail/|yahoomobilemail/|\.ymail/")),
    Agent("client", "gmail", has("^android-gmail/")),
    Agent("client", "apple", has("^(mobile)?mail/.* cfnetwork/")),
    Agent("client", "", has("^(airmail|the bat!) |^(navermailapp|mailbar|barca|barcapro|emclient)/|^superhuman")),
    Agent("client", "", has("lotus-notes|em client/|postbox[ /]|mailbird/|mailspring/|bluemail/|foxmail/|mailmaster")),
    Agent("client", "", has("(spicebird|seamonkey|iceape)/")),
    # Those who scan mail, where they give their name.
    Agent("scanner", "barracuda", has("barracuda")),
    Agent("scanner", "proofpoint", has("proofpoint")),
    Agent("scanner", "mimecast", has("mimecast")),
    Agent("scanner", "cisco", has("ciscosecureemail|cisco secure email|ironport")),
    Agent("scanner", "symantec", has("symantec|messagelabs")),
    Agent("scanner", "forcepoint", has("forcepoint")),
    Agent("scanner", "sophos", has("sophos")),
    Agent("scanner", "trendmicro", has("tmes|trend ?micro")),
    Agent("scanner", "zscaler", has("zscaler")),
    Agent("scanner", "fortinet", has("fortiguard|fortimail|fortinet")),
    Agent("scanner", "trellix", has("fireeye|trellix")),
    Agent("scanner", "microsoft", has("microsoft office (existence|protocol) discovery|office 365 connectors")),
    Agent("scanner", "microsoft", has("safelinks")),
    Agent("scanner", "", has("hornetsecurity|spamtitan|mailscanner|cloudmark|avanan|vadesecure|scmguard|twinwave")),
    # Previews, and browsers that nobody looks at.
    Agent("crawler", "", has("^whatsapp/|^facebookexternal|linkexpanding|url preview|urlscan")),
    Agent("crawler", "", has("headless|phantomjs|slimerjs|puppeteer|playwright|selenium| cypress/")),
    # Tools and libraries, whose name stands first.
    Agent("crawler", "", has(r"http-?client|httplib|lua-resty-http|^(java|php|python|guzzle)[/\d-]")),
    Agent("crawler", "", has("^(ahc|aiohttp|axios|curl|jetty|libwww-perl|node-fetch|reqwest|ruby|undici|wget)/")),
    Agent("crawler", "", has("^(cortex|guzzlehttp|httpie|postmanruntime|restsharp|yarn)/|^hubspot connect")),
    # People and robots have both been seen with these.
    Agent("doubtful_client", "", has("^dalvik/|okhttp/|dataaccessd/|^microsoft exchange/")),
    Agent("doubtful_client", "", has("^amazon cloudfront$")),  # what that CDN says for everybody unless told otherwise
    # Whole lines that millions of people's browsers send: no list, also no later one, may take them for a robot's.
    Agent("client", "", has(rf"^mozilla/5\.0 \(({DESKTOPS}|linux; android)\) {ENGINE} {CHROMIUM}$")),
    Agent("client", "", has(rf"^mozilla/5\.0 \(({DESKTOPS}); rv:[\d.]+\) gecko/\d+ firefox/[\d.]+$")),
    Agent("client", "", has(rf"^mozilla/5\.0 \(({DESKTOPS}|{PHONES})\) {ENGINE} {SAFARI}$")),
    # Apps made of Electron: the crawler list knows some by names that they share with robots.
    Agent("client", "", has("^mozilla/.* electron/")),
    # Robots by their manners: an address for complaints, or a word that says what they are.
    Agent("crawler", "", has(r"(^|\+|[;(] ?)https?://|khtml, like gecko; ")),
    Agent("crawler", "", has(r"compatible;[^)]*bot\b|^[\w.-]*bot\b|bot/\d|spider|crawler|scraper")),
    # The 1,500 patterns of https://github.com/monperrus/crawler-user-agents.
    Agent("crawler", "", lambda agent: is_crawler(agent, case_sensitive=False)),
    # What Mail on a Mac and the new Outlook send: the engine, and no more.
    Agent("client, shared_agent", "", has(rf"({SYSTEMS}).*{ENGINE}$")),
    # Any other browser; compatible things that do not say with what are seldom one.
    Agent("", "", has(r"^[^(]*\(compatible; (?!msie|konqueror)")),
    Agent("client", "", has(rf"^mozilla.?\d.*?({SYSTEMS})")),
    Agent("", "", has("")),
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


# Most of an agent's row costs a look into the crawler list, and a site sees the same browsers again and again.
@lru_cache(maxsize=4096)
def judge_agent(agent: str) -> tuple[frozenset[str], str]:
    """The signs of a user agent, by `AGENTS`, and its provider, `""` where there is none."""
    agent = agent.strip().lower()
    for pattern, instead in NO_ROBOTS:
        agent = pattern.sub(instead, agent)
    row = next(row for row in AGENTS if row.find(agent))
    return signs_of(row.signs), row.provider


def signs_of(text: str) -> frozenset[str]:
    """Signs that stand in one text with commas between them."""
    return frozenset(text.split(", ") if text else ())
