"""What stands in an extra is imported where it is used, with an error that names the extra to install."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed_by(who: str, distribution: str, extra: str) -> Iterator[None]:
    """Around an import: if `distribution` is missing, raises a `ModuleNotFoundError` that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{who} needs {distribution}: pip install 'pixel-middleware[{extra}]'", name=error.name
        ) from error
