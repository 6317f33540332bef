"""The package as it is handed on: what the sdist holds, what PyPI shows, and that the sdist's tests pass from it."""

import os
import re
import shutil
import sys
import tarfile
from email import message_from_string
from pathlib import Path

import pytest
from processes import run

ROOT = Path(__file__).parents[1]
HANDED_ON = ["benchmarks", "docs", "examples", "pixel_middleware", "tests", ".ci", ".github"]
NOT_OURS = shutil.ignore_patterns(
    *("__pycache__", ".*cache", ".tox", ".venv", ".git", ".hypothesis", ".coverage*", "build", "dist", "site")
)
BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The sdist of this tree, unpacked. It is built in a copy, because building leaves files behind."""
    tmp_path = tmp_path_factory.mktemp("sdist")
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=NOT_OURS)
    done = run([sys.executable, "-W", "ignore", "-c", BUILD, tmp_path], cwd=copy)
    assert done.returncode == 0, done.stderr
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / sdist.name.removesuffix(".tar.gz")


def test_it_holds_the_whole_repository_and_its_tests_pass_from_it(unpacked):
    def files(root):
        found = [path for room in HANDED_ON for path in root.joinpath(room).rglob("*") if path.is_file()]
        return {str(path.relative_to(root)) for path in found if "__pycache__" not in path.parts}

    assert files(unpacked) == files(ROOT)
    # Not measured: the coverage of a copy is no coverage of the package.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    environment |= {"PYTHONPATH": str(unpacked), "PYTHONDEVMODE": ""}
    where = [sys.executable, "-c", "import pixel_middleware; print(pixel_middleware.__file__)"]
    assert Path(run(where, env=environment, cwd=unpacked).stdout).is_relative_to(unpacked)
    tests = [f"tests/test_{name}.py" for name in ("events", "package", "reference", "urls")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not real", *tests]
    done = run(command, env=environment, cwd=unpacked)
    assert done.returncode == 0, done.stdout


def test_pypi_shows_a_readme_whose_links_lead_somewhere(unpacked):
    metadata = message_from_string((unpacked / "PKG-INFO").read_text("utf-8"))
    home = metadata["Home-page"]
    links = re.findall(r"\]\(([^)\s]+)\)", metadata.get_payload())
    assert [link for link in links if not link.startswith("https://")] == []
    inside = re.findall(rf"\]\({re.escape(home)}/(?:blob|raw)/main/([^)#]+)", metadata.get_payload())
    assert len(inside) > 20
    assert [path for path in inside if not (ROOT / path).exists()] == []


def test_the_home_of_the_project_stands_in_its_metadata_as_in_the_site(unpacked):
    metadata = message_from_string((unpacked / "PKG-INFO").read_text("utf-8"))
    (site,) = re.findall("^repo_url: (.*)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    addresses = dict(entry.split(", ") for entry in metadata.get_all("Project-URL"))
    assert metadata["Home-page"] == site
    assert {address.startswith(site) for address in addresses.values()} == {True}
