"""How results are taken, held and shown."""

import os
import platform
from dataclasses import dataclass
from statistics import median

SCALES = {"ns": 1e9, "us": 1e6, "ms": 1e3}


@dataclass(frozen=True)
class Result:
    """Ours against a peer, from one run, and the ratio to reach, if any; `at_least` where more is better."""

    what: str
    against: str
    ours: float
    theirs: float
    target: float | None
    unit: str
    at_least: bool = False

    @property
    def ratio(self):
        return self.ours / self.theirs

    @property
    def reached(self):
        if self.target is None:
            return None
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target

    def row(self):
        scale = SCALES.get(self.unit, 1.0)
        measured = f"{self.ours * scale:,.1f} / {self.theirs * scale:,.1f} {self.unit}"
        goal = "" if self.target is None else f"{'>=' if self.at_least else '<='} {self.target}"
        reached = {None: "", True: "yes", False: "**no**"}[self.reached]
        return [self.what, self.against, measured, f"{self.ratio:.2f}", goal, reached]


def interleaved(runs, rounds):
    """The median of each run's results; all take turns, so that a slow moment is everybody's."""
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(run())
    return {name: median(taken) for name, taken in times.items()}


def table(results):
    """The results as a Markdown table."""
    head = ["what", "against", "measured", "ratio", "to reach", "reached"]
    rows = [head, ["---"] * len(head), *(result.row() for result in results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine():
    with open("/proc/cpuinfo") as info:
        model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), "unknown CPU")
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )
