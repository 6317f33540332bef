"""Code in the README and the docs does what it says."""

import doctest
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pixel_middleware.errors import Reason

ROOT = Path(__file__).parents[1]


def test_the_readmes_first_snippet_runs(tmp_path, free_port):
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)[1]
    assert len([line for line in snippet.splitlines() if line]) <= 8
    url = re.search(r"curl '(.*)'", snippet)[1].replace("8000", str(free_port))
    code = snippet.replace("8000", str(free_port))
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert get_when_up(url) == b"OK"
        assert "'event': 'Signup'" in process.stdout.readline()
        process.terminate()


def get_when_up(url):
    while True:
        try:
            with urllib.request.urlopen(url) as response:
                return response.read()
        except ConnectionRefusedError:
            continue
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/*.md")), ids=lambda path: path.name)
def test_examples_in_the_docs_are_true(path):
    assert doctest.testfile(str(path), module_relative=False).failed == 0


def test_every_reason_is_documented():
    text = (ROOT / "docs" / "events.md").read_text("utf-8")
    assert {reason for reason in Reason.__args__ if f"`{reason}`" not in text} == set()
