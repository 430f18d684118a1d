"""What changed from one tree to another.

Two files are the same when type, mode, owner, device, capabilities, size, time and link target are;
bytes are not compared, as in containerd, unless a time has no fraction and so may hide a change.

A container may run in the newer tree meanwhile and swap directories for links, so that everything is
opened by openat2(2) inside its tree, and nothing last is followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from cutaway.containerd.unpack.paths import DIRECTORY, open_in_root

_CAPABILITY = "security.capability"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Change:
    """One path, relative to the root; parents come before what is in them."""

    path: bytes
    stat: os.stat_result | None
    """What is there now; None for what is gone."""


def changes(old: int | None, new: int) -> Iterator[Change]:
    """All changes between two open directories, in order of names; without an old one, all that is there."""
    todo: list[Iterator[tuple[bytes, os.stat_result | None, os.stat_result | None]]] = []
    todo.append(_pairs(old, new, b".", b""))
    while todo:
        found = next(todo[-1], None)
        if found is None:
            todo.pop()
            continue
        path, before, now = found
        if now is None or before is None or not _same(old, new, path, before, now):
            yield Change(path, now)
        if now is not None and stat.S_ISDIR(now.st_mode):
            was_directory = before is not None and stat.S_ISDIR(before.st_mode)
            todo.append(_pairs(old if was_directory else None, new, path, path + b"/"))


def _pairs(
    old: int | None, new: int, folder: bytes, prefix: bytes
) -> Iterator[tuple[bytes, os.stat_result | None, os.stat_result | None]]:
    before = _listing(old, folder) if old is not None else {}
    now = _listing(new, folder)
    for name in sorted({*before, *now}):
        yield prefix + name, before.get(name), now.get(name)


def _listing(root: int, folder: bytes) -> dict[bytes, os.stat_result]:
    try:
        fd = open_in_root(root, folder, DIRECTORY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return {}  # it has gone in the meantime
    try:
        found = {}
        for name in map(os.fsencode, os.listdir(fd)):
            try:
                found[name] = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
        return found
    finally:
        os.close(fd)


def _same(old: int | None, new: int, path: bytes, before: os.stat_result, now: os.stat_result) -> bool:
    if old is None:
        return False
    if (before.st_mode, before.st_uid, before.st_gid) != (now.st_mode, now.st_uid, now.st_gid):
        return False
    if stat.S_ISLNK(now.st_mode):
        return before.st_mtime_ns == now.st_mtime_ns and read_link(old, path) == read_link(new, path)
    if stat.S_ISDIR(now.st_mode):
        return capability(old, path) == capability(new, path)
    if (before.st_size, before.st_rdev, before.st_mtime_ns) != (now.st_size, now.st_rdev, now.st_mtime_ns):
        return False
    if not stat.S_ISREG(now.st_mode):
        return True
    if capability(old, path) != capability(new, path):
        return False
    return now.st_mtime_ns % 1_000_000_000 != 0 or _same_bytes(old, new, path)


def read_link(root: int, path: bytes) -> bytes:
    """Where a link leads. Raises `OSError`."""
    fd = open_in_root(root, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.readlink(b"", dir_fd=fd)
    finally:
        os.close(fd)


def capability(root: int, path: bytes) -> bytes:
    """A file's capabilities as they are kept, or nothing. Raises `OSError`."""
    fd = open_in_root(root, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.getxattr(fd, _CAPABILITY)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _same_bytes(old: int, new: int, path: bytes) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    one = open_in_root(old, path, flags)
    try:
        other = open_in_root(new, path, flags)
        try:
            while (data := os.read(one, _CHUNK)) == os.read(other, _CHUNK):
                if not data:
                    return True
            return False
        finally:
            os.close(other)
    finally:
        os.close(one)
