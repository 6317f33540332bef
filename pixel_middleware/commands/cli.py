"""The command line: `pixel-middleware serve`, `replay`, `tail`."""

import click

from pixel_middleware.commands.replay import replay
from pixel_middleware.commands.serve import serve
from pixel_middleware.commands.tail import tail


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pixel-middleware")
def cli() -> None:
    """Collect analytics events from pixels."""


for command in (serve, tail, replay):
    cli.add_command(command)
