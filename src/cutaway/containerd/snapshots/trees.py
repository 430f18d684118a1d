"""Directory trees that images and containers have filled: measured, removed, copied.

Their depth is whatever their maker chose, beyond any path length and recursion limit, so nothing here
recurses, and no more than a few directories are open at a time.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cutaway.errors import Aborted
from cutaway.faults import point

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# stat(2): st_blocks counts these, whatever the file system's block size.
_BLOCK = 512


class Step(NamedTuple):
    """One stop on a tour: an entry of the directory open as `folder`, or leaving that directory.

    A directory comes twice: with its name, before the tour goes down into it, and again with an empty
    name when all in it was seen and it is still open.
    """

    folder: int
    name: str
    stat: os.stat_result


def tour(root: Path) -> Iterator[Step]:
    """Everything below a directory, depth first, names in order; the root itself only on leaving.

    Goes back up by `..`, so that one directory is open at a time. What vanishes on the way is left out.
    """
    folder = os.open(root, _DIRECTORY)
    trail: list[tuple[tuple[int, int], list[str]]] = [(_identity(os.fstat(folder)), _names(folder))]
    try:
        while trail:
            names = trail[-1][1]
            if names:
                name = names.pop()
                found = _lstat(folder, name)
                if found is None:
                    continue
                yield Step(folder, name, found)
                if stat.S_ISDIR(found.st_mode) and (inner := _enter(folder, name)) is not None:
                    os.close(folder)
                    folder = inner
                    trail.append((_identity(os.fstat(folder)), _names(folder)))
                continue
            yield Step(folder, "", os.fstat(folder))
            trail.pop()
            if trail:
                upper = os.open("..", _DIRECTORY, dir_fd=folder)
                os.close(folder)
                folder = upper
                if _identity(os.fstat(folder)) != trail[-1][0]:
                    raise Aborted(f"{root} changed while it was read: directories were moved")
    finally:
        os.close(folder)


def _names(folder: int) -> list[str]:
    return sorted(os.listdir(folder), reverse=True)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _lstat(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _enter(folder: int, name: str) -> int | None:
    try:
        return os.open(name, _DIRECTORY, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None


def usage(root: Path) -> tuple[int, int]:
    """Bytes on the disk and number of inodes of a directory and all below it; links count once."""
    size, seen = 0, set[tuple[int, int]]()
    for step in tour(root):
        if _identity(step.stat) not in seen:
            seen.add(_identity(step.stat))
            size += step.stat.st_blocks * _BLOCK
    return size, len(seen)


def remove(root: Path | bytes, dir_fd: int | None = None) -> None:
    """Remove a tree, file or link; one that is not there is no error.

    Directories that are not empty are moved up to the root before they are emptied, so that the depth
    that is being worked on never exceeds two.
    """
    try:
        top = os.open(root, _DIRECTORY, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(root, dir_fd=dir_fd)
        return
    try:
        _Remover(top).run()
    finally:
        os.close(top)
    os.rmdir(root, dir_fd=dir_fd)


class _Remover:
    def __init__(self, top: int) -> None:
        self._top = top
        self._moved = 0

    def run(self) -> None:
        while names := os.listdir(self._top):
            point("containerd.trees.before-removal")
            for name in names:
                if not _gone(self._top, name):
                    self._empty(name)

    def _empty(self, name: str) -> None:
        inner = os.open(name, _DIRECTORY, dir_fd=self._top)
        try:
            for child in os.listdir(inner):
                if not _gone(inner, child):
                    self._move_up(inner, child)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=self._top)

    def _move_up(self, inner: int, child: str) -> None:
        while True:
            self._moved += 1
            try:
                os.rename(child, f".removing-{self._moved}", src_dir_fd=inner, dst_dir_fd=self._top)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
            else:
                return


def _gone(folder: int, name: str) -> bool:
    """Remove a file or an empty directory; False for a directory with something in it."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError:
            return False
    return True
