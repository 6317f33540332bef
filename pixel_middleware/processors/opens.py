"""Processors that tell machines from people (extra `[bots]`), by what machines say of themselves.

Crawlers come from the list at https://github.com/monperrus/crawler-user-agents. An image proxy is no bot:
somebody opened the mail, and only the address and the browser are the proxy's. Apple's and others' do not tell.
"""

from functools import lru_cache

from webob import Request

from pixel_middleware.events import Event
from pixel_middleware.runtime.extras import needed_by

with needed_by("flag_automation", "crawler-user-agents", extra="bots"):
    from crawleruseragents import is_crawler

IMAGE_PROXIES = {"GoogleImageProxy": "Gmail", "YahooMailProxy": "Yahoo"}
"""What stands in the user agent of mail providers' proxies, and whose they are."""

_PREFETCH_HEADERS = ("HTTP_SEC_PURPOSE", "HTTP_PURPOSE", "HTTP_X_PURPOSE", "HTTP_X_MOZ")
_PREFETCH_WORDS = ("prefetch", "prerender", "preview")


def flag_automation(event: Event, request: Request) -> Event:
    """Set `context.isBot`, and `context.prefetch` and `context.imageProxy` where there is one; drop nothing."""
    agents = {str(request.environ.get("HTTP_USER_AGENT", "")), str(event["context"].get("userAgent", ""))}
    proxies = [proxy for word, proxy in IMAGE_PROXIES.items() if any(word in agent for agent in agents)]
    event["context"]["isBot"] = not proxies and any(map(_is_crawler, agents))
    if proxies:
        event["context"]["imageProxy"] = proxies[0]
    if _is_prefetch(request):
        event["context"]["prefetch"] = True
    return event


def drop_automation(event: Event, request: Request) -> Event | None:
    """Drop the events of crawlers and of pages that nobody looks at yet; those of image proxies are somebody's."""
    context = flag_automation(event, request)["context"]
    return None if context["isBot"] or context.get("prefetch") else event


# The list is 1,500 patterns long, and a site sees the same browsers again and again.
@lru_cache(maxsize=4096)
def _is_crawler(agent: str) -> bool:
    return bool(agent) and bool(is_crawler(agent[:1024]))


def _is_prefetch(request: Request) -> bool:
    purposes = " ".join(str(request.environ.get(header, "")) for header in _PREFETCH_HEADERS).lower()
    return any(word in purposes for word in _PREFETCH_WORDS)
