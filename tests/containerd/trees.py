"""A directory tree as a table that can be compared: everything that makes a file what it is."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

# 2024: later than every entry in `layers`.
LATEST = 1_704_067_200_000_000_000


def describe(root: Path, latest: int = LATEST) -> dict[str, tuple[object, ...]]:
    """Every file below a directory with type, mode, owner, device, time, attributes, links and content.

    A time after `latest`, that of the last entry of all layers, is that of unpacking, which is never the
    same; nanoseconds since the epoch.
    """
    inodes: dict[int, str] = {}
    found: dict[str, tuple[object, ...]] = {".": _entry(root, inodes, ".", latest)}
    for folder, folders, files in os.walk(root):
        for name in sorted((*folders, *files)):
            path = Path(folder, name)
            relative = str(path.relative_to(root))
            found[relative] = _entry(path, inodes, relative, latest)
    return found


def _entry(path: Path, inodes: dict[int, str], relative: str, latest: int) -> tuple[object, ...]:
    got = path.lstat()
    first = inodes.setdefault(got.st_ino, relative)
    xattrs = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }
    return (
        stat.filemode(got.st_mode),
        got.st_uid,
        got.st_gid,
        got.st_rdev,
        got.st_mtime_ns if got.st_mtime_ns < latest else "when unpacked",
        first,
        tuple(sorted(xattrs.items())),
        _content(path, got),
    )


def _content(path: Path, got: os.stat_result) -> str:
    if stat.S_ISREG(got.st_mode):
        return f"{got.st_size} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return os.readlink(path) if stat.S_ISLNK(got.st_mode) else ""
