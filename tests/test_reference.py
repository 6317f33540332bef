"""The pages of docs/reference/ say what the code says."""

import ast
import re
from contextlib import closing

import api
import generate
import pytest

from pixel_middleware.errors import Reason
from pixel_middleware.sinks import EventLog


@pytest.mark.parametrize("name", generate.PARTS)
def test_a_generated_part_is_up_to_date(name):
    (page,) = (
        page for page in generate.REFERENCE.glob("*.md") if f"generate.py: {name} -->" in page.read_text("utf-8")
    )
    assert generate.fresh(page) == page.read_text("utf-8"), f"{page.name} is stale: run python docs/generate.py"


def test_every_reason_has_an_example():
    shown = re.findall(r"\| \d+ `(\w+)`: ", (generate.REFERENCE / "answers.md").read_text("utf-8"))
    assert set(shown) == {*Reason.__args__, "unknown_plan"}


def test_every_public_name_says_since_when_it_is_there():
    silent = [
        f"{module}.{name}"
        for module in api.MODULES
        for name in api.public_names(module)
        if not re.search(r"^New in \d+\.\d+\.$", api.defined(module, name)[1], re.MULTILINE)
    ]
    assert silent == []


def test_the_columns_of_the_views_are_explained(tmp_path):
    page = (generate.REFERENCE / "schema.md").read_text("utf-8")
    explained = {}
    for views, table in re.findall(r"^(`.*) (?:has|have) one row.*\n\n((?:\|.*\n)+)", page, re.MULTILINE):
        for view in re.findall(r"`(\w+)`", views):
            rows = [row for row in table.splitlines() if view == "pages" or "`pages` only" not in row]
            explained[view] = {column for row in rows for column in re.findall(r"`(\w+)`", row.split("|")[1])}
    with closing(EventLog(tmp_path / "events.db")) as log:
        views = [view for (view,) in log.read("SELECT name FROM sqlite_schema WHERE type = 'view'")]
        columns = {view: {row[1] for row in log.read(f"PRAGMA table_info({view})")} for view in views}
    assert explained == columns


def test_a_module_that_is_typed_by_users_has_a_docstring():
    paths = {module: api.path_of(module) for module in api.MODULES}
    assert [name for name, path in paths.items() if not ast.get_docstring(ast.parse(path.read_text("utf-8")))] == []
