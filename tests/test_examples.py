"""Each example runs, its own page passes through, and the pixel in that page arrives."""

import importlib.util
import re
import sys
from html import unescape
from pathlib import Path

import pytest
import webtest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["pyramid_app", "bottle_app"])
@pytest.mark.filterwarnings("ignore")  # the frameworks' own
def test_its_page_carries_a_pixel_that_becomes_an_event(name, events, capsys):
    module = load(name)
    client = webtest.TestApp(module.make_app(events.append), lint=True)
    page = client.get("/", status=200)
    assert "<h1>Shop</h1>" in page
    client.get(unescape(re.search(r'src="([^"]+)"', page.text)[1]), headers={"Referer": "http://localhost/"})
    assert [(event["type"], event["name"]) for event in events] == [("page", "Shop")]
    module.collect(events[0])
    assert capsys.readouterr().out == "page Shop {'url': 'http://localhost/'}\n"
