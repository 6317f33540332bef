"""`pixel-middleware serve`: a collector of its own."""

import os
import socket
from pathlib import Path

import click
from waitress.server import create_server

from pixel_middleware.collector.app import EXAMPLE, collecting_app
from pixel_middleware.commands.terminal import FORWARD_TO, OUTPUT, bad_parameters, line, opened_sink
from pixel_middleware.destinations import Destination
from pixel_middleware.events import Event
from pixel_middleware.sinks import EventLog
from pixel_middleware.wire.printable import printable


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: any free one.")
@OUTPUT
@FORWARD_TO
@click.option("--allow", metavar="NETWORK", multiple=True, help="Who may see the live view without its token.")
def serve(host: str, port: int, output: Path, destinations: dict[str, Destination], allow: tuple[str, ...]) -> None:
    """Collect events, and show them at /.

    Prints one line for each, until Ctrl-C.
    """
    listener = _listen(host, port)  # before a file is made
    with bad_parameters():
        sink = opened_sink(output, destinations)

        def announce(event: Event) -> None:
            sink(event)
            click.echo(line(event))

        app = collecting_app(announce, allow, sink if isinstance(sink, EventLog) else None)
    server = create_server(app, sockets=[listener])
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    onward = f", and on to {', '.join(map(printable, destinations))}" if destinations else ""
    click.echo(f"Collecting pixels at {address}/pixel/v1/ into {output}{onward}. Press Ctrl-C to stop.")
    click.echo(f"Watch them come:      {address}/?token={app.live_token}")
    click.echo(f"Paste into a browser: {address}{EXAMPLE}")
    if isinstance(sink, EventLog):
        sink.start()
    server.run()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except UnicodeError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: that is no name of a host") from error
    except socket.gaierror as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from error
    except OSError as error:  # whose text names the address again
        raise click.ClickException(f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}") from error
