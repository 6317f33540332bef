"""Runs all benchmarks, prints their table, and brings docs/why/performance.md and its chart up to date.

.venv/bin/python benchmarks/run.py [in_process memory served durability]
"""

import argparse
import importlib
import re
from pathlib import Path

import chart
import measure

ALL = [
    "in_process",
    "asgi_face",
    "memory",
    "served",
    "collector",
    "durability",
    "delivery",
    "kafka",
    "replaying",
    "opens",
    "asking",
]
WHY = Path(__file__).parents[1] / "docs" / "why"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="|".join(ALL))
    parser.add_argument("--write", action="store_true", help="write the docs, if all were run")
    options = parser.parse_args()
    options.names = options.names or ALL
    results = [result for name in options.names for result in importlib.import_module(name).results()]
    print(measure.machine(), measure.table(results), sep="\n\n")
    if options.write and options.names == ALL:
        write_docs(results)


def write_docs(results):
    """The table, and the chart of what has a goal and is a cost."""
    costs = [result for result in results if result.target and not result.at_least and result.unit in ("ns", "us")]
    (WHY / "performance.svg").write_text(chart.svg(costs))
    page = WHY / "performance.md"
    block = f"<!-- results -->\n{measure.machine()}\n\n{measure.table(results)}\n<!-- end -->"
    page.write_text(re.sub("<!-- results -->.*<!-- end -->", lambda _: block, page.read_text("utf-8"), flags=re.DOTALL))


if __name__ == "__main__":
    main()
