"""Disks of our own to measure on: for data an empty ext4 with a journal, for state a tmpfs, as distributions
have /run.

What unpacking costs depends on the file system more than on who unpacks. One without a journal, as some
virtual machines have it, looks at every inode that was freed in the last five minutes before it gives one
out (Linux, ext4 `recently_deleted`): after some rounds that alone is three quarters of a pull.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

SIZE = 24 << 30


@contextlib.contextmanager
def memory(target: Path) -> Iterator[Path]:
    """A mounted tmpfs."""
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "cutaway-bench", target], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


@contextlib.contextmanager
def disk(base: Path) -> Iterator[Path]:
    """A mounted directory; its bytes lie in a sparse file of `base`."""
    image, target = base / "disk.img", base / "d"
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    target.mkdir()
    subprocess.run(["mount", "-o", "loop", image, target], check=True)
    try:
        yield target
    finally:
        os.sync()
        subprocess.run(["umount", target], check=True)
        image.unlink()
