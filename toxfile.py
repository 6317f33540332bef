"""Lets tox find the Pythons that pyenv installed: they stand on PATH only as shims that refuse to run."""

import os
from pathlib import Path

_pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
os.environ["PATH"] = os.pathsep.join(
    [*map(str, sorted(_pyenv.glob("versions/3.1[1-9]*/bin"))), os.environ.get("PATH", os.defpath)]
)
