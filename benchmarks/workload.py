"""The queries of the benchmarks: thousands, all different, as AMP pages and emails send them."""

import random
from urllib.parse import quote

COUNT = 2000

TITLES = [
    "Wohnzimmer & Küche: Möbel für jeden Geschmack",
    "お買い得なノートパソコン | 最新モデル",
    "Новая коллекция — весна 2026",
    "The 10 best hikes near Zürich (with map)",
    "Crème brûlée: recette facile, 100 % réussie",
    "How to choose a mattress",
    "Δωρεάν αποστολή σε όλη την Ελλάδα",
]
AGENTS = [
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.2"
    " Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 16; Pixel 10) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/155.0.0.0 Mobile"
    " Safari/537.36",
]


def page_views(count=COUNT, seed=1):
    """Queries of AMP page views: 18 to 20 parameters, unicode titles, long URLs."""
    chance = random.Random(seed)
    return [_page_view(chance) for _ in range(count)]


def track_pixels(count=COUNT, seed=2):
    """Queries of short track pixels, as in emails."""
    chance = random.Random(seed)
    return [_track_pixel(chance) for _ in range(count)]


def mixed(count=COUNT, seed=3):
    """(kind, query): half of each, shuffled."""
    both = [("page", query) for query in page_views(count // 2, seed)]
    both += [("track", query) for query in track_pixels(count // 2, seed + 1)]
    random.Random(seed).shuffle(both)
    return both


def _page_view(chance):
    title = f"{chance.choice(TITLES)} {chance.randrange(10**6)}"
    path = f"/{chance.choice(['shop', 'blog', 'レシピ'])}/{chance.randrange(10**8)}/{title.lower().replace(' ', '-')}"
    campaign = f"?utm_source=newsletter&utm_campaign={chance.randrange(10**5)}&utm_medium=email"
    url = f"https://www.publisher.example{quote(path)}{campaign}"
    parameters = {
        "writeKey": "1abcDEFghiJKLmnoPQRstuVWXyz",
        "context.library.name": "Rudderstack AMP SDK",
        "context.library.version": "1.0.0",
        "context.platform": "AMP",
        "anonymousId": f"amp-{chance.getrandbits(128):032x}",
        "context.locale": chance.choice(["en-us", "de-ch", "ja-jp", "fr-fr"]),
        "context.userAgent": chance.choice(AGENTS),
        "context.page.path": path,
        "context.page.url": url,
        "context.page.referrer": chance.choice(["", "https://www.google.com/", f"https://t.co/{chance.random()}"]),
        "context.page.title": title,
        "context.screen.width": str(chance.choice([390, 412, 1440, 1920])),
        "context.screen.height": str(chance.choice([844, 915, 900, 1080])),
        "properties.path": path,
        "properties.url": url,
        "properties.referrer": "",
        "properties.title": title,
        "name": title,
        "messageId": f"{chance.getrandbits(120):030x}-1",
        "properties.section": chance.choice(["shop", "blog"]),
    }
    kept = list(parameters.items())[: chance.choice([18, 19, 20])]
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in kept)


def _track_pixel(chance):
    return (
        f"writeKey=1abcDEFghiJKLmnoPQRstuVWXyz&anonymousId={chance.getrandbits(128):032x}&event=Email%20Opened"
        f"&properties.campaign={chance.randrange(10**6)}&properties.mail={quote(chance.choice(TITLES), safe='')}"
    )
