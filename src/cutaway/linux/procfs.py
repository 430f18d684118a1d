"""Writing to procfs, and to nothing that only looks like it.

A write to `/proc/self/...` in a file system that somebody else arranged may land elsewhere: on another file
of procfs (`/proc/sysrq-trigger`), or in one that keeps it and does nothing (CVE-2019-16884, CVE-2025-52881).
So the file is opened through no symbolic link and no mount, and must lie on procfs. Where something is
mounted over a part of /proc, lxcfs or the bind of a container manager, a procfs of our own is asked instead.
"""

import os

from cutaway.errors import PermissionDenied
from cutaway.linux import libc, mounts, paths

_EXDEV = 18
_RESOLVE = paths.RESOLVE_BENEATH | paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_NO_XDEV


def open_file(path: str, flags: int, proc: int | None = None) -> int:
    """Open `/proc/...`; below the descriptor `proc` of a /proc, if that is given.

    `/proc/self` is the caller, as that procfs numbers it. Raises OSError, `PermissionDenied`.
    """
    root = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if proc is None else proc
    try:
        if paths.filesystem(root) != paths.PROC_MAGIC:
            raise PermissionDenied(f"open {path}: /proc is not procfs")
        fd = _beneath(root, path, flags)
    except OSError as error:
        if error.errno != _EXDEV:
            raise
        fd = _in_a_procfs_of_our_own(path, flags)
    finally:
        if proc is None:
            os.close(root)
    if paths.filesystem(fd) != paths.PROC_MAGIC:
        os.close(fd)
        raise PermissionDenied(f"open {path}: it is not of procfs")
    return fd


def _beneath(root: int, path: str, flags: int) -> int:
    name = path.removeprefix("/proc/")
    try:
        if name.startswith("self/"):
            name = os.readlink("self", dir_fd=root) + name[4:]
        return paths.openat2(root, name, flags, _RESOLVE)
    except OSError as error:
        libc.fail(error.errno or 0, f"open {path}")


def _in_a_procfs_of_our_own(path: str, flags: int) -> int:
    """One that is mounted nowhere, so that nothing can be mounted on it (fsopen(2))."""
    try:
        root = mounts.filesystem("proc", "proc", 0, [], shown="nowhere")
    except OSError as error:
        raise PermissionDenied(
            f"open {path}: something else is mounted on it, and a procfs of our own cannot be had: "
            f"{libc.words(error.errno or 0)}"
        ) from None
    try:
        return _beneath(root, path, flags)
    finally:
        os.close(root)


def write(path: str, text: bytes, proc: int | None = None) -> None:
    """Write in one go, as most files of procfs want it. Raises OSError, `PermissionDenied`."""
    fd = open_file(path, os.O_WRONLY, proc)
    try:
        os.write(fd, text)
    except OSError as error:
        libc.fail(error.errno or 0, f"write {path}")
    finally:
        os.close(fd)
