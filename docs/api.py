"""The page of the public API: signatures and docstrings, read from the source, so that no extra has to be there."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pixel_middleware

PACKAGE = Path(pixel_middleware.__file__).parent
Definition = ast.ClassDef | ast.FunctionDef | ast.Assign

MODULES: dict[str, tuple[str, ...]] = {
    "pixel_middleware": (),
    "pixel_middleware.asgi": ("PixelMiddleware",),
    "pixel_middleware.sinks": (),
    "pixel_middleware.destinations": (),
    "pixel_middleware.processors": (),
    "pixel_middleware.processors.opens": ("judge_open", "drop_machines"),
    "pixel_middleware.processors.schema": ("require_schema",),
    "pixel_middleware.frameworks.django": ("PixelMiddleware", "PixelsConfig"),
    "pixel_middleware.frameworks.flask": ("Pixels",),
    "pixel_middleware.frameworks.pyramid": ("includeme", "add_pixels"),
    "pixel_middleware.collector": (),
    "pixel_middleware.watch.live": ("LiveView",),
    "pixel_middleware.watch.metrics": ("PixelCollector",),
}
"""The import paths that users type, and the public names of each; its `__all__`, where none are given."""


def sections() -> Iterator[str]:
    """The page, part by part."""
    for module in MODULES:
        yield f"## `{module}`"
        for name in public_names(module):
            yield from described(name, *defined(module, name))


def public_names(module: str) -> tuple[str, ...]:
    """The names that `MODULES` has for it, or its `__all__`."""
    if MODULES[module]:
        return MODULES[module]
    body = ast.parse(path_of(module).read_text("utf-8")).body
    (names,) = (one.value for one in body if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "__all__")
    return tuple(ast.literal_eval(names))


def path_of(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def defined(module: str, name: str) -> tuple[Definition, str, list[str]]:
    """What defines a name, its docstring, and the lines of the source, in whichever module it was imported from."""
    source = path_of(module).read_text("utf-8")
    body = ast.parse(source).body
    for one, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(one, ast.ImportFrom) and one.module and name in [alias.name for alias in one.names]:
            return defined(one.module, name)
        if isinstance(one, ast.ClassDef | ast.FunctionDef) and one.name == name:
            return one, ast.get_docstring(one) or "", source.splitlines()
        if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == name:
            return one, string_of(following), source.splitlines()
    raise LookupError(f"{module} has no {name}")


def described(name: str, node: Definition, text: str, lines: list[str]) -> Iterator[str]:
    """A name's section: its signature, its docstring, and the fields and methods of a class."""
    yield f"### `{name}`"
    if isinstance(node, ast.Assign):
        yield block(ast.unparse(node))
        yield as_markdown(text)
        return
    if isinstance(node, ast.FunctionDef):
        yield block(signature(node, lines))
        yield as_markdown(text)
        return
    parents = [name for name in map(ast.unparse, node.bases) if not name.startswith("_")]
    bases = f"({', '.join(parents)})" if parents else ""
    methods = [one for one in node.body if isinstance(one, ast.FunctionDef)]
    init = next((one for one in methods if one.name == "__init__"), None)
    yield block(signature(init, lines).replace("def __init__", f"class {name}") if init else f"class {name}{bases}")
    yield as_markdown(text)
    yield "\n".join(fields(node))
    for method in methods:
        if not method.name.startswith("_") and (text := ast.get_docstring(method) or ""):
            yield block(signature(method, lines))
            yield as_markdown(text)


def fields(node: ast.ClassDef) -> Iterator[str]:
    """The fields of a `TypedDict` or `NamedTuple`, each with the string below it."""
    for one, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(one, ast.AnnAssign):
            text = " ".join(string_of(following).split())
            yield f"- `{ast.unparse(one)}`{f': {text}' if text else ''}"


def string_of(node: Any) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return inspect.cleandoc(node.value.value)
    return ""


def signature(node: ast.FunctionDef, lines: list[str]) -> str:
    """As it stands in the source, without `self`."""
    first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
    text = textwrap.dedent("\n".join(lines[first - 1 : node.body[0].lineno - 1]))
    text = re.sub(r"\((\s*)(self|cls)(,\s*|(?=\)))", r"(\1", text, count=1)
    return re.sub(r" -> None:$|:$", "", text)


def block(text: str) -> str:
    return f"```py\n{text}\n```"


def as_markdown(docstring: str) -> str:
    """Its arguments as a list; the rest of a docstring is Markdown already."""
    before, found, after = docstring.partition("\nArgs:\n")
    if not found:
        return docstring
    arguments, _, rest = after.partition("\n\n")
    entries = re.split(r"\n    (?=\S)", "\n" + arguments)[1:]
    listed = [re.sub(r"^([\w, *]+): ", lambda found: f"- `{found[1]}`: ", " ".join(one.split())) for one in entries]
    return "\n".join([before, *listed, "", rest]).strip()
