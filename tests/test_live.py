"""The live view: what its feed says, who may look, and what a real browser makes of hostile events."""

import json
import shutil
import urllib.request
from urllib.parse import urlencode

import pytest
import webtest
from chromium import BROWSER
from conftest import host_app
from processes import GUARD, PATIENCE_S, until
from selenium import webdriver
from selenium.webdriver.common.by import By

from pixel_middleware import ConfigurationError, PixelMiddleware
from pixel_middleware.watch import live
from pixel_middleware.watch.live import LiveView

TRACK = "/pixel/v1/track?writeKey=k&anonymousId=a&event="
LOCAL = {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost:8080"}


@pytest.fixture
def watched(events):
    """A client, on this machine, of a collector with a live view."""

    def make(sink=None, processors=(), **options):
        app = LiveView(PixelMiddleware(host_app, sink or events.append, processors=processors), **options)
        return webtest.TestApp(app, lint=True, extra_environ=LOCAL)

    return make


def feed(client, after=0):
    return client.get(f"/pixel/live/feed?after={after}").json


def test_it_shows_what_became_of_each_pixel_and_why(watched):
    client = watched()
    client.get(f"{TRACK}Signup")
    client.get(TRACK, status=400)
    client.get("/pixel/v1/nowhere", status=404)
    client.post("/pixel/v1/track", status=405)
    client.get("/another/page")
    seen = feed(client)["entries"]
    assert [(entry["outcome"], entry["reason"]) for entry in seen] == [
        ("accepted", ""),
        ("rejected", "missing_event"),
        ("rejected", "not_found"),
        ("rejected", "method_not_allowed"),
    ]
    assert (json.loads(seen[0]["event"])["event"], seen[0]["pixel"]) == ("Signup", "/pixel/v1/track")
    assert seen[1]["message"] == "event is missing; add event=... with the name of what happened"
    assert sum(feed(client)["seconds"].popitem()[1].values()) == 4


def test_what_was_dropped_or_failed_is_seen_without_its_event(watched):
    def fail(event):
        raise OSError

    dropping = watched(processors=[lambda event, request: None])
    dropping.get(f"{TRACK}private")
    failing = watched(sink=fail)
    failing.get(f"{TRACK}lost", status=503)
    entries = [*feed(dropping)["entries"], *feed(failing)["entries"]]
    assert [(entry["outcome"], entry["event"]) for entry in entries] == [("dropped", None), ("failed", None)]


def test_a_feed_tells_what_is_new_and_all_after_a_restart(watched):
    client = watched()
    for name in ("1", "2", "3"):
        client.get(TRACK + name)
    assert [entry["id"] for entry in feed(client, after=2)["entries"]] == [3]
    assert [len(feed(client, after)["entries"]) for after in (3, 99, "nonsense")] == [0, 3, 3]


def test_it_keeps_no_more_than_its_size(watched):
    client = watched(size=2)
    for name in ("1", "2", "3"):
        client.get(TRACK + name)
    assert [entry["id"] for entry in feed(client)["entries"]] == [2, 3]


def test_the_chart_forgets_old_seconds(watched, monkeypatch):
    client = watched()
    client.get(f"{TRACK}old")
    monkeypatch.setattr(live, "CHART_S", -1)
    client.get(f"{TRACK}new")
    assert feed(client)["seconds"] == {}


def test_all_else_passes_through(watched):
    client = watched()
    assert client.get("/pixel/live/elsewhere").body == b"host"


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"REMOTE_ADDR": "192.0.2.1"}, id="another machine"),
        pytest.param({"REMOTE_ADDR": ""}, id="nobody knows who"),
        pytest.param({"HTTP_X_FORWARDED_FOR": "127.0.0.1"}, id="a proxy on this machine"),
        pytest.param({"HTTP_HOST": "evil.example"}, id="a page whose name points here"),
    ],
)
@pytest.mark.parametrize("path", ["/pixel/live", "/pixel/live/feed"])
def test_who_is_not_on_this_machine_is_refused(watched, environ, path):
    answer = watched().get(path, extra_environ=environ, status=403)
    assert "allow=" in answer.text


@pytest.mark.parametrize(
    ("allow", "status"),
    [
        (["192.0.2.0/24"], 200),
        (["2001:db8::/32", "192.0.2.1"], 200),
        (["10.0.0.0/8"], 403),
        (lambda environ: True, 200),
    ],
)
def test_others_may_be_allowed(watched, allow, status):
    watched(allow=allow).get("/pixel/live", extra_environ={"REMOTE_ADDR": "192.0.2.1"}, status=status)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"path": "live"}, "path must be a path like"),
        ({"size": 0}, "size must be a whole number of at least 1"),
        ({"allow": ["nonsense"]}, "allow must be networks like"),
        ({"allow": "10.0.0.0/8"}, "allow must be a list of networks"),
        ({"allow": 7}, "allow must be networks like"),
    ],
)
def test_a_wrong_option_is_refused(watched, options, error):
    with pytest.raises(ConfigurationError, match=error):
        watched(**options)


HOSTILE = {
    "event": '<img src=x onerror="window.hacked=1">',
    "anonymousId": "</span><script>window.hacked=1</script>",
    "context.page.url": "javascript:window.hacked=1",
    "properties.__proto__.polluted": "1",
    "properties.x": "</script><script>window.hacked=1</script>\u2028\u2029",
    "context.locale.deep": "x",
}


@pytest.fixture
def browser(tmp_path, free_port):
    driver = shutil.which("chromedriver")
    if not BROWSER or not driver:
        pytest.skip("Chromium or its driver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", f"--user-data-dir={tmp_path}/p"):
        options.add_argument(argument)
    service = webdriver.ChromeService(driver, port=free_port, popen_kw={"start_new_session": True})
    browser = webdriver.Chrome(options, service)
    GUARD.watch(service.process.pid)
    yield browser
    browser.quit()
    GUARD.forget(service.process.pid)


@pytest.fixture
def page(browser, serve, events):
    """The live view in a browser, and a function that waits for something in it."""
    live_view, polls = LiveView(PixelMiddleware(host_app, events.append)), []

    def app(environ, start_response):
        if environ["PATH_INFO"].endswith("/feed"):
            polls.append(environ["QUERY_STRING"])
        return live_view(environ, start_response)

    browser.base, browser.polls = f"http://127.0.0.1:{serve(app)}", polls
    browser.get(f"{browser.base}/pixel/live")
    browser.wait_for = lambda condition: until(condition, f"the page to change:\n{browser.page_source}")
    browser.names = lambda: [name.text for name in browser.find_elements(By.CSS_SELECTOR, "#list .name")]
    return browser


def send(page, **parameters):
    query = urlencode({"writeKey": "k", "anonymousId": "a"} | parameters)
    try:
        urllib.request.urlopen(f"{page.base}/pixel/v1/track?{query}", timeout=PATIENCE_S).close()
    except urllib.error.HTTPError as refused:
        refused.close()


def test_hostile_events_are_text_in_a_browser(page):
    send(page, **HOSTILE)
    page.wait_for(lambda: page.names() == [HOSTILE["event"]])
    page.find_element(By.CSS_SELECTOR, "#list button").click()
    shown = json.loads(page.find_element(By.CSS_SELECTOR, "#list pre").text)
    assert (shown["event"], shown["anonymousId"]) == (HOSTILE["event"], HOSTILE["anonymousId"])
    assert page.execute_script("return [window.hacked, ({}).polluted]") == [None, None]
    assert page.get_log("browser") == []
    page.find_element(By.CSS_SELECTOR, "#list button").click()
    assert page.find_elements(By.CSS_SELECTOR, "#list pre") == []


def test_events_come_by_themselves_and_can_be_filtered(page):
    send(page, event="Signup", **{"properties.plan": "premium"})
    send(page)
    send(page, event="Login")
    page.wait_for(lambda: page.names() == ["Login", "missing_event", "Signup"])
    page.find_element(By.ID, "text").send_keys("PREMIUM")
    assert page.names() == ["Signup"]
    page.find_element(By.ID, "text").clear()
    page.execute_script(
        "document.getElementById('text').dispatchEvent(new Event('input'));"
        "const type = document.getElementById('type'); type.value = 'rejected'; type.dispatchEvent(new Event('input'))"
    )
    assert page.names() == ["missing_event"]
    assert "event is missing" in page.find_element(By.CSS_SELECTOR, "#list .why").text
    assert page.find_elements(By.CSS_SELECTOR, "#chart rect.accepted")
    assert page.find_elements(By.CSS_SELECTOR, "#chart rect.rejected")


def test_a_pause_holds_the_page_and_loses_nothing(page):
    page.find_element(By.ID, "pause").click()
    send(page, event="Signup")
    page.wait_for(lambda: "after=1" in page.polls)  # it has got the event, and asks for the next
    assert page.names() == []
    page.find_element(By.ID, "pause").click()
    assert page.names() == ["Signup"]


def test_the_form_builds_and_fires_a_pixel(page, events):
    page.find_element(By.CSS_SELECTOR, "#fire summary").click()
    label = page.find_element(By.ID, "label")
    label.clear()
    label.send_keys("A & B")
    assert page.find_element(By.ID, "url").text == (
        f"{page.base}/pixel/v1/track?writeKey=demo&anonymousId=me&event=A%20%26%20B&properties.total=12.5"
    )
    page.find_element(By.ID, "send").click()
    page.wait_for(lambda: page.find_element(By.ID, "answer").text == "200: OK")
    page.wait_for(lambda: page.names() == ["A & B"])
    assert [(event["event"], event["properties"]) for event in events] == [("A & B", {"total": "12.5"})]


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_screen(page, width):
    page.set_window_size(width, 800)
    send(page, event="x" * 300, anonymousId="y" * 300)
    page.wait_for(lambda: page.names())
    page.find_element(By.CSS_SELECTOR, "#list button").click()
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
