"""`pixel-middleware serve`: a collector of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIApplication

import click
from waitress.server import create_server

from pixel_middleware.collector.app import EXAMPLE, collecting_app
from pixel_middleware.commands.terminal import FORWARD_TO, OUTPUT, bad_parameters, line
from pixel_middleware.destinations import named
from pixel_middleware.events import Event, Sink
from pixel_middleware.sinks.files import sink_to


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: any free one.")
@OUTPUT
@FORWARD_TO
@click.option("--allow", metavar="NETWORK", multiple=True, help="Who may see the live view, beside this machine.")
def serve(host: str, port: int, output: Path, forward_to: str | None, allow: tuple[str, ...]) -> None:
    """Collect events, and show them at /.

    Prints one line for each, until Ctrl-C.
    """
    with bad_parameters():
        sink = sink_to(output, dict([named(forward_to)]) if forward_to else None)
        app = collecting_app(_announced(sink), allow)
    server = _listen(app, host, port)
    address = f"http://{host}:{server.effective_port}"
    onward = f", and on to {forward_to}" if forward_to else ""
    click.echo(f"Collecting pixels at {address}/pixel/v1/ into {output}{onward}. Press Ctrl-C to stop.")
    click.echo(f"Watch them come:      {address}/")
    click.echo(f"Paste into a browser: {address}{EXAMPLE}")
    server.run()


def _announced(sink: Sink) -> Callable[[Event], None]:
    """`sink`, with one line on the terminal for each event that it took."""

    def announce(event: Event) -> None:
        sink(event)
        click.echo(line(event))

    return announce


def _listen(app: WSGIApplication, host: str, port: int) -> Any:
    try:
        return create_server(app, host=host, port=port)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from error
