"""The page of the live view, in a real browser: what it makes of hostile events, and what one can do with it."""

import json
import re
import shutil
import sqlite3
import sys
import urllib.error
import urllib.request
from contextlib import closing
from datetime import datetime
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import pytest
from chromium import BROWSER
from conftest import host_app
from processes import GUARD, PATIENCE_S, reserved_port, until, until_up
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from pixel_middleware import PixelMiddleware
from pixel_middleware.watch.live import LiveView

TOKEN = "a-token-of-the-tests"

HOSTILE = {
    "event": '<img src=x onerror="window.hacked=1">',
    "anonymousId": "</span><script>window.hacked=1</script>",
    "context.page.url": "javascript:window.hacked=1",
    "properties.__proto__.polluted": "1",
    "properties.x": "</script><script>window.hacked=1</script>\u2028\u2029",
    "context.locale.deep": "x",
    "context.ip.toString": "x",
}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A browser, which takes longer to start than most tests."""
    driver = shutil.which("chromedriver")
    if not BROWSER or not driver:
        pytest.skip("Chromium or its driver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    profile = tmp_path_factory.mktemp("chromium")
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    with reserved_port() as port:
        service = webdriver.ChromeService(driver, port=port, popen_kw={"start_new_session": True})
        chromium = webdriver.Chrome(options, service)
        GUARD.watch(service.process.pid)
        yield chromium
        chromium.quit()
        GUARD.forget(service.process.pid)


@pytest.fixture
def browser(chromium):
    """The browser, as if it had just been started."""
    chromium.get("about:blank")
    chromium.set_window_size(1200, 800)
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})
    chromium.get_log("browser")
    return chromium


@pytest.fixture
def page(browser, serve, events):
    """The live view in a browser, and a function that waits for something in it."""
    polls = []

    def restart():
        browser.app = LiveView(PixelMiddleware(host_app, events.append), live_token=TOKEN)

    def app(environ, start_response):
        if environ["PATH_INFO"].endswith("/feed"):
            polls.append(environ["QUERY_STRING"])
        return browser.app(environ, start_response)

    browser.restart = restart
    restart()

    browser.base, browser.polls = f"http://127.0.0.1:{serve(app)}", polls
    browser.get(f"{browser.base}/pixel/live?token={TOKEN}")
    browser.wait_for = lambda condition: until(condition, f"the page to change:\n{browser.page_source}")
    browser.wait_for(lambda: browser.find_element(By.ID, "state").text == "0 since the start")
    script = "return [...document.querySelectorAll('#list li:not([hidden]) .name')].map(each => each.textContent)"
    browser.names = lambda: browser.execute_script(script)
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
    assert shown["properties"]["x"] == HOSTILE["properties.x"]
    assert page.execute_script("return [window.hacked, ({}).polluted]") == [None, None]
    assert page.get_log("browser") == []
    page.find_element(By.CSS_SELECTOR, "#list button").click()
    assert page.find_elements(By.CSS_SELECTOR, "#list pre") == []


def test_letters_that_hide_or_turn_their_surroundings_are_shown_as_escapes(page):
    send(page, event="abc\u202efed\u2066\u200b", **{"properties.\u202d": "\U000e0041"})
    page.wait_for(lambda: page.names() == [r"abc\u202efed\u2066\u200b"])
    page.find_element(By.CSS_SELECTOR, "#list button").click()
    shown = page.find_element(By.CSS_SELECTOR, "#list pre").text
    assert tuple(re.search(r'"(\\u202d)": "(.*)"', shown).groups()) == (r"\u202d", r"\udb40\udc41")


def test_one_event_blinds_nobody_to_the_others(page):
    send(page, event="before")
    send(page, event="hostile", **{"context.ip.toString": "x", "context.page.url.toString": "x"})
    send(page, event="after")
    page.wait_for(lambda: page.names() == ["after", "hostile", "before"])


def test_a_refused_request_opens_with_its_query_and_is_copied_harmlessly(page):
    send(page, **{"properties.x": "it's; rm -rf \u202e"})
    page.wait_for(page.names)
    page.find_element(By.CSS_SELECTOR, "#list button").click()
    query = "writeKey=k&anonymousId=a&properties.x=it%27s%3B+rm+-rf+%E2%80%AE"
    assert page.find_element(By.CSS_SELECTOR, "#list .whole").text.splitlines() == [
        "rejected: missing_event",
        "event is missing; add event=... with the name of what happened",
        f"/pixel/v1/track?{query}",
        "3 parameters, decoded",
        "writeKey k",
        "anonymousId a",
        r"properties.x it's; rm -rf \u202e",
        f"from the network 127.0.0.0, Python-urllib/{sys.version_info[0]}.{sys.version_info[1]}",
        "Copy URL",
        "Copy curl",
    ]
    assert copied(page) == [f"{page.base}/pixel/v1/track?{query}", f"curl '{page.base}/pixel/v1/track?{query}'"]
    page.execute_script("navigator.clipboard.writeText = async () => { throw new Error('not here'); }")
    page.find_element(By.CSS_SELECTOR, "#list .whole button").click()
    page.wait_for(lambda: page.find_element(By.CSS_SELECTOR, "#list .whole button").text == "Copied")


def copied(page):
    """What the buttons of the row that is open copy."""
    page.execute_script(
        "window.copied = []; navigator.clipboard.writeText = async text => { window.copied.push(text); }"
    )
    for button in page.find_elements(By.CSS_SELECTOR, "#list .whole button"):
        button.click()
        page.wait_for(lambda button=button: button.text == "Copied")
    return page.execute_script("return window.copied")


def test_an_accepted_event_is_copied_as_the_pixel_that_sends_it_again(page, events):
    send(page, event="it's", **{"properties.products.0.sku": "A&B", "context.page.url": "http://x/?a=1"})
    page.wait_for(page.names)
    page.find_element(By.CSS_SELECTOR, "#list button").click()
    event, url, curl = copied(page)
    assert (json.loads(event), curl) == (events[0], f"curl '{url}'")
    urllib.request.urlopen(url, timeout=PATIENCE_S).close()
    first, again = ({key: event[key] for key in ("type", "writeKey", "event", "properties")} for event in events)
    assert first == again


def test_what_failed_and_what_was_dropped_say_so_when_they_are_opened(page, events):
    def fail(event):
        raise OSError("the disk is full")

    page.app = LiveView(PixelMiddleware(host_app, fail), live_token=TOKEN)
    send(page, event="lost")
    page.wait_for(lambda: page.names() == ["lost"])
    page.find_element(By.CSS_SELECTOR, "#list button").click()
    told = page.find_element(By.CSS_SELECTOR, "#list .whole").text
    assert told.startswith("failed: sink_failed\nOSError: the disk is full. The event is not stored;")
    page.app = LiveView(PixelMiddleware(host_app, events.append, processors=[forget]), live_token=TOKEN)
    send(page, event="private")
    page.wait_for(lambda: page.names() == ["forget"])
    page.find_element(By.CSS_SELECTOR, "#list button").click()
    assert "Dropped by the processor forget" in page.find_element(By.CSS_SELECTOR, "#list .whole").text


def forget(event, request):
    return None


def chip(page, kind, value):
    return page.find_element(By.CSS_SELECTOR, f"#chips-{kind} button[value='{value}']")


def chips(page, kind):
    return [each.text.replace("\n", " ") for each in page.find_elements(By.CSS_SELECTOR, f"#chips-{kind} button")]


def test_chips_count_and_filter_by_outcome_name_key_and_reason(page):
    send(page, event="Signup", writeKey="shop")
    send(page, event="Login", writeKey="blog")
    send(page, event="Login", writeKey="shop")
    send(page, writeKey="shop")
    page.wait_for(lambda: len(page.names()) == 4)
    counts = {kind: chips(page, kind) for kind in ("outcome", "type", "name", "key", "reason")}
    assert counts == {
        "outcome": ["accepted 3", "rejected 1"],
        "type": ["track 3"],
        "name": ["Login 2", "Signup 1"],
        "key": ["blog 1", "shop 3"],
        "reason": ["missing_event 1"],
    }
    chip(page, "key", "shop").click()
    assert page.names() == ["missing_event", "Login", "Signup"]
    assert (chips(page, "outcome"), chips(page, "key")) == (["accepted 2", "rejected 1"], ["blog 1", "shop 3"])
    chip(page, "outcome", "accepted").send_keys(Keys.ENTER)
    assert page.names() == ["Login", "Signup"]
    assert page.switch_to.active_element == chip(page, "outcome", "accepted")
    assert page.current_url.endswith("#key=shop&outcome=accepted")
    page.refresh()
    page.wait_for(lambda: page.names() == ["Login", "Signup"])
    assert chip(page, "key", "shop").get_attribute("aria-pressed") == "true"
    chip(page, "key", "shop").click()
    assert page.names() == ["Login", "Login", "Signup"]


def test_of_many_names_the_most_frequent_and_the_newest_are_chips_and_the_chosen_one_stays(page):
    page.get(f"{page.base}/pixel/live#name=z")
    page.refresh()
    for name in "abcdefghijaz":
        send(page, event=name)
    page.wait_for(lambda: page.names() == ["z"])
    assert chips(page, "name") == [
        "a 2",
        *(f"{name} 1" for name in "efghij"),
        "z 1",
    ]  # the most frequent, and the newest
    assert page.find_element(By.CSS_SELECTOR, "#chips-name small").text == "and 3 more"


def test_a_filter_stands_in_the_address(page):
    send(page, event="Signup", writeKey="shop")
    send(page, event="Login", writeKey="blog")
    send(page, writeKey="shop")
    page.wait_for(lambda: page.names() == ["missing_event", "Login", "Signup"])
    page.find_element(By.TAG_NAME, "body").send_keys("/")
    page.switch_to.active_element.send_keys("KEY:shop sign")
    assert page.names() == ["Signup"]
    page.refresh()
    page.wait_for(lambda: page.names() == ["Signup"])
    assert page.current_url == f"{page.base}/pixel/live#text=KEY%3Ashop+sign"
    page.execute_script("location.hash = 'outcome=accepted&since=nonsense&other=1'")
    page.wait_for(lambda: page.names() == ["Login", "Signup"])


def test_all_that_can_be_used_has_a_name_for_a_screen_reader(page):
    send(page, event="Signup")
    send(page)
    page.wait_for(lambda: len(page.names()) == 2)
    for row in page.find_elements(By.CSS_SELECTOR, "#list li > button, #fire summary"):
        row.click()
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    usable = {"button", "searchbox", "textbox", "combobox", "group", "image", "list", "table"}
    named = [(node["role"]["value"], node["name"]["value"]) for node in nodes if node["role"]["value"] in usable]
    assert [role for role, name in named if not name] == []
    assert usable - {role for role, _ in named} == set()
    (row,) = [name for role, name in named if role == "button" and "Signup k" in name]
    assert "track accepted" in " ".join(row.split())


def test_what_is_read_stays_where_it_is(page):
    for number in range(40):
        send(page, event=f"e{number}")
    page.wait_for(lambda: len(page.names()) == 40)
    button = page.find_elements(By.CSS_SELECTOR, "#list li > button")[0]
    button.click()
    page.execute_script("scrollTo(0, 120)")
    where = page.execute_script("return arguments[0].getBoundingClientRect().top", button)
    for number in range(10):
        send(page, event=f"f{number}")
    page.wait_for(lambda: len(page.names()) == 50)
    assert page.execute_script("return arguments[0].getBoundingClientRect().top", button) == pytest.approx(where, abs=1)
    button.send_keys(Keys.ARROW_DOWN)
    assert "e38" in page.switch_to.active_element.text
    page.switch_to.active_element.send_keys(Keys.ARROW_UP)
    assert page.switch_to.active_element == button
    button.send_keys(Keys.ENTER)
    assert page.find_elements(By.CSS_SELECTOR, "#list .whole") == []


def test_after_a_restart_no_row_of_before_is_left(page, events):
    send(page, event="before")
    page.wait_for(lambda: page.names() == ["before"])
    page.restart()
    send(page, event="after")
    page.wait_for(lambda: page.names() == ["after"])
    assert page.find_element(By.ID, "state").text == "1 since the start"


def test_who_clears_sees_what_comes_from_then_on(page):
    assert f"curl '{page.base}/pixel/v1/track?writeKey=demo" in page.find_element(By.ID, "try").text
    send(page, event="before")
    page.wait_for(lambda: page.names() == ["before"])
    page.find_element(By.ID, "clear").click()
    assert page.find_element(By.ID, "empty").text.startswith("Cleared. What comes from now on appears here.")
    send(page, event="after")
    page.wait_for(lambda: page.names() == ["after"])
    page.refresh()
    page.wait_for(lambda: page.names() == ["after"])
    page.find_element(By.CSS_SELECTOR, "#since button").click()
    assert page.names() == ["after", "before"]


def test_its_form_finds_the_pixels_below_a_mount_and_another_prefix(browser, serve, events):
    inner = LiveView(PixelMiddleware(host_app, events.append, prefix="/px"), "/seen", live_token=TOKEN)

    def mounted(environ, start_response):
        assert environ["PATH_INFO"].startswith("/shop/")
        return inner(environ | {"SCRIPT_NAME": "/shop", "PATH_INFO": environ["PATH_INFO"][5:]}, start_response)

    base = f"http://127.0.0.1:{serve(mounted)}"
    browser.get(f"{base}/shop/seen?token={TOKEN}")
    url = f"{base}/shop/px/track?writeKey=demo&anonymousId=me&event=Hello&properties.total=12.5"
    browser.find_element(By.CSS_SELECTOR, "#fire summary").click()
    until(lambda: browser.find_element(By.ID, "url").text == url, "the prefix")
    browser.find_element(By.ID, "send").click()
    until(lambda: browser.find_element(By.ID, "answer").text == "200: OK", "the answer")
    browser.find_element(By.ID, "label").send_keys("x")
    assert browser.find_element(By.ID, "answer").text == ""
    assert [event["event"] for event in events] == ["Hello"]


def test_the_chart_says_what_it_shows(page):
    send(page, event="a")
    send(page)
    page.wait_for(lambda: len(page.names()) == 2)
    chart = page.find_element(By.ID, "chart")
    said = "In the last minute 1 accepted, 1 rejected, 0 dropped, 0 failed; at most 4 a second"
    assert (chart.get_attribute("aria-label"), page.find_element(By.ID, "most").text) == (said, "4")
    titles = page.execute_script("return [...document.querySelectorAll('#chart title')].map(each => each.textContent)")
    assert sum("1 accepted" in title for title in titles) == 1
    (when,) = page.find_elements(By.CSS_SELECTOR, "#list li:first-child time")
    assert when.get_attribute("title").endswith(when.get_attribute("datetime"))


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns", "UTC"])
def test_times_are_local_with_their_date_and_zone(page, zone):
    page.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": zone})
    page.refresh()
    send(page, event="a")
    page.wait_for(page.names)
    (when,) = page.find_elements(By.CSS_SELECTOR, "#list time")
    utc = datetime.fromisoformat(when.get_attribute("datetime"))
    assert when.text == utc.astimezone(ZoneInfo(zone)).isoformat(" ", "milliseconds")[:23]
    offset = "" if zone == "UTC" else utc.astimezone(ZoneInfo(zone)).isoformat()[-6:]
    assert page.find_element(By.ID, "zone").text == f"time, UTC{offset}"


def test_events_come_by_themselves_and_can_be_filtered(page):
    send(page, event="Signup", **{"properties.plan": "premium"})
    send(page)
    send(page, event="Login")
    page.wait_for(lambda: page.names() == ["Login", "missing_event", "Signup"])
    page.find_element(By.ID, "text").send_keys("PREMIUM")
    assert page.names() == ["Signup"]
    page.find_element(By.ID, "text").clear()
    page.execute_script("document.getElementById('text').dispatchEvent(new Event('input'))")
    chip(page, "outcome", "rejected").click()
    assert page.names() == ["missing_event"]
    assert "event is missing" in page.find_element(By.CSS_SELECTOR, "#list .why").text
    assert page.find_elements(By.CSS_SELECTOR, "#chart rect.accepted")
    assert page.find_elements(By.CSS_SELECTOR, "#chart rect.rejected")


def test_a_pause_holds_the_page_and_loses_nothing(page):
    page.find_element(By.ID, "pause").click()
    send(page, event="Signup")
    page.wait_for(lambda: page.polls and page.polls[-1].endswith("-1-0"))  # it has got the event, and asks for the next
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


@pytest.mark.parametrize("width", [320, 1200])
def test_nothing_is_wider_than_the_screen(page, width):
    page.set_window_size(width, 800)
    send(page, event="x" * 300, anonymousId="y" * 300)
    page.wait_for(lambda: page.names())
    page.find_element(By.CSS_SELECTOR, "#list button").click()
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


WATCHED_APP = f"""
import os

from pixel_middleware import PixelMiddleware
from pixel_middleware.sinks import EventLog
from pixel_middleware.watch.live import LiveView


def sign(event, request):
    event["properties"]["worker"] = os.getpid()
    return event


def tell(environ, start_response):
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]


log = EventLog("events.db")
app = LiveView(PixelMiddleware(tell, log, processors=[sign]), log=log, live_token={TOKEN!r})
"""


def test_of_four_workers_each_pixel_is_shown_and_after_a_restart_too(browser, start, new_port, tmp_path, in_threads):
    (tmp_path / "watched_app.py").write_text(WATCHED_APP)
    port = new_port()
    command = ["-m", "gunicorn", "watched_app:app", "--workers=4", f"--chdir={tmp_path}", f"--bind=127.0.0.1:{port}"]
    server = start(*command)
    until_up(port, server)
    base = f"http://127.0.0.1:{port}"

    workers = set()

    def ask(thread):
        with urllib.request.urlopen(base, timeout=PATIENCE_S) as answer:
            workers.add(answer.read())

    until(lambda: in_threads(8, ask) == [] and len(workers) == 4, "all workers")

    def send_125(thread):
        for number in range(125):
            # One in ten lacks its event; a worker keeps 100 refusals a second, and there are 100 in all.
            event = f"&event=e{number}" if (thread * 125 + number) % 10 else ""
            try:
                url = f"{base}/pixel/v1/track?writeKey=k&anonymousId=a{event}"
                urllib.request.urlopen(url, timeout=PATIENCE_S).close()
            except urllib.error.HTTPError as refused:
                refused.close()

    assert in_threads(8, send_125) == []

    def shown():
        return browser.find_elements(By.CSS_SELECTOR, "#list > li")

    for _ in range(2):
        browser.get(f"{base}/pixel/live?token={TOKEN}")
        until(lambda: len(shown()) == 1000, "all")
        assert browser.find_element(By.ID, "state").text == "1,000 in the log"
        assert chips(browser, "outcome") == ["accepted 900", "rejected 100"]
        assert chips(browser, "reason") == ["missing_event 100"]
        server.end()
        server = start(*command)
        until_up(port, server)
    with closing(sqlite3.connect(tmp_path / "events.db")) as log:
        workers = "SELECT count(DISTINCT event ->> '$.properties.worker') FROM events"
        assert log.execute(workers).fetchone() == (4,)
