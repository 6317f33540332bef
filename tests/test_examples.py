"""Each example starts with the line that its README gives, and its page, in a browser, produces an event."""

import itertools
import os
import re
import shlex
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from chromium import browse, needs_chromium
from processes import get_when_up

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
LINES = re.findall(r"\| (http://[^ |]+)[^|]*\| `([^`]+)` \|", (EXAMPLES / "README.md").read_text("utf-8"))


@pytest.fixture(params=LINES, ids=lambda line: re.search(r"examples/\S+", line[1])[0])
def example(request, popen, free_port):
    """The page of an example that runs, on a port of ours, and what it prints."""
    url, line = request.param
    port = str(urlsplit(url).port)
    url = url.replace(port, str(free_port))
    words = shlex.split(line.replace(port, str(free_port)))
    assignments = list(itertools.takewhile(re.compile("[A-Z]+=").match, words))
    command, *arguments = words[len(assignments) :]
    environment = {"PYTHONDEVMODE": "", "PORT": str(free_port)} | dict(each.split("=") for each in assignments)
    program = Path(sys.executable).parent / Path(command).name
    process = popen([program, *arguments], cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    return url, get_when_up(url, process).decode(), process.stdout


def arrived(output):
    """The line that the example prints for an event; a server may say something of its own before."""
    return next(line for line in output if line.startswith(("page ", "track ")))


@needs_chromium
def test_its_page_produces_an_event_in_a_browser(example, tmp_path):
    url, page, output = example
    src = unescape(re.search(r'<img src="([^"]+)"', page)[1])
    assert src.startswith(url + "pixel/v1/")
    browsed = browse(url, tmp_path)
    assert [line for line in browsed.console if "favicon" not in line] == []
    assert arrived(output) in (
        f"page Shop {{'url': '{url}'}}\n",
        "track Email Opened confirmation-4711 by 5f0c6ad1-5d3b-4f0e-9f5c-1b8c2f7f1a44\n",
    )


@pytest.mark.parametrize(("url", "line"), LINES)
def test_each_listens_where_its_readme_says(url, line):
    port = str(urlsplit(url).port)
    program = ROOT / re.search(r"examples/\S+", line)[0]
    assert f'int(os.environ.get("PORT", "{port}"))' in program.read_text("utf-8") or f"http_port={port}" in line


BARE = "{'type': 'page', 'context': {}, 'properties': {}}"


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*_app.py")))
def test_its_sink_takes_a_pixel_without_referer(name):
    """Whoever tries one out pastes a pixel's URL into curl first."""
    code = f"import {name}; {name}.collect({BARE})"
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES), "PYTHONDEVMODE": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout.startswith("page None")) == (0, True), done.stderr


def test_each_is_short():
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in EXAMPLES.glob("*.*")}
    assert {name: length for name, length in lengths.items() if length > 60} == {}
    assert len(LINES) == 9
