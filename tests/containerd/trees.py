"""A directory tree as a table that can be compared: everything that makes a file what it is."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


def describe(root: Path) -> dict[str, tuple[object, ...]]:
    """Every file below a directory with type, mode, owner, device, time, attributes, links and content.

    Times of the root and of whiteouts are left out: they are when the layer was unpacked.
    """
    inodes: dict[int, str] = {}
    found: dict[str, tuple[object, ...]] = {".": _entry(root, inodes, ".", timed=False)}
    for folder, folders, files in os.walk(root):
        for name in sorted((*folders, *files)):
            path = Path(folder, name)
            relative = str(path.relative_to(root))
            found[relative] = _entry(path, inodes, relative)
    return found


def _entry(path: Path, inodes: dict[int, str], relative: str, *, timed: bool = True) -> tuple[object, ...]:
    got = path.lstat()
    first = inodes.setdefault(got.st_ino, relative)
    whiteout = stat.S_ISCHR(got.st_mode) and got.st_rdev == 0
    xattrs = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }
    return (
        stat.filemode(got.st_mode),
        got.st_uid,
        got.st_gid,
        got.st_rdev,
        got.st_mtime_ns if timed and not whiteout else 0,
        first,
        tuple(sorted(xattrs.items())),
        _content(path, got),
    )


def _content(path: Path, got: os.stat_result) -> str:
    if stat.S_ISREG(got.st_mode):
        return f"{got.st_size} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return os.readlink(path) if stat.S_ISLNK(got.st_mode) else ""
