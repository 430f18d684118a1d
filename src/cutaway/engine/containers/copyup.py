"""A new volume takes over what the image has at its place, as Docker's does.

The image is hostile: its tree is walked by descriptors and no symbolic link is followed, in the path to
the place least of all. Copied are folders, files and symbolic links, with owner, mode and times.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from cutaway.engine.containers.mounts import MountPoint
from cutaway.engine.rootfs_view import open_rootfs

if TYPE_CHECKING:
    from cutaway.pb.mount_pb2 import Mount

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def fill_volumes(rootfs: Sequence[Mount], points: Sequence[MountPoint]) -> None:
    """Copy each place's content into its volume; a place that the image does not have stays empty."""
    with open_rootfs(rootfs) as root:
        for point in points:
            with _place(root, point.destination) as source:
                if source is not None:
                    target = os.open(point.source, _FOLDER)
                    try:
                        _copy_folder(source, target)
                    finally:
                        os.close(target)


@contextmanager
def _place(root: int, path: str) -> Iterator[int | None]:
    """The folder at a path of the image, or None if there is none, or only one behind a link."""
    current = os.dup(root)
    try:
        for part in path.strip("/").split("/"):
            try:
                found = os.open(part, _FOLDER, dir_fd=current)
            except OSError:
                yield None
                return
            os.close(current)
            current = found
        yield current
    finally:
        os.close(current)


def _copy_folder(source: int, target: int) -> None:
    """Everything in one folder into another, then the folder's own owner, mode and times."""
    for name in os.listdir(source):
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            _copy_subfolder(source, target, name)
        elif stat.S_ISREG(found.st_mode):
            _copy_file(source, target, name)
        elif stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
    _copy_attributes(source, target)


def _copy_subfolder(source: int, target: int, name: str) -> None:
    os.mkdir(name, 0o700, dir_fd=target)
    below = os.open(name, _FOLDER, dir_fd=source)
    try:
        inside = os.open(name, _FOLDER, dir_fd=target)
        try:
            _copy_folder(below, inside)
        finally:
            os.close(inside)
    finally:
        os.close(below)


def _copy_file(source: int, target: int, name: str) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    made = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with (
        open(os.open(name, flags, dir_fd=source), "rb") as reader,
        open(os.open(name, made, 0o600, dir_fd=target), "wb") as writer,
    ):
        shutil.copyfileobj(reader, writer)
        writer.flush()
        _copy_attributes(reader.fileno(), writer.fileno())


def _copy_attributes(source: int, target: int) -> None:
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)  # before the mode: it clears set-user-id
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
