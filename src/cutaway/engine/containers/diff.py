"""`docker diff`: what a container has changed in its image, read off the overlay's writable layer.

As dockerd lists it: what is above a change counts as changed; a directory's own times do not. Of what was
deleted only the top is told. Left out is what the runtime makes for its own mounts, which dockerd hides in
a layer of its own.

Source: overlayfs documentation of the kernel, "whiteouts and opaque directories".
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from cutaway.archive import paths
from cutaway.engine.rootfs_view import open_rootfs
from cutaway.errors import Unimplemented
from cutaway.pb.mount_pb2 import Mount as MountMessage

if TYPE_CHECKING:
    from cutaway.pb.mount_pb2 import Mount

_RUNTIMES: Final = frozenset(
    (
        "/.dockerenv", "/dev", "/dev/console", "/dev/mqueue", "/dev/pts", "/dev/shm", "/etc", "/etc/hostname",
        "/etc/hosts", "/etc/mtab", "/etc/resolv.conf", "/proc", "/sys",
    )
)  # fmt: skip
"""What dockerd makes in every container's init layer, and the folders these are in."""
_OPAQUE: Final = ("trusted.overlay.opaque", "user.overlay.opaque")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Kind(IntEnum):
    MODIFIED = 0
    ADDED = 1
    DELETED = 2


@dataclass(frozen=True)
class Change:
    path: str
    kind: Kind


def changes(mounts: Sequence[Mount]) -> list[Change]:
    """What a snapshot that is mounted so has changed. Blocks.

    Raises `Unimplemented` for a snapshot that is no overlay, OSError for what cannot be read.
    """
    with ExitStack() as stack:
        upper, lower = _layers(mounts)
        top = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, top)
        below = stack.enter_context(open_rootfs([lower])) if lower is not None else None
        return _Walk(top, below).run()


def _layers(mounts: Sequence[Mount]) -> tuple[str, Mount | None]:
    """The writable layer and, if there is anything below it, how to mount that."""
    if len(mounts) == 1 and mounts[0].type in ("bind", "rbind"):  # an image without layers
        return mounts[0].source, None
    if len(mounts) == 1 and mounts[0].type == "overlay":
        values = dict(option.partition("=")[::2] for option in mounts[0].options)
        if upper := values.get("upperdir"):
            options = [f"lowerdir={values.get('lowerdir', '')}"]
            return upper, MountMessage(type="overlay", source="overlay", options=options)
    raise Unimplemented("changes can only be told of a root file system that is an overlay")


class _Walk:
    def __init__(self, top: int, below: int | None) -> None:
        self._top = top
        self._below = below
        self._found: dict[str, Kind] = {}

    def run(self) -> list[Change]:
        todo = [""]
        while todo:
            folder = todo.pop()
            for name in _names(self._top, folder):
                path = f"{folder}/{name}"
                found = _look(self._top, path)
                if found is None:
                    continue  # a running container has removed it just now
                self._take(path, found)
                if stat.S_ISDIR(found.st_mode):
                    todo.append(path)
        for path, kind in list(self._found.items()):
            if kind is not Kind.ADDED or path not in _RUNTIMES or self._has_inside(path):
                self._tell_above(path)
            else:
                del self._found[path]  # a folder of the runtime's, with nothing else in it
        ordered = sorted(self._found, key=lambda path: path.split("/"))
        return [Change(path, self._found[path]) for path in ordered]

    def _tell_above(self, path: str) -> None:
        while (path := posixpath.dirname(path)) != "/" and path not in self._found:
            self._found[path] = Kind.MODIFIED

    def _has_inside(self, folder: str) -> bool:
        return any(path.startswith(f"{folder}/") and path not in _RUNTIMES for path in self._found)

    def _take(self, path: str, found: os.stat_result) -> None:
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            self._found[path] = Kind.DELETED
            return
        before = _look(self._below, path) if self._below is not None else None
        if before is None:
            if (
                path not in _RUNTIMES
                or stat.S_ISDIR(found.st_mode)
                or (found.st_size and not stat.S_ISLNK(found.st_mode))
            ):
                self._found[path] = Kind.ADDED
            return
        if self._differs(path, found, before):
            self._found[path] = Kind.MODIFIED
        if stat.S_ISDIR(before.st_mode) and self._hides(path, found):
            kept = set(_names(self._top, path))
            for name in _names(self._below, path):
                if name not in kept:
                    self._found[f"{path}/{name}"] = Kind.DELETED

    def _differs(self, path: str, found: os.stat_result, before: os.stat_result) -> bool:
        if _identity(found) != _identity(before):
            return True
        if stat.S_ISDIR(found.st_mode):
            return False
        return _capability(self._top, path) != _capability(self._below, path)

    def _hides(self, path: str, found: os.stat_result) -> bool:
        """Whether nothing is seen of the directory below it: another kind of file, or an opaque one."""
        if not stat.S_ISDIR(found.st_mode):
            return True
        return any(_attribute(self._top, path, name) == b"y" for name in _OPAQUE)


def _identity(found: os.stat_result) -> tuple[int, ...]:
    """What makes a file another; a directory's size and times are only due to what is in it."""
    common = (found.st_mode, found.st_uid, found.st_gid, found.st_rdev)
    return common if stat.S_ISDIR(found.st_mode) else (*common, found.st_size, found.st_mtime_ns)


def _look(root: int, path: str) -> os.stat_result | None:
    try:
        fd = paths.open_below(root, path.lstrip("/"), os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _names(root: int | None, folder: str) -> list[str]:
    if root is None:
        return []
    try:
        fd = paths.open_below(root, folder.lstrip("/"), _FOLDER)
    except OSError:
        return []
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def _capability(root: int | None, path: str) -> bytes:
    return _attribute(root, path, "security.capability")


def _attribute(root: int | None, path: str, name: str) -> bytes:
    if root is None:
        return b""
    try:
        fd = paths.open_below(root, path.lstrip("/"), os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", name)
    except OSError:
        return b""
    finally:
        os.close(fd)
