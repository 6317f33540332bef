"""The package as a whole: its exported names and the direction of its imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pixel_middleware

PACKAGE = Path(pixel_middleware.__file__).parent
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
FLOORS = [
    {"errors", "events"},
    {"mapping", "signatures", "automation", "counters", "amp", "proxies", "answers", "options"},
    {"urls", "processors", "replay"},
    {"sinks.forks"},
    {"sinks.exclusive", "sinks.group_commit"},
    {"sinks.jsonlines", "sinks.sqlite"},
    {"sinks.backlog"},
    {"sinks.courier"},
    {"sinks.kafka", "sinks.outbox", "sinks.rudderstack", "sinks.tee"},
    {"sinks.__init__", "metrics"},
    {"middleware"},
    {"__init__", "live"},
    {"destinations"},
    {"paste", "commands.__init__", "commands.terminal"},
    {"commands.outbox"},
    {"commands.serve", "commands.tail", "commands.replay"},
    {"cli"},
    {"__main__"},
]
"""Who may import whom: a module, those on floors below its own."""


def imports_of(path):
    """The modules of ours that a file imports, by their names inside the package."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pixel_middleware":
            inside = node.module.removeprefix("pixel_middleware").lstrip(".")
            names = [alias.name for alias in node.names]
            is_package = (PACKAGE / inside.replace(".", "/")).is_dir()
            below = [".".join(filter(None, [inside, name])) for name in names]
            yield from (name if name in MODULES else f"{inside}.__init__" for name in below) if is_package else [inside]


def test_imports_run_only_downwards():
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    assert MODULES.keys() == floor.keys()
    upward = [(name, used) for name, path in MODULES.items() for used in imports_of(path) if floor[used] >= floor[name]]
    assert upward == []


def test_exports_exactly_these_names():
    assert pixel_middleware.__all__ == [
        "BadPixel",
        "ConfigurationError",
        "Event",
        "PageEvent",
        "PixelError",
        "PixelMiddleware",
        "Processor",
        "Rejected",
        "RetryLater",
        "Sink",
        "Stats",
        "StorageError",
        "TrackEvent",
        "UnsendableEvent",
        "pixel_tag",
        "pixel_url",
    ]
    assert all(hasattr(pixel_middleware, name) for name in pixel_middleware.__all__)


def test_importing_it_needs_webob_alone():
    code = (
        "import sys; before = set(sys.modules); import pixel_middleware;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - sys.stdlib_module_names - {'cgi', 'legacy_cgi'}))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout == "['pixel_middleware', 'webob']\n"
