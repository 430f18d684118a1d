"""Names in a layer, and the directories they lead to.

A layer is unpacked as root into a directory that other layers, or this one, may have filled with links to
anywhere. So no path is ever handed to the kernel as such: parents are opened by openat2(2) with
RESOLVE_IN_ROOT (Linux 5.6), which resolves `..`, absolute and magic links as if the directory were `/`,
and the last component is only used relative to such a parent, never followed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from cutaway.containerd.unpack.tar import show
from cutaway.errors import FailedPrecondition, InvalidArgument

Parts = tuple[bytes, ...]

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# PATH_MAX without the ending zero: longer ones cannot be named by whoever uses the tree either.
MAX_NAME = 4095
_MAX_LINKS = 40  # as many as the kernel follows: path_resolution(7)

_SPECIAL = frozenset((b"", b".", b".."))

_SYS_OPENAT2 = 437  # the same on all architectures
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def parse(name: bytes, what: str = "entry") -> Parts:
    """The components of a name in a layer; none for the root itself.

    Raises `InvalidArgument` for an absolute name and for one that leads out of the root.
    """
    if len(name) > MAX_NAME or b"\0" in name:
        raise InvalidArgument(f"layer {what} {show(name)} has a name that no file can have")
    split = name.removesuffix(b"/").split(b"/")
    if not _SPECIAL.intersection(split):
        return tuple(split)
    parts: list[bytes] = []
    for part in split:
        if part == b"..":
            if not parts:
                raise InvalidArgument(f"layer {what} {show(name)} leads out of the root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    if name.startswith(b"/") and parts:
        raise InvalidArgument(f"layer {what} {show(name)} has an absolute name")
    return tuple(parts)


def open_in_root(root: int, path: bytes, flags: int = DIRECTORY) -> int:
    """Open what a path means inside a root. Raises `OSError`, `FailedPrecondition` on an old kernel."""
    how = _OpenHow(flags, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    while True:
        fd = _libc.syscall(_SYS_OPENAT2, root, path, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return int(fd)
        number = ctypes.get_errno()
        if number == errno.EAGAIN:
            continue  # something was renamed at this very moment: openat2(2)
        if number == errno.ENOSYS:
            raise FailedPrecondition(
                "unpacking needs openat2(2) to keep layers inside their directory: "
                f"Linux 5.6 or newer (this is {os.uname().release})"
            )
        raise OSError(number, os.strerror(number), os.fsdecode(path))


class Tree:
    """The directory that a layer is unpacked into."""

    def __init__(self, root: Path, lowers: Sequence[Path] = ()) -> None:
        """`lowers` are the directories below it in an overlay, topmost first."""
        self.root = os.open(root, DIRECTORY)
        self._lowers = [os.open(one, DIRECTORY) for one in lowers]
        self._last: tuple[Parts, int] | None = None

    def close(self) -> None:
        self.forget()
        for fd in (self.root, *self._lowers):
            os.close(fd)

    def parent(self, parts: Parts) -> int:
        """The open directory that holds a name; missing ones are made.

        The descriptor is good until the next call. Raises `OSError`.
        """
        above = parts[:-1]
        if not above:
            return self.root
        if self._last and self._last[0] == above:
            return self._last[1]
        try:
            fd = open_in_root(self.root, b"/".join(above))
        except FileNotFoundError:
            fd = self._make(above)
        self.forget()
        self._last = (above, fd)
        return fd

    def forget(self) -> None:
        """Call this when a directory may have been removed or replaced."""
        if self._last:
            os.close(self._last[1])
            self._last = None

    def find(self, parts: Parts) -> int:
        """As `parent`, but makes nothing; the caller closes it. Raises `OSError`."""
        return open_in_root(self.root, b"/".join(parts[:-1]) or b".")

    def _make(self, parts: Parts) -> int:
        """Make a directory with all that is missing above it, through links that lead nowhere yet."""
        done: list[bytes] = []
        todo, links = deque(parts), 0
        fd = os.dup(self.root)
        while todo:
            part = todo.popleft()
            try:
                inner = open_in_root(self.root, b"/".join([*done, part]))
            except FileNotFoundError:
                target = _link_target(part, fd)
                if target is None:
                    os.mkdir(part, 0o755, dir_fd=fd)
                    inner = os.open(part, DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                    self._dress(inner, [*done, part])
                else:
                    links += 1
                    if links > _MAX_LINKS:
                        os.close(fd)
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                    todo.extendleft(reversed([one for one in target.split(b"/") if one not in (b"", b".")]))
                    if target.startswith(b"/"):
                        done.clear()
                        os.close(fd)
                        fd = os.dup(self.root)
                    continue
            done.append(part)
            os.close(fd)
            fd = inner
        return fd

    def _dress(self, fd: int, path: Sequence[bytes]) -> None:
        """Give a directory that no entry describes the attributes that the layer below has for it."""
        os.fchmod(fd, 0o755)
        for lower in self._lowers:
            try:
                below = open_in_root(lower, b"/".join(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                found = os.fstat(below)
                if stat.S_ISDIR(found.st_mode):
                    copy_attributes(below, fd, found)
                return
            finally:
                os.close(below)


def copy_attributes(source: int, target: int, found: os.stat_result) -> None:
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(source):
        if not name.startswith("trusted."):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _link_target(name: bytes, folder: int) -> bytes | None:
    """Where a link leads; None where there is nothing."""
    try:
        return os.readlink(name, dir_fd=folder)
    except FileNotFoundError:
        return None
