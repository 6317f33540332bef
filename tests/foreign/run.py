"""Runs the test suites of other projects bare and wrapped, and fails if a test ends in another way.

    python tests/foreign/run.py            # all
    python tests/foreign/run.py flask      # one

It makes an environment for each suite in `.foreign/`, with the versions below, from the package index. See README.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent.resolve()
ROOT = HERE.parents[1]
FOLDER = ROOT / ".foreign"


class Suite(NamedTuple):
    """A project whose source distribution has its tests, and what these need."""

    version: str
    tests: str
    needs: tuple[str, ...]


SUITES = {
    "bottle": Suite("0.13.4", "test", ("mako==1.3.10", "jinja2==3.1.6")),
    "webtest": Suite("3.0.7", "tests", ("PasteDeploy==3.1.0", "pyquery==2.0.1", "WSGIProxy2==0.5.1")),
    "flask": Suite("3.1.3", "tests", ("werkzeug==3.1.9", "asgiref==3.9.1", "greenlet==3.2.4", "python-dotenv==1.1.1")),
    "werkzeug": Suite(
        "3.1.9",
        "tests",
        (
            "cffi==2.0.0",
            "cryptography==46.0.2",
            "ephemeral-port-reserve==1.1.4",
            "pytest-timeout==2.4.0",
            "watchdog==6.0.0",
        ),
    ),
    "pyramid": Suite("2.1", "tests", ("webtest==3.0.7", "zope.component==7.0", "setuptools<82")),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUITES)}; all if none is given")
    names = parser.parse_args().names or list(SUITES)
    if unknown := set(names) - SUITES.keys():
        parser.error(f"there is no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    print("| suite | tests | pass bare | pass wrapped | requests that went through the middleware |")
    print("|---|---|---|---|---|")
    differences = [difference for name in names for difference in compare(name, SUITES[name])]
    print(*differences, sep="\n")
    sys.exit(1 if differences else 0)


def compare(name, suite):
    """What differs between a suite's two runs, a line each; prints the suite's row of the table."""
    python, source = install(name, suite)
    bare = run(python, source, suite, {})
    wrapped = run(python, source, suite, {"FOREIGN_WRAP": name})
    passed = [Counter(result["outcomes"].values())["passed"] for result in (bare, wrapped)]
    conversations = wrapped["seen"]["conversations"]
    print(
        f"| {name} {suite.version} | {len(bare['outcomes'])} | {passed[0]} | {passed[1]} | {conversations:,} |",
        flush=True,
    )
    if not conversations or not passed[0]:
        yield f"{name}: no test passes, or none went through the middleware, which shows nothing"
    if wrapped["seen"]["events"]:
        yield f"{name}: {wrapped['seen']['events']} requests of the suite became events"
    for test in sorted(bare["outcomes"].keys() | wrapped["outcomes"].keys()):
        before, after = (result["outcomes"].get(test, "not run") for result in (bare, wrapped))
        if before != after:
            yield f"{name}: {test}: {before} bare, {after} wrapped"


def install(name, suite):
    """The Python of the suite's environment, and the folder of its source; made once."""
    folder = FOLDER / f"{name}-{suite.version}-py{sys.version_info[0]}{sys.version_info[1]}"
    python, source = folder / "venv" / "bin" / "python", folder / f"{name}-{suite.version}"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if not source.exists():
        command([sys.executable, "-m", "venv", folder / "venv"])
        pinned = f"{name}=={suite.version}"
        command([*pip, "download", "--no-deps", "--no-binary", ":all:", "--dest", folder, pinned])
        command([*pip, "install", "pytest==8.4.2", pinned, *suite.needs])
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")
    command([*pip, "install", "--force-reinstall", "--no-deps", ROOT])
    command([*pip, "install", "webob", "legacy-cgi; python_version >= '3.13'"])
    return python, source


def run(python, source, suite, environment):
    """What the plugin noted of a run of the suite."""
    result = source / "result.json"
    result.unlink(missing_ok=True)
    environment = os.environ | {"PYTHONPATH": str(HERE), "FOREIGN_RESULT": str(result)} | environment
    test = [python, "-m", "pytest", "-q", "-p", "wrapped", "-p", "no:cacheprovider", suite.tests]
    with (source / "output.log").open("w") as log:
        subprocess.run([*map(str, test)], cwd=source, env=environment, stdout=log, stderr=log, check=False)
    if not result.exists():
        raise SystemExit(f"the suite did not run; see {source / 'output.log'}")
    return json.loads(result.read_text())


def command(parts):
    subprocess.run([*map(str, parts)], check=True)


if __name__ == "__main__":
    main()
