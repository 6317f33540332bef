"""A real browser: loads a page, and says what became of it."""

import re
import shutil
from typing import NamedTuple

import pytest
from processes import run

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_chromium = pytest.mark.skipif(not BROWSER, reason="Chromium is not installed")


class Page(NamedTuple):
    """The document after its scripts ran, and what the console says."""

    dom: str
    console: list[str]


def browse(url, profile, *options, milliseconds=4000):
    """Open a page, let it live for some time of its own clock, and close it."""
    done = run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={profile}", f"--virtual-time-budget={milliseconds}", "--enable-logging=stderr"),
            *options,
            *("--dump-dom", url),
        ],
    )
    assert done.returncode == 0, done.stderr
    return Page(done.stdout, re.findall(r"CONSOLE[^\]]*\] (.*)", done.stderr))
