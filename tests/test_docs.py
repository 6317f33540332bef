"""Code in the README and the docs does what it says."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from wsgiref.simple_server import demo_app

import pytest
import yaml
from chromium import BROWSER
from processes import get_when_up
from test_asgi import SERVERS as ASGI
from test_faults import SERVERS as FAULTS
from test_servers import SERVERS as WSGI

from pixel_middleware import PixelMiddleware
from pixel_middleware.destinations import RudderStack
from pixel_middleware.sinks import EventLog

ROOMS = ["docs", "examples", "benchmarks", "tests", ".github"]
ROOT = Path(__file__).parents[1]
MARKDOWN = sorted([*ROOT.glob("*.md"), *(page for room in ROOMS for page in ROOT.glob(f"{room}/**/*.md"))])
DRIVER = shutil.which("chromedriver")


def test_the_readmes_first_snippet_runs(popen, free_port):
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)[1]
    assert len([line for line in snippet.splitlines() if line]) <= 8
    url = re.search(r"curl '(.*)'", snippet)[1].replace("8000", str(free_port))
    code = snippet.replace("8000", str(free_port))
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert get_when_up(url, process) == b"OK"
    assert "'event': 'Signup'" in process.stdout.readline()


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        if re.match(r"https?:|mailto:", link):
            continue
        if not target.exists() or (heading and heading not in headings(target)):
            broken.append(link)
    assert broken == []


def without_code(page):
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def headings(page):
    """The anchors of a page, as code hosts make them."""
    lines = re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


def test_the_site_builds_without_a_warning(run, tmp_path):
    """mkdocs checks links and anchors as its own Markdown makes them, and that each page is in the menu."""
    done = run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"], cwd=ROOT)
    assert (done.returncode, re.findall("WARNING.*", done.stderr)) == (0, []), done.stderr
    site = "".join(page.read_text("utf-8") for page in tmp_path.glob("site/**/*.html"))
    assert set(re.findall(r'(?:<script[^>]* src|<link[^>]* href|<img[^>]* src)="(\w+:[^"]*)"', site)) == set()


PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
SESSIONS = [page for page in PAGES if "\n>>> " in page.read_text("utf-8")]


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.name)
def test_examples_in_the_docs_are_true(path):
    assert doctest.testfile(str(path), module_relative=False).failed == 0


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_code_in_the_docs_runs(path, tmp_path, monkeypatch, events, free_port):
    """Each block after the other, as a reader would type them who has an `app`, a `sink` and a `log`."""
    monkeypatch.chdir(tmp_path)
    log = EventLog(tmp_path / "reader.db", {"rudderstack": RudderStack(f"http://127.0.0.1:{free_port}")})
    logs = [log]
    names = {"app": PixelMiddleware(demo_app, events.append), "sink": events.append, "log": log}
    names["PixelMiddleware"] = PixelMiddleware  # imported by the README's first snippet, which runs above
    for block in re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL):
        if not block.startswith(">>>") and "serve_forever()" not in block:
            exec(compile(block, str(path), "exec"), names)
            logs += [one for one in names.values() if isinstance(one, EventLog)]
    for log in logs:
        log.close()  # or it would make its file again, where the next test is


def test_the_workflow_runs_what_everybody_can_run():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    assert [step.get("run") for step in workflow["jobs"]["ci"]["steps"]][-1] == ".ci/run"
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


GUNICORN_CLASSES = {"sync", "gthread", "gevent"}


def test_the_readme_lists_the_servers_that_the_tests_run():
    readme = (ROOT / "README.md").read_text("utf-8")
    listed = [set(re.search(rf"\| {kind} servers \| (.*) \|", readme)[1].split(", ")) for kind in ("WSGI", "ASGI")]
    run = [{name.split(" ")[0].rstrip(",") for name in servers} for servers in (WSGI, ASGI)]
    run[0] |= {"gunicorn" if name.split(", ")[0] in GUNICORN_CLASSES else name.split(",")[0] for name in FAULTS}
    assert listed == run


BROWSER_FIXTURE = f"""
import pytest
from selenium import webdriver

@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = {BROWSER!r}
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={{tmp_path}}"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService({DRIVER!r}))
    yield browser
    browser.quit()
"""


def test_the_patterns_for_users_tests_pass(run, tmp_path):
    patterns = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "how-to" / "test.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "conftest.py").write_text(BROWSER_FIXTURE)
    for name, pattern, passed in zip(("list", "browser"), patterns, ("4 passed", "2 passed"), strict=True):
        if name == "browser" and not (BROWSER and DRIVER):
            pytest.skip("Chromium or its driver is not installed")
        (tmp_path / f"test_{name}.py").write_text(pattern)
        command = [sys.executable, "-m", "pytest", "-q", "--rootdir", tmp_path, "-p", "no:cacheprovider"]
        done = run([*command, tmp_path / f"test_{name}.py"], cwd=tmp_path)
        assert passed in done.stdout, done.stdout
