"""What attacks on the runtime share besides their fixtures."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def console_socket(place: Path) -> Iterator[Path]:
    """A socket that takes terminals and does nothing with them."""
    path = place / "console"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        yield path
    path.unlink()


def untouched(outside: Path) -> bool:
    """Whether it is still as it was made."""
    return sorted(os.listdir(outside)) == ["file"] and (outside / "file").read_text() == "host\n"
