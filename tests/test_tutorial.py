"""The tutorial, as a reader does it: each file saved, each command run, each page opened, each output compared.

All but the installation, which tox does: it installs the wheel with its extras.
"""

import os
import re
import shlex
import shutil
import sqlite3
import sys
import urllib.request
from contextlib import closing
from html import unescape
from pathlib import Path

import pytest
from processes import PATIENCE_S, until, until_up

TUTORIAL = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text("utf-8")
STEP = re.compile(
    r"Save this as `(?P<file>[\w.]+)`.*?```python\n(?P<code>.*?)```"
    r"|```sh\n(?P<command>.*?)```(?:\n\n```text\n(?P<output>.*?)```)?"
    r"|[Oo]pen [<`](?P<page>[^>`]+)[>`]",
    re.DOTALL,
)
VARYING = r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\dT[\d:.]+Z|curl/[\w.]+"


def opened(page, directory):
    """The text of a page, of the web or of the directory, whose images are loaded as a browser loads them."""
    address = page if page.startswith("http") else (directory / page).as_uri()
    with urllib.request.urlopen(address, timeout=PATIENCE_S) as response:
        text = response.read().decode()
    for image in re.findall(r'<img src="([^"]+)"', text):
        with urllib.request.urlopen(unescape(image), timeout=PATIENCE_S) as response:
            assert response.headers["Content-Type"] == "image/gif"
    return text


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_it_leads_from_the_first_pixel_to_the_first_report(tmp_path, popen, run, free_port):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONDEVMODE": ""}
    _install, shop, start, *steps = STEP.finditer(TUTORIAL.replace("8000", str(free_port)))
    (tmp_path / shop["file"]).write_text(shop["code"])
    until_up(free_port, popen(shlex.split(start["command"]), cwd=tmp_path, env=environment))
    pages = {}
    for step in steps:
        if step["file"]:
            (tmp_path / step["file"]).write_text(step["code"])
        elif step["page"]:
            pages[step["page"]] = opened(step["page"], tmp_path)
        else:
            if "--by reason" in step["command"]:
                until(lambda: refusals(tmp_path), "the refused request in the log")
            done = run(["sh", "-e", "-c", step["command"].replace("curl", "curl -sS")], cwd=tmp_path, env=environment)
            assert (done.returncode, done.stderr) == (0, "")
            assert re.sub(VARYING, "...", done.stdout).strip() == re.sub(VARYING, "...", step["output"] or "").strip()
    assert [*pages] == [f"http://127.0.0.1:{free_port}/", "ann.html", "bob.html", "report.html"]
    assert "Signup" in pages["report.html"]


def refusals(directory):
    """How many requests the log has, which writes them within a second."""
    with closing(sqlite3.connect(directory / "events.db")) as log:
        return log.execute("SELECT count(*) FROM refusals").fetchone()[0]
