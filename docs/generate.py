"""Brings the generated parts of docs/reference/ up to date; tests/test_reference.py fails where one is stale.

    python docs/generate.py

It needs the package with its extras `cli`, `prometheus` and `schema`. A part stands in its page between
`<!-- made by docs/generate.py: NAME -->` and `<!-- end -->`, and the function NAME makes it.
"""

import ast
import html
import logging
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import api
import click
import webob

from pixel_middleware import BadPixel, PixelMiddleware, settings
from pixel_middleware.commands.cli import cli
from pixel_middleware.destinations import Destination
from pixel_middleware.processors import verify_signature
from pixel_middleware.processors.schema import require_schema
from pixel_middleware.sinks import EventLog
from pixel_middleware.watch.metrics import PixelCollector

REFERENCE = Path(__file__).parent / "reference"
PART = re.compile("(<!-- made by docs/generate.py: ([a-z_]+) -->\n).*?(?=\n<!-- end -->)", re.DOTALL)


def options() -> str:
    """The table of `settings`, with the types of the signature."""
    middleware, _, _ = api.defined("pixel_middleware", "PixelMiddleware")
    (init,) = (one for one in middleware.body if getattr(one, "name", "") == "__init__")
    types = {one.arg: ast.unparse(one.annotation) for one in init.args.kwonlyargs}
    rows = [
        [
            f"`{row.name}`",
            f"`{types[row.name]}`",
            f"`{row.default!r}`",
            row.kind,
            html.escape(row.help, quote=False),
        ]
        for row in settings.SETTINGS
    ]
    return table("option", "type", "default", "as text", "", rows=rows)


def output_options() -> str:
    """What keeps the events, where no sink is made in Python."""
    return rows_of(settings.OUTPUT_SETTINGS)


def collector_options() -> str:
    """What only the collector has."""
    return rows_of(settings.SERVE_SETTINGS)


def rows_of(options: tuple[settings.Setting, ...]) -> str:
    rows = [[f"`{row.name}`", f"`{row.default!r}`", row.kind, row.help] for row in options]
    return table("option", "default", "as text", "", rows=rows)


def commands() -> str:
    """The help of each command, as `--help` prints it."""
    return "\n\n".join(
        f"## `{name}`\n\n```text\n{command.get_help(context)}\n```"
        for name, command, context in walk("pixel-middleware", cli)
    )


def walk(
    name: str, command: click.Command, parent: click.Context | None = None
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """A command and all below it, each with the line that runs it."""
    width = {"terminal_width": 100, "max_content_width": 100}
    context = click.Context(command, parent, name.split()[-1], **width, **command.context_settings)
    yield name, command, context
    if isinstance(command, click.Group):
        arguments = [one.make_metavar(context) for one in command.params if isinstance(one, click.Argument)]
        for word in command.list_commands(context):
            yield from walk(" ".join([name, *arguments, word]), command.commands[word], context)


def answers() -> str:
    """What requests like these are really answered."""
    event = "/track?writeKey=k&anonymousId=a&event=Buy"
    page = "/page?writeKey=k&anonymousId=a"
    few = {"max_params": 3, "max_depth": 2}
    rows = [
        answered("accepted, or dropped by a processor", event),
        answered("a required name is missing or blank", "/page?anonymousId=a"),
        answered("", "/page?writeKey=k"),
        answered("", "/track?writeKey=k&anonymousId=a"),
        answered("the key is not one of `write_keys`", page, write_keys=["shop"]),
        answered("over `max_query_bytes` (here 20)", page, max_query_bytes=20),
        answered("over `max_params` (here 3)", f"{page}&a=1&b=2", **few),
        answered("over `max_depth` (here 2)", f"{page}&a.b.c=1", **few),
        answered("over `max_event_bytes` (here 1024)", f"{page}&title={'x' * 1024}", max_event_bytes=1024),
        answered("a name, or a part of one, is empty", f"{page}&a..b=x"),
        answered("a name is both a value and an object", f"{page}&a=x&a.b=y"),
        answered("a NUL", f"{page}%00"),
        answered("`verify_signature` refused it", event, processors=[verify_signature("s3cret")]),
        answered("`require_schema` refused it", event, processors=[require_schema({"required": ["userId"]})]),
        answered("a processor of your own refused it", event, processors=[refuse]),
        answered("the sink or a processor raised", event, sink=fail),
        answered("another path below the prefix", "/identify"),
        answered("another method", "/page", method="PUT"),
    ]
    return table("when", "request", "answer: status, `X-Pixel-Error`, body", rows=rows)


def refuse(event: Any, request: webob.Request) -> Any:
    raise BadPixel("unknown_plan", "properties.plan must be free or pro")


def fail(event: Any) -> None:
    raise OSError("no space left")


def answered(when: str, path: str, method: str = "GET", **given: Any) -> list[str]:
    """A row: the request, and what came back."""
    answer = ask(path, method, **given)
    error = answer.headers.get("X-Pixel-Error")
    shown = path.replace("x" * 1024, "xxx...")
    reason = f" `{error}`" if error else ""
    return [when, f"`{method} {shown}`", f"{answer.status_int}{reason}: {answer.text.strip()}"]


def ask(path: str, method: str = "GET", sink: Any = lambda event: None, **given: Any) -> webob.Response:
    app = PixelMiddleware(lambda environ, start_response: [], sink, **given)
    return webob.Request.blank(f"/pixel/v1{path}", method=method).get_response(app)


def headers() -> str:
    """The headers of an accepted pixel."""
    lines = [f"{name}: {value}" for name, value in ask("/page?writeKey=k&anonymousId=a").headerlist]
    return "\n".join(["```text", *lines, "```"])


class Anywhere(Destination):
    """Takes everything: only its metrics are asked for."""

    def send(self, events: Any) -> None:
        pass


def metrics() -> str:
    """What the collector for Prometheus exports, with its own help."""
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(EventLog(Path(directory) / "events.db", {"lake": Anywhere()})) as log,
    ):
        app = PixelMiddleware(lambda environ, start_response: [], log)
        webob.Request.blank("/pixel/v1/page?writeKey=k&anonymousId=a").get_response(app)
        log.flush(60)
        families = list(PixelCollector(app, log).collect())
    rows = []
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = [f"`{label}`" for label in family._labelnames]  # also of one that has no sample yet
        rows.append([f"`{name}`", family.type, ", ".join(labels), family.documentation])
    return table("metric", "type", "labels", "", rows=rows)


def public_api() -> str:
    """Signatures and docstrings of all public names."""
    return "\n\n".join(filter(None, api.sections()))


def table(*heads: str, rows: list[list[str]]) -> str:
    """A Markdown table; a bar would end its cell."""
    cells = [[one.replace("|", "\\|") for one in row] for row in [heads, ["---"] * len(heads), *rows]]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


PARTS: dict[str, Callable[[], str]] = {
    make.__name__: make
    for make in (options, output_options, collector_options, commands, answers, headers, metrics, public_api)
}


def fresh(page: Path) -> str:
    """The text of a page with its generated parts made anew."""
    return PART.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n", page.read_text("utf-8"))


if __name__ == "__main__":
    logging.disable()  # of requests that are meant to fail
    for page in sorted(REFERENCE.glob("*.md")):
        page.write_text(fresh(page), "utf-8")
