"""Tests of the tests: `python tests/mutants.py` breaks the package in many ways, and each must make a test fail.

There are two kinds. `MUTANTS` are faults in the event log, the group commit, couriers and destinations, each with the
test that must notice it. Those of `wire` and `endpoint` are made from the syntax of the code: see `mutations.py`.

Works in a copy of the package, one test run at a time, and each in a process group of its own with a time limit.
Arguments choose: `log` or `wire`; words that stand in the names of mutants; `every=5` for a sample of those of `wire`.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import hypothesis
import mutations
import processes
import pytest
from faults import MUTANTS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pixel_middleware"
LIMIT_S = 120
"""How long the tests of a mutant may take. One that makes them hang is noticed too."""

PATIENCE_S = 30
"""How long a test waits for what must come: many a mutant keeps it from coming."""

LEAST_SHARE = 0.9
"""Of the mutants of `wire` and `endpoint` that must be noticed."""


class Bench:
    """A copy of the package, to be broken, and what tests say of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._package = folder / PACKAGE.name
        shutil.copytree(PACKAGE, self._package, ignore=shutil.ignore_patterns("__pycache__"))

    def verdict(self, tests: Sequence[str], limit_s: float = LIMIT_S) -> str:
        """What tests say of the package as it is now: "passed", "failed" or "hung"."""
        pid = os.fork()
        if not pid:
            code = 1
            try:
                code = self._run(tests)
            finally:
                os._exit(code)
        try:
            deadline = time.monotonic() + limit_s
            while time.monotonic() < deadline:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    return "passed" if os.waitstatus_to_exitcode(status) == 0 else "failed"
                time.sleep(0.01)
            return "hung"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _run(self, tests: Sequence[str]) -> int:
        """In the child: everything here ends with its process group."""
        os.setsid()
        output = os.open(self._folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.path.insert(0, str(self._folder))
        os.environ["PYTHONPATH"] = str(self._folder)
        os.chdir(ROOT)
        options = [
            "-x",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            f"--basetemp={self._folder}/t",
        ]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what was imported before
        processes.PATIENCE_S = PATIENCE_S
        # Few examples, and the same ones each time; the profile of conftest.py adds to this one.
        hypothesis.settings.register_profile("mutants", max_examples=25, derandomize=True, database=None)
        hypothesis.settings.load_profile("mutants")
        try:
            return int(pytest.main([*options, *tests]))
        except BaseException:
            traceback.print_exc()
            raise

    def output(self) -> str:
        """What the last tests printed."""
        return (self._folder / "output").read_text("utf-8", "replace")

    @contextmanager
    def broken(self, file: str, text: str) -> Iterator[None]:
        """Meanwhile a file of the copy has another text."""
        path = self._package / file
        before = path.read_text("utf-8")
        path.write_text(text, "utf-8")
        try:
            yield
        finally:
            path.write_text(before, "utf-8")


class Result(NamedTuple):
    name: str
    verdict: str


def try_faults(bench: Bench, words: Sequence[str]) -> list[Result]:
    """Of each mutant of the list, whether its test noticed it."""
    chosen = [one for one in MUTANTS if not words or any(word in f"{one.file}: {one.what}" for word in words)]
    tests = sorted({one.test for one in chosen})
    if bench.verdict(tests, 10 * LIMIT_S) != "passed":
        raise SystemExit(f"without any mutant these tests must pass, and do not:\n{bench.output()}")
    results = []
    for one in chosen:
        text = (PACKAGE / one.file).read_text("utf-8")
        if text.count(one.old) != 1:
            raise SystemExit(
                f"{one.file} has the text of {one.what!r} {text.count(one.old)} times, and must have it once"
            )
        with bench.broken(one.file, text.replace(one.old, one.new)):
            results.append(Result(f"{one.file}: {one.what}", bench.verdict([one.test])))
        report(results[-1])
    return results


def try_syntax(bench: Bench, words: Sequence[str], every: int) -> list[Result]:
    """Of each mutant that is made from the syntax, whether any of the tests of its file noticed it."""
    results = []
    for file, names in mutations.TESTS.items():
        tests = ["-m", "not real", *(f"tests/{name}.py" for name in names)]
        of_file = [
            one for one in mutations.of_file(PACKAGE, file) if not words or any(word in one.name for word in words)
        ]
        if of_file and bench.verdict(tests, 10 * LIMIT_S) != "passed":
            raise SystemExit(f"without any mutant these tests must pass, and do not:\n{bench.output()}")
        for one in of_file[::every]:
            with bench.broken(file, one.text):
                results.append(Result(one.name, bench.verdict(tests)))
            why = mutations.EQUIVALENT.get(file, {}).get(one.line)
            if results[-1].verdict == "passed" and why:
                results[-1] = Result(one.name, f"same: {why}:")
            report(results[-1])
    return results


def report(result: Result) -> None:
    print(f"{result.verdict:7} {result.name}", flush=True)


def share(results: Sequence[Result]) -> float:
    """How many of the mutants were noticed, of 1; those that no test can notice do not count."""
    verdicts = Counter(result.verdict.partition(":")[0] for result in results)
    noticed, all_others = verdicts["failed"] + verdicts["hung"], len(results) - verdicts["same"]
    print(f"{noticed} of {all_others} noticed, and {verdicts['same']} change nothing that could be")
    return noticed / max(1, all_others)


def main(arguments: Sequence[str]) -> int:
    words = [word for word in arguments if word not in ("log", "wire") and not word.startswith("every=")]
    every = next((int(word.partition("=")[2]) for word in arguments if word.startswith("every=")), 1)
    sys.dont_write_bytecode = True  # a mutant of the same second and length would share it
    for module in ("webob", "webtest", "urllib3", "click.testing"):
        __import__(module)  # once, and not in each child
    is_well = True
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        bench = Bench(Path(folder))
        if "wire" not in arguments:
            is_well &= share(try_faults(bench, words)) == 1
        if "log" not in arguments:
            is_well &= share(try_syntax(bench, words, every)) >= LEAST_SHARE or bool(words)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
