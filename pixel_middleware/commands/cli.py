"""The command line: `pixel-middleware serve`, `log`, `replay`, `tail`."""

import click

from pixel_middleware.commands.export import export
from pixel_middleware.commands.forget import forget
from pixel_middleware.commands.log import log
from pixel_middleware.commands.prune import prune
from pixel_middleware.commands.replay import replay
from pixel_middleware.commands.report import report
from pixel_middleware.commands.serve import serve
from pixel_middleware.commands.tail import tail
from pixel_middleware.commands.terminal import log_to_stderr


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pixel-middleware")
def cli() -> None:
    """Collect analytics events from pixels."""
    log_to_stderr()


for command in (serve, tail, log, report, export, prune, forget, replay):
    cli.add_command(command)
