"""Snapshotters: how directories become the tree that a container sees.

    snapshots/<id>/fs       the snapshot's own files (overlayfs: only what differs from its parent)
    snapshots/<id>/work     overlayfs's scratch space, for active snapshots

A snapshotter turns a snapshot and the ids below it into mounts, and makes a directory ready. What
exists, and in which order it may be removed, is a matter of records (`metadata.snapshots`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cutaway.containerd.metadata.snapshots import Kind
from cutaway.containerd.mounts import Mount
from cutaway.containerd.snapshots.copying import copy
from cutaway.faults import point


class Snapshotter(Protocol):
    """One way to show snapshots as a tree."""

    name: str
    copies: bool
    """Whether making a snapshot takes as long as its parent is large."""

    def make(self, folder: Path, kind: Kind, parents: Sequence[int]) -> None:
        """Make the directory of a new snapshot. Blocks. Raises `OSError`."""

    def mounts(self, id: int, kind: Kind, parents: Sequence[int]) -> list[Mount]:
        """What to mount to see a snapshot."""


class _Directories:
    def __init__(self, root: Path) -> None:
        self.root = root

    def fs(self, id: int) -> Path:
        return self.root / str(id) / "fs"

    def bind(self, id: int, *options: str) -> list[Mount]:
        return [Mount("bind", str(self.fs(id)), options)]


class Overlay(_Directories):
    """containerd's overlayfs snapshotter: layers stay apart, the kernel stacks them at mount time."""

    name = "overlayfs"
    copies = False

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        # With an index a lower directory is tied to one upper; layers are shared by many (kernel 4.13,
        # Documentation/filesystems/overlayfs.rst, "Index"). Older kernels do not know the option.
        self._index_off = os.path.exists("/sys/module/overlay/parameters/index")

    def make(self, folder: Path, kind: Kind, parents: Sequence[int]) -> None:
        fs = _new_tree(folder)
        if kind is Kind.ACTIVE:
            # The kernel makes its own, unreadable directory in here.
            (folder / "work").mkdir(mode=0o711)
        if parents:
            # The root of the topmost layer is what a container sees as its root's owner.
            found = self.fs(parents[0]).stat()
            os.chown(fs, found.st_uid, found.st_gid)

    def mounts(self, id: int, kind: Kind, parents: Sequence[int]) -> list[Mount]:
        """In containerd's order of options; a single layer needs no overlay and could not be one."""
        if not parents:
            return self.bind(id, "ro" if kind is Kind.VIEW else "rw", "rbind")
        if kind is Kind.VIEW and len(parents) == 1:
            return self.bind(parents[0], "ro", "rbind")
        options = ["index=off"] if self._index_off else []
        if kind is Kind.ACTIVE:
            options += [f"workdir={self.fs(id).parent / 'work'}", f"upperdir={self.fs(id)}"]
        options.append("lowerdir=" + ":".join(str(self.fs(parent)) for parent in parents))
        return [Mount("overlay", "overlay", tuple(options))]


class Native(_Directories):
    """A full copy for each snapshot: slow and large, and works on every file system."""

    name = "native"
    copies = True

    def make(self, folder: Path, kind: Kind, parents: Sequence[int]) -> None:
        fs = _new_tree(folder)
        if parents and kind is Kind.ACTIVE:
            copy(self.fs(parents[0]), fs)

    def mounts(self, id: int, kind: Kind, parents: Sequence[int]) -> list[Mount]:
        """In containerd's order of options, which is not the one of overlayfs."""
        if kind is Kind.VIEW and parents:
            return self.bind(parents[0], "rbind", "ro")
        return self.bind(id, "rbind", "ro" if kind is Kind.VIEW else "rw")


def _new_tree(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    point("containerd.snapshots.tree-begun")
    fs = folder / "fs"
    fs.mkdir(mode=0o755)
    fs.chmod(0o755)  # whatever the umask
    return fs
