"""The package as a whole: its exported names and the direction of its imports."""

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pixel_middleware

ROOT = Path(__file__).parents[1]
PACKAGE = Path(pixel_middleware.__file__).parent
ROOMS = [
    {"checks", "errors", "events", "settings", "texts"},
    {"wire", "runtime"},
    {"destinations"},
    {"sinks"},
    {"processors", "outcomes"},
    {"endpoint"},
    {"middleware", "replay", "async_endpoint"},
    {"asgi", "source"},
    {"__init__"},
    {"frameworks", "watch"},
    {"collector"},
    {"commands"},
    {"__main__"},
]
"""Who may import whom: a room, those above it in this list; in a room, any direction but no circle."""


def imports_of(path):
    """The modules of ours that a file imports, by their names inside the package."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            inside = node.module.split(".")[1:]
            for alias in node.names:
                deeper = ".".join([*inside, alias.name])
                yield deeper if deeper in MODULES else ".".join(inside) or "__init__"


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def test_imports_run_only_downwards():
    rank = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    room_of = {name: name.partition(".")[0] for name in MODULES}
    assert set(room_of.values()) == rank.keys()
    uses = {name: set(imports_of(path)) for name, path in MODULES.items()}
    assert [(one, used) for one in uses for used in uses[one] if rank[room_of[used]] > rank[room_of[one]]] == []
    TopologicalSorter(uses).prepare()  # raises CycleError where there is a circle


def test_the_picture_of_the_house_has_every_room():
    (picture,) = re.findall(r"```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.DOTALL)
    rooms = {f"{path.name}/" if path.is_dir() else path.name for path in PACKAGE.iterdir()}
    assert set(re.findall(r"\w+(?:/|\.py\b)", picture)) == rooms - {"__init__.py", "__pycache__/", "py.typed"}


def test_exports_exactly_these_names():
    assert pixel_middleware.__all__ == [
        "BadPixel",
        "ConfigurationError",
        "Event",
        "PageEvent",
        "PixelError",
        "PixelMiddleware",
        "Processor",
        "Refusal",
        "Rejected",
        "RetryLater",
        "Sink",
        "Source",
        "Stats",
        "StorageError",
        "TrackEvent",
        "UnsendableEvent",
        "pixel_tag",
        "pixel_url",
    ]
    assert all(hasattr(pixel_middleware, name) for name in pixel_middleware.__all__)


def test_it_is_imported_without_a_warning(run):
    """As the tests of a user import it who makes warnings errors; WebOb imports the deprecated `cgi` on old Pythons."""
    for module in ("pixel_middleware", "pixel_middleware.asgi", "pixel_middleware.source", "pixel_middleware.sinks"):
        done = run([sys.executable, "-W", "error", "-c", f"import {module}"])
        assert (done.returncode, done.stderr) == (0, "")


def test_importing_it_needs_webob_alone(run):
    code = (
        "import sys; before = set(sys.modules); import pixel_middleware;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - sys.stdlib_module_names - {'cgi', 'legacy_cgi'}))"
    )
    done = run([sys.executable, "-W", "ignore", "-c", code])
    assert done.stdout == "['pixel_middleware', 'webob']\n"
