"""`pixel-middleware serve`: a collector of its own, on granian (extra `[serve]`)."""

import gc
import json
import multiprocessing
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import click

from pixel_middleware import settings
from pixel_middleware.collector.app import example
from pixel_middleware.collector.asgi import AsyncCollector
from pixel_middleware.collector.config import Config, Made, load
from pixel_middleware.commands.following import POLL_S, follow
from pixel_middleware.commands.terminal import bad_parameters, line, log_to_stderr, opened_sink
from pixel_middleware.sinks import EventLog
from pixel_middleware.watch.live import SECRET
from pixel_middleware.wire.printable import printable

BACKLOG = 2048  # connections that wait to be accepted
CONNECTIONS = 1024  # of a worker
HEAD_BYTES = 131072  # of a request: twice the longest query that we take, and its headers
HEAD_S = 10  # in which a request's head must come, also on a connection that is kept
GRACE_S = 10  # for requests under way when it is to stop; then workers are killed
LINES = 30  # printed at once, at most, of what came meanwhile

_METAVARS = {"a whole number": "NUMBER", "a path": "FILE", "a name or an address": "HOST"}
_ROWS = {row.name: row for row in settings.COLLECTOR_SETTINGS}


def _flag(name: str, flag: str = "", **more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The flag of an option of the table; its text is read as in a file or the environment."""
    row = _ROWS[name]
    shown = "" if row.default in (None, ()) or more.get("is_flag") else f"  [default: {row.default}]"
    flag = flag or f"--{name.replace('_', '-')}"
    more |= {"metavar": more.get("metavar", _METAVARS.get(row.kind))}
    return click.option(flag, name, default=None, **{"help": f"{row.help[0].upper()}{row.help[1:]}.{shown}"} | more)


@click.command()
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="File of options, TOML.")
@click.option("--check", is_flag=True, help="Say whether the options are right, and start nothing.")
@_flag("host")
@_flag("port")
@_flag("workers")
@_flag("threads")
@_flag("output")
@_flag("forward_to", metavar="[NAME=]URL", multiple=True, help="Send events on to URL; may be repeated.")
@_flag("write_keys", "--write-key", metavar="KEY", multiple=True, help="Accept KEY, and no other; may be repeated.")
@_flag("trusted_proxies")
@_flag("allow", metavar="NETWORK", multiple=True, help="Who may see the live view without its token.")
@_flag("live", "--no-live", is_flag=True, flag_value="false", help="Show no events at /.")
@_flag("quiet", is_flag=True, flag_value="true", help="Print no events.")
def serve(config: Path | None, check: bool, **given: Any) -> None:
    """Collect events, and show them at /.

    Prints a line for each, until Ctrl-C. Every option may also stand in the file, or in the environment as
    PIXEL_<OPTION>; a flag overrides the environment, and that the file.
    """
    flags = {name: value for name, value in given.items() if value not in (None, ())}
    with bad_parameters():
        try:
            loaded = load(config, flags)
            made = loaded.made(touch=not check)
        except ModuleNotFoundError as error:  # which says what extra to install
            raise click.ClickException(str(error)) from error
    if check:
        _say_right(loaded, made)
        return
    try:
        from granian import Granian
        from granian.constants import HTTPModes, Interfaces
        from granian.http import HTTP1Settings
        from granian.log import LogLevels
    except ModuleNotFoundError as error:
        raise click.ClickException("serve needs granian: pip install 'pixel-middleware[serve]'") from error
    values = made.values
    with ExitStack() as reservation:
        host, port = _reserve(values["host"], values["port"], reservation)  # before a file is made
        token = _prepare(made)
        multiprocessing.set_start_method("spawn", force=True)  # a fork would inherit our threads' locks
        server = Granian(
            "pixel-middleware",
            host,
            port,
            interface=Interfaces.ASGINL,
            websockets=False,
            workers=values["workers"],
            http=HTTPModes.http1,
            backlog=BACKLOG,
            backpressure=CONNECTIONS,
            http1_settings=HTTP1Settings(header_read_timeout=HEAD_S * 1000, max_buffer_size=HEAD_BYTES),
            log_level=LogLevels.error,
            log_dictconfig=_STDERR,
            respawn_failed_workers=True,
            workers_kill_timeout=GRACE_S,
        )
        announce = partial(_announce, host, port, made, token)
        server.on_startup(lambda: threading.Thread(target=announce, name="pixel-announce", daemon=True).start())
        server.serve(target_loader=partial(_worker, loaded, token), wrap_loader=False)


_HANDLER = {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}
_STDERR = {"handlers": {"console": _HANDLER, "access": _HANDLER}}


def _worker(config: Config, token: str | None) -> AsyncCollector:
    """The app of a worker, in its process."""
    log_to_stderr()
    collector = AsyncCollector(config, token)
    gc.freeze()  # or all that is made only once is looked through again and again: 10 ms of each 100th pixel
    return collector


def _say_right(loaded: Config, made: Made) -> None:
    onward = f", and on to {', '.join(map(printable, made.destinations))}" if made.destinations else ""
    folder = os.path.dirname(made.values["output"]) or "."
    if not os.access(folder, os.W_OK | os.X_OK):
        raise click.ClickException(f"{made.values['output']} cannot be made: {folder} cannot be written")
    click.echo(f"The options are right: events go into {made.values['output']}{onward}.")


def _prepare(made: Made) -> str | None:
    """See that the output can be used, and say what is new to it; the token of the live view."""
    with closing(opened_sink(Path(made.values["output"]), made.destinations)) as sink:
        if not made.values["live"]:
            return None
        return sink.secret(SECRET) if isinstance(sink, EventLog) else secrets.token_urlsafe()


def _reserve(host: str, port: int, reservation: ExitStack) -> tuple[str, int]:
    """The address and the port to listen on, where nobody does; a free one if it is 0."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        socket.create_server(address[:2], family=family).close()  # fails where somebody listens
        taken = reservation.enter_context(socket.socket(family))
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):  # as granian's own
            taken.setsockopt(socket.SOL_SOCKET, option, 1)
        taken.bind(address[:2])
    except UnicodeError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: that is no name of a host") from error
    except socket.gaierror as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from error
    except OSError as error:  # whose text names the address again
        raise click.ClickException(f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}") from error
    name: tuple[str, int] = taken.getsockname()[:2]
    return name


def _announce(host: str, port: int, made: Made, token: str | None) -> None:
    """Say where it listens, once it does, and what comes, in a thread: who does not read it keeps no pixel waiting."""
    while True:
        with suppress(OSError):
            socket.create_connection((host, port)).close()
            break
        time.sleep(0.02)
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    output, prefix = made.values["output"], made.values["prefix"]
    onward = f", and on to {', '.join(map(printable, made.destinations))}" if made.destinations else ""
    lines = [f"Collecting pixels at {address}{prefix}/ into {output}{onward}. Press Ctrl-C to stop."]
    if token is not None and not made.values["quiet"]:  # the journal of a service is no place for it
        lines.append(f"Watch them come:      {address}/?token={token}")
    keys = made.values["write_keys"]
    write_key = "demo" if keys is None or callable(keys) else min(keys)
    lines.append(f"Paste into a browser: {address}{example(prefix, write_key)}")
    with suppress(OSError, click.ClickException):  # nobody reads it any more, or the file is gone
        if made.values["quiet"]:
            _print(*lines)
            return
        told = follow(Path(output), 0, LINES)
        first = next(told)  # what comes after these lines are read is told
        _print(*lines)
        for text in chain([first], told):  # pragma: no branch - it never ends
            if text is None:
                time.sleep(POLL_S)
            elif isinstance(text, int):
                _print(f"... and {text:,} more")
            else:
                with suppress(ValueError):  # half a line
                    _print(line(json.loads(text)))


def _print(*lines: str) -> None:
    # Past Python's own buffer: the exit would wait for its lock.
    os.write(sys.stdout.fileno(), "".join(f"{text}\n" for text in lines).encode())
