"""The command line: `pixel-middleware serve` is a collector of its own, for a first look or a small site."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO
from wsgiref.types import StartResponse, WSGIEnvironment

import click
from waitress.server import create_server

from pixel_middleware.events import Event, to_json
from pixel_middleware.middleware import PixelMiddleware, Sink

EXAMPLE = "/pixel/v1/track?writeKey=demo&anonymousId=me&event=Hello"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pixel-middleware")
def cli() -> None:
    """Collect analytics events from pixels."""


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 takes a free one."
)
@click.option(
    "--output",
    default="events.jsonl",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to append the events to, one JSON line each.",
)
def serve(host: str, port: int, output: Path) -> None:
    """Collect events until Ctrl-C, and print one line for each."""
    sink = _sink_to(output)
    server = _listen(PixelMiddleware(_not_here, _announced(sink)), host, port)
    address = f"http://{host}:{server.effective_port}"
    click.echo(f"Collecting pixels at {address}/pixel/v1/ into {output}. Press Ctrl-C to stop.")
    click.echo(f"Paste into a browser: {address}{EXAMPLE}")
    server.run()


def _sink_to(output: Path) -> Sink:
    try:
        return _json_lines(output.open("a", encoding="utf-8"))
    except OSError as error:
        raise click.BadParameter(f"cannot write to {output}: {error.strerror}", param_hint="--output") from error


def _json_lines(file: TextIO) -> Sink:
    lock = threading.Lock()

    def append(event: Event) -> None:
        line = to_json(event) + "\n"
        with lock:
            file.write(line)
            file.flush()

    return append


def _announced(sink: Sink) -> Callable[[Event], None]:
    """`sink`, with one line on the terminal for each event that it took."""

    def announce(event: Event) -> None:
        sink(event)
        label = event.get("event") or event.get("name") or ""
        who = event.get("anonymousId") or event.get("userId")
        click.echo(f"{event['receivedAt']}  {event['type']:5}  {_printable(label)}  by {_printable(who)}")

    return announce


def _printable(text: Any) -> str:
    """What a client sent, without the control characters that could take over a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def _listen(app: PixelMiddleware, host: str, port: int) -> Any:
    try:
        return create_server(app, host=host, port=port)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _not_here(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """What a collector has beside its pixels: nothing."""
    body = f"This is a pixel collector. Try {EXAMPLE}\n".encode()
    start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
