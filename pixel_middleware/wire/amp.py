"""The amp-analytics configuration for an endpoint: what `<prefix>/amp.json` answers.

    <amp-analytics config="https://example.com/pixel/v1/amp.json">
      <script type="application/json">{"vars": {"writeKey": "YOUR WRITE KEY", "pageName": "Home"}}</script>
    </amp-analytics>

Its events are those of RudderStack's AMP SDK, with a `messageId` that no two of them share. What AMP puts in for names:
https://github.com/ampproject/amphtml/blob/main/docs/spec/amp-var-substitutions.md
"""

import json
from typing import Any
from urllib.parse import quote

from pixel_middleware.wire.mapping import PATH_OF_URL

# Names in capitals are AMP's macros; `${...}` are variables that the page sets, and AMP's own request counter. AMP
# expands a macro once, and encodes what it stands for. It expands a variable twice: a page called `RANDOM` would get a
# number for its title, and `News(#1)` would go out with its parentheses as they are, and cut the URL at `#`.
_IDS = {
    "writeKey": "${writeKey}",
    # PAGE_VIEW_ID alone is one of 10,000. The counter makes two clicks two URLs, which browsers would load
    # once otherwise. Two tags of one page share the page view, and each counts from one: hence RANDOM.
    "messageId": "PAGE_VIEW_ID_64-${requestCount}-RANDOM",
    "anonymousId": "${anonymousId}",
}

_PAGE = {"name": "${pageName}"}

_TRACK = {"event": "${eventName}"}

_CONTEXT = {
    "context.library.name": "Rudderstack%20AMP%20SDK",
    "context.library.version": "1.0.0",
    "context.platform": "AMP",
    "context.locale": "BROWSER_LANGUAGE",
    "context.userAgent": "USER_AGENT",
    "context.screen.width": "SCREEN_WIDTH",
    "context.screen.height": "SCREEN_HEIGHT",
    # The mapping takes the path out of the URL, and a page's `properties` have copies of all four. AMP encodes an
    # address that is encoded already: if it stood here twice, a title that is not ASCII would make the request line of
    # an ordinary article longer than gunicorn takes.
    "context.page.path": PATH_OF_URL,
    "context.page.url": "CANONICAL_URL",
    "context.page.referrer": "DOCUMENT_REFERRER",
    "context.page.title": "TITLE",
}


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
        # AMP ignores a linker that is not enabled by name.
        "linkers": {"rudderstack": {"enabled": True, "ids": {"rs_amp_id": "${anonymousId}"}, "proxyOnly": False}},
        "cookies": {"rl_anonymous_id": {"value": "LINKER_PARAM(rudderstack, rs_amp_id)"}},
    }
    return json.dumps(config, indent=2).encode()


def _request(path: str, parameters: dict[str, str]) -> dict[str, str]:
    # What the endpoint cannot do without stands before the page's own texts, whatever AMP makes of those.
    query = "&".join(f"{name}={value}" for name, value in (_IDS | parameters | _CONTEXT).items())
    return {"baseUrl": f"{path}?{query}"}
