"""What attacks on the runtime share besides their fixtures."""

from __future__ import annotations

import os
from pathlib import Path


def untouched(outside: Path) -> bool:
    """Whether it is still as it was made."""
    return sorted(os.listdir(outside)) == ["file"] and (outside / "file").read_text() == "host\n"
