"""The command's entry point, which also runs where its extra is not installed, to say so."""

import sys


def main() -> None:
    """Run the command line; exit 1 with a hint if the extra `[cli]` is missing."""
    try:
        from pixel_middleware.commands.cli import cli
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("pixel_middleware"):
            raise
        sys.exit(f"{error.name} is not installed; the command needs: pip install 'pixel-middleware[cli]'")
    cli(prog_name="pixel-middleware")


if __name__ == "__main__":
    main()
