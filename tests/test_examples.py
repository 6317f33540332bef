"""Each example starts with the line that its README gives, and its page, in a browser, produces an event."""

import os
import re
import shlex
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from chromium import browse, needs_chromium
from processes import get_when_up

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
LINES = re.findall(r"\| (http://[^ |]+)[^|]*\| `([^`]+)` \|", (EXAMPLES / "README.md").read_text("utf-8"))


@pytest.fixture(params=LINES, ids=lambda line: shlex.split(line[1])[-1])
def example(request):
    """The page of an example that runs, and what it prints."""
    url, line = request.param
    *assignments, command, argument = shlex.split(line)
    program = str(Path(sys.executable).parent / Path(command).name)
    environment = {"PYTHONDEVMODE": ""} | dict(each.split("=") for each in assignments)
    process = subprocess.Popen(
        [program, argument], cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield url, get_when_up(url).decode(), process.stdout
        process.terminate()


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
        "track Email Opened {'order': '4711', 'campaign': 'confirmation'}\n",
    )


def test_each_is_short():
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in EXAMPLES.glob("*.*")}
    assert {name: length for name, length in lengths.items() if length > 60} == {}
    assert len(LINES) == 7
