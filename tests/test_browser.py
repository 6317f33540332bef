"""A real browser shows the pixels, from any page, and each becomes an event."""

import re

import pytest
from chromium import browse, needs_chromium

from pixel_middleware import PixelMiddleware, pixel_tag

pytestmark = [needs_chromium, pytest.mark.real]

REPORT = """
<script>
  addEventListener("load", () => {
    document.body.append(` widths: ${[...document.images].map(image => image.naturalWidth)};`);
  });
</script>
"""


@pytest.fixture
def page(serve):
    """Serves a page on `localhost`; its `html` may be set, and headers added."""

    def app(environ, start_response):
        body = app.html.encode() if environ["PATH_INFO"] == "/" else b""
        length = ("Content-Length", str(len(body)))
        start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), length, *app.headers])
        return [body]

    app.headers, app.html = [], ""
    app.url = f"http://localhost:{serve(app)}/"
    return app


@pytest.fixture
def collector(serve, events):
    """The base of a collector, on another site than the page's."""

    def image_without_the_header(environ, start_response):
        start_response("200 OK", [("Content-Type", "image/svg+xml")])
        return [b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>']

    return f"http://127.0.0.1:{serve(PixelMiddleware(image_without_the_header, events.append))}"


def tag(base, name="Home"):
    return pixel_tag(base, "page", write_key="k", anonymous_id="a", name=name)


def widths(browsed):
    return re.search(r"widths: ([\d,]*);", browsed.dom)[1]


def test_a_tag_loads_and_says_who_looked_at_what(page, collector, events, tmp_path):
    page.html = f"<!doctype html><title>Home</title><body>{tag(collector)}{REPORT}"
    browsed = browse(page.url, tmp_path, "--user-agent=Mozilla/5.0 (a test)", "--accept-lang=de-CH,de")
    assert (widths(browsed), browsed.console) == ("1", [])
    (event,) = events
    assert event["context"] == {
        "ip": "127.0.0.1",
        "userAgent": "Mozilla/5.0 (a test)",
        "locale": "de-CH",
        "page": {"url": page.url},
    }
    assert (event["type"], event["name"], event["properties"]) == ("page", "Home", {"url": page.url})


def test_it_loads_into_an_isolated_page_of_another_site(page, collector, events, tmp_path):
    page.headers = [
        ("Cross-Origin-Embedder-Policy", "require-corp"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
    ]
    page.html = f'<!doctype html><body>{tag(collector)}<img src="{collector}/blocked.svg">{REPORT}'
    assert widths(browse(page.url, tmp_path)) == "1,0"
    assert len(events) == 1


def test_three_images_of_a_script_are_three_events(page, collector, events, tmp_path):
    page.html = f"""<!doctype html><body><script>
      for (const count of [1, 2, 3]) {{
        const image = new Image();
        image.onload = () => document.body.append(` loaded ${{image.naturalWidth}};`);
        image.src = "{collector}/pixel/v1/track?writeKey=k&anonymousId=a&event=Click&messageId=" + count;
      }}
    </script>"""
    browsed = browse(page.url, tmp_path)
    assert (browsed.dom.count("loaded 1;"), browsed.console) == (3, [])
    assert sorted(event["messageId"] for event in events) == ["1", "2", "3"]


def test_what_is_refused_shows_no_broken_image(page, collector, tmp_path):
    page.html = f'<!doctype html><body><img src="{collector}/pixel/v1/track.gif?writeKey=k">{REPORT}'
    assert widths(browse(page.url, tmp_path)) == "1"


def test_a_script_reads_why_it_was_refused(page, collector, tmp_path):
    page.html = f"""<!doctype html><body><script>
      fetch("{collector}/pixel/v1/track?writeKey=k&anonymousId=a")
        .then(async answer => document.body.append(` ${{answer.status}}: ${{await answer.text()}};`));
    </script>"""
    assert "400: event is missing; add event=... with the name of what happened;" in browse(page.url, tmp_path).dom
