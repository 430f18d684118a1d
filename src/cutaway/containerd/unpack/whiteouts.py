"""Whiteouts: how a layer says that something of the layers below is gone.

    .wh.NAME        NAME is gone
    .wh..wh..opq    all that the layers below have in this directory is gone

(OCI image spec, layer.md, "Whiteouts".) Where layers stay apart (overlayfs), these become what the kernel
takes for the same: a character device 0:0, and an attribute of the directory (kernel documentation,
filesystems/overlayfs.rst). Where a layer is unpacked over those below, things are really removed.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Protocol

from cutaway.containerd.snapshots import trees
from cutaway.containerd.unpack.tar import Entry, show
from cutaway.errors import InvalidArgument

PREFIX = b".wh."
OPAQUE = b".wh..wh..opq"

_OPAQUE_XATTR = "trusted.overlay.opaque"


class Whiteouts(Protocol):
    """What to do about them."""

    def gone(self, folder: int, name: bytes, entry: Entry) -> None:
        """Hide or remove a name. Raises `OSError`."""

    def opaque(self, folder: int) -> None:
        """Hide or remove all that the layers below have in a directory. Raises `OSError`."""

    def made(self, folder: int, name: bytes) -> None:
        """Hear of something that this layer has made."""


def target(name: bytes, entry: Entry) -> bytes:
    """What a whiteout's file name is about. Raises `InvalidArgument` for one that points elsewhere."""
    original = name[len(PREFIX) :]
    if original in (b"", b".", b".."):
        raise InvalidArgument(f"layer entry {show(entry.name)} is an invalid whiteout")
    return original


def is_device(found: os.stat_result) -> bool:
    """Whether a file is overlayfs's whiteout."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


class Overlay:
    """For an upper directory that will be stacked upon others."""

    def gone(self, folder: int, name: bytes, entry: Entry) -> None:
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=folder)
        except FileExistsError:
            self._hide_below(folder, name)
            return
        os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)

    def opaque(self, folder: int) -> None:
        os.setxattr(folder, _OPAQUE_XATTR, b"y")

    def made(self, folder: int, name: bytes) -> None:
        pass

    def _hide_below(self, folder: int, name: bytes) -> None:
        """The layer has the name too: whiteouts are about the layers below only, so it stays."""
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                self.opaque(inner)
            finally:
                os.close(inner)


class Nothing:
    """For an empty directory: there are no layers below that could have anything."""

    def gone(self, folder: int, name: bytes, entry: Entry) -> None:
        pass

    def opaque(self, folder: int) -> None:
        pass

    def made(self, folder: int, name: bytes) -> None:
        pass


class Removing:
    """For a directory that holds the layers below as well.

    An opaque marker may come after what the same layer has put there, so all that is made is remembered,
    and which directories lead to it.
    """

    def __init__(self, root: int) -> None:
        self._made: set[tuple[int, bytes]] = set()
        self._leading: set[int] = {_inode(root)}

    def gone(self, folder: int, name: bytes, entry: Entry) -> None:
        if (_inode(folder), name) not in self._made:
            trees.remove(name, dir_fd=folder)

    def opaque(self, folder: int) -> None:
        inode = _inode(folder)
        for name in map(os.fsencode, os.listdir(folder)):
            inner = _enter(folder, name)
            if inner is None:
                if (inode, name) not in self._made:
                    os.unlink(name, dir_fd=folder)
                continue
            try:
                if _inode(inner) in self._leading:
                    self.opaque(inner)
                elif (inode, name) not in self._made:
                    trees.remove(name, dir_fd=folder)
            finally:
                os.close(inner)

    def made(self, folder: int, name: bytes) -> None:
        inode = _inode(folder)
        self._made.add((inode, name))
        if inode not in self._leading:
            self._mark_way(folder)

    def _mark_way(self, folder: int) -> None:
        here = os.dup(folder)
        while (inode := _inode(here)) not in self._leading:
            self._leading.add(inode)
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = above
        os.close(here)


def _enter(folder: int, name: bytes) -> int | None:
    """Open a directory; None for what is none."""
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        return None


def _inode(folder: int) -> int:
    return os.fstat(folder).st_ino
