"""The archive that Linux unpacks as its first root file system: cpio's "newc" form.

Kernel: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

TRAILER = "TRAILER!!!"


class Archive:
    """An archive being written, in which every file has the path that it has on this machine.

    A link on the way to a file is kept as a link, and what it points at comes along: the guest finds a
    program by the same paths as we do.
    """

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._names: set[str] = {"/"}

    def add(self, path: str | os.PathLike[str]) -> None:
        """Add a file, a folder without its content or a link with its target, and the folders above."""
        name = os.path.normpath(os.path.join("/", path))
        if name in self._names:
            return
        parent = os.path.dirname(name)
        self.add(parent)
        real_parent = os.path.realpath(parent)
        if real_parent != parent:
            self.add(os.path.join(real_parent, os.path.basename(name)))
            return
        self._names.add(name)
        status = os.lstat(name)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name)
            self._entry(name, status.st_mode, target.encode())
            self.add(os.path.join(parent, target))
        elif stat.S_ISDIR(status.st_mode):
            self._entry(name, status.st_mode)
        elif stat.S_ISREG(status.st_mode):
            self._entry(name, status.st_mode, Path(name).read_bytes(), int(status.st_mtime))

    def folder(self, name: str, mode: int = 0o755) -> None:
        """Add a folder that need not be on this machine, and those above it."""
        if name not in self._names:
            self.folder(os.path.dirname(name))
            self._names.add(name)
            self._entry(name, stat.S_IFDIR | mode)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file that is not on this machine."""
        self.folder(os.path.dirname(name))
        if name not in self._names:
            self._names.add(name)
            self._entry(name, stat.S_IFREG | mode, content)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link that is not on this machine, unless the name is taken."""
        self.folder(os.path.dirname(name))
        if name not in self._names:
            self._names.add(name)
            self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name: str, major: int, minor: int) -> None:
        """Add a character device."""
        self.folder(os.path.dirname(name))
        self._names.add(name)
        self._entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def close(self) -> None:
        """Write the end; the output stays open."""
        self._entry(TRAILER, 0)

    def _entry(
        self, name: str, mode: int, content: bytes = b"", time: int = 0, device: tuple[int, int] = (0, 0)
    ) -> None:
        """magic, ino, mode, uid, gid, nlink, mtime, size, device, special device, name's length, checksum.

        Everything is root's. Each file is a file of its own: Linux takes entries for links of one another
        only where they have more than one link.
        """
        label = name.lstrip("/").encode() + b"\0"
        fields = (0, mode, 0, 0, 1, time, len(content), 0, 0, *device, len(label), 0)
        header = b"070701" + "".join(f"{field:08x}" for field in fields).encode() + label
        self._output.write(_padded(header))
        self._output.write(_padded(content))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
