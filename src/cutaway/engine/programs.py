"""Where our other programs are: beside the one that runs, beside its interpreter, or on PATH."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def find_program(name: str) -> str | None:
    """The absolute path of a program of ours, or None."""
    for folder in (Path(sys.argv[0]).resolve().parent, Path(sys.executable).parent):
        if os.access(folder / name, os.X_OK):
            return os.fspath(folder / name)
    return shutil.which(name)
