"""The amp-analytics configuration for an endpoint: what `<prefix>/amp.json` answers.

    <amp-analytics config="https://example.com/pixel/v1/amp.json">
      <script type="application/json">{"vars": {"writeKey": "YOUR WRITE KEY", "pageName": "Home"}}</script>
    </amp-analytics>

It sends what RudderStack's AMP SDK sends, and a `messageId`. AMP says `${name}` for its variables:
https://amp.dev/documentation/components/amp-analytics
"""

import json
from typing import Any
from urllib.parse import quote

_BASE = {
    "writeKey": "${writeKey}",
    # PAGE_VIEW_ID alone is one of 10,000. The counter makes two clicks two URLs, which browsers would load
    # once otherwise, and a repeated request recognisable.
    "messageId": "${pageViewId64}-${requestCount}",
    "anonymousId": "${anonymousId}",
    "context.library.name": "Rudderstack%20AMP%20SDK",
    "context.library.version": "1.0.0",
    "context.platform": "AMP",
    "context.locale": "${browserLanguage}",
    "context.userAgent": "${userAgent}",
    "context.page.path": "${canonicalPath}",
    "context.page.url": "${canonicalUrl}",
    "context.page.referrer": "${documentReferrer}",
    "context.page.title": "${title}",
    "context.screen.width": "${screenWidth}",
    "context.screen.height": "${screenHeight}",
}

_PAGE = {
    "properties.path": "${canonicalPath}",
    "properties.url": "${canonicalUrl}",
    "properties.referrer": "${documentReferrer}",
    "properties.title": "${title}",
    "name": "${pageName}",
}

_TRACK = {"event": "${eventName}"}


def configuration(origin: str, path: str) -> bytes:
    """The configuration, as JSON, for the endpoint at `path` (its prefix, as text) of `origin`."""
    path = quote(path)
    config: dict[str, Any] = {
        "requestOrigin": origin,
        "requests": {"page": _request(f"{path}/page.gif", _PAGE), "track": _request(f"{path}/track.gif", _TRACK)},
        # No other variable is set here: a remote configuration overrules the page's own.
        "vars": {"anonymousId": "CLIENT_ID(rl_anonymous_id)"},
        "triggers": {"pageView": {"on": "visible", "request": "page"}},
        "transport": {"beacon": False, "xhrpost": False, "image": True},
        # A visitor who comes from an AMP cache keeps the anonymous id on the publisher's own pages.
        "linkers": {"rudderstack": {"ids": {"rs_amp_id": "${anonymousId}"}, "proxyOnly": False}},
        "cookies": {"rl_anonymous_id": {"value": "LINKER_PARAM(rudderstack, rs_amp_id)"}},
    }
    return json.dumps(config, indent=2).encode()


def _request(path: str, parameters: dict[str, str]) -> dict[str, str]:
    query = "&".join(f"{name}={value}" for name, value in (_BASE | parameters).items())
    return {"baseUrl": f"{path}?{query}"}
