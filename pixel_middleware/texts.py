"""What the texts of a configuration mean: switches, numbers, objects to import, `{env:NAME}` and `{file:PATH}`."""

import difflib
import importlib
import os
import pkgutil
import re
from collections.abc import Mapping
from typing import Any

from pixel_middleware.errors import ConfigurationError

MOST_BYTES = 65536  # of a file; passwords and keys are shorter

_REFERENCE = re.compile(r"\{(env|file):([^{}]+)\}")


class References:
    """Puts what `{env:NAME}` and `{file:PATH}` refer to into texts, and hides it in errors. Not thread-safe.

    Paths are relative to `folder`.
    """

    def __init__(self, folder: str | os.PathLike[str] = "", environ: Mapping[str, str] = os.environ) -> None:
        self.folder = os.fspath(folder)
        self._environ = environ
        self._found: dict[str, str] = {}

    def fill(self, option: str, given: Any) -> Any:
        """`given` with its references filled in, also those inside lists and tables. Raises `ConfigurationError`."""
        if isinstance(given, str):
            return _REFERENCE.sub(lambda found: self._referred(option, found[1], found[2]), given)
        if isinstance(given, Mapping):
            return {name: self.fill(option, value) for name, value in given.items()}
        if isinstance(given, list | tuple):
            return [self.fill(option, value) for value in given]
        return given

    def hidden(self, error: ConfigurationError) -> ConfigurationError:
        """The error with the references in place of what they refer to, which may be secret."""
        sentence = str(error)
        for value in sorted(self._found, key=len, reverse=True):
            for form in {value, repr(value)[1:-1]} if len(value) > 3 else ():  # a number is no secret
                sentence = sentence.replace(form, self._found[value])
        return ConfigurationError(error.option, sentence)

    def _referred(self, option: str, kind: str, name: str) -> str:
        reference = f"{{{kind}:{name}}}"
        if kind == "env":
            if name not in self._environ:
                raise ConfigurationError(
                    option, f"{option}: {reference}: there is no such environment variable; set it"
                )
            value = self._environ[name]
        else:
            try:
                with open(os.path.join(self.folder, name), "rb") as file:
                    content = file.read(MOST_BYTES + 1)
                value = content.decode().removesuffix("\n").removesuffix("\r")
            except OSError as error:
                raise ConfigurationError(option, f"{option}: {reference} cannot be read: {error.strerror}") from error
            except UnicodeDecodeError:
                raise ConfigurationError(option, f"{option}: {reference} must hold text in UTF-8") from None
            if len(content) > MOST_BYTES:
                raise ConfigurationError(option, f"{option}: {reference} must hold at most {MOST_BYTES:,} bytes")
        self._found[value] = reference
        return value


def plain(option: str, text: str) -> str:
    """The text itself."""
    return text


def switch(option: str, text: str) -> bool:
    """`true` or `false`, or what people write instead."""
    if text.lower() not in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        raise ConfigurationError.must_be(option, "true or false", text)
    return text.lower() in ("true", "yes", "on", "1")


def whole_number(option: str, text: str) -> int:
    """Digits."""
    try:
        return int(text)
    except ValueError:
        raise ConfigurationError.must_be(option, "a whole number", text) from None


def number(option: str, text: str) -> float:
    """A number, whole or not."""
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError.must_be(option, "a number", text) from None


def words(option: str, text: str) -> list[str]:
    """What stands between spaces and line ends."""
    return text.split()


def items(option: str, text: str) -> list[str]:
    """What stands between spaces, commas and line ends."""
    return text.replace(",", " ").split()


def named(option: str, text: str) -> Any:
    """What `package.module:name` names."""
    try:
        return pkgutil.resolve_name(text)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError.must_be(
            option, f"package.module:name of something to import ({error})", text
        ) from error


def keys(option: str, text: str) -> Any:
    """Write keys, or the callable that knows them."""
    return named(option, text) if ":" in text else items(option, text)


def processors(option: str, text: str) -> list[Any]:
    """Each as `processor` says it."""
    return [processor(option, word) for word in items(option, text)]


_OURS = "pixel_middleware.processors"
_ELSEWHERE = {"judge_open": "opens", "drop_machines": "opens", "require_schema": "schema"}
"""Processors whose modules need an extra, so that `pixel_middleware.processors` does not import them."""


def processor(option: str, text: str) -> Any:
    """What `package.module:name` names, or one of ours by its name alone."""
    if ":" in text or "." in text:
        return named(option, text)
    if text in _ELSEWHERE:
        return named(option, f"{_OURS}.{_ELSEWHERE[text]}:{text}")
    ours = importlib.import_module(_OURS)
    if text not in ours.__all__:
        nearest = difflib.get_close_matches(text, [*ours.__all__, *_ELSEWHERE], n=1, cutoff=0)[0]
        raise ConfigurationError.must_be(option, f"one of ours, like {nearest}, or package.module:name", text)
    return getattr(ours, text)
