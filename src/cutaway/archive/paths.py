"""Opening what lies inside a root that somebody hostile controls; nothing here ever leaves the root.

A path is resolved by the kernel, once, by openat2(2) (Linux 5.6), and what is used afterwards is the
descriptor: between a check and a use by path, a container can exchange what the path means
(CVE-2018-15664).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from typing import Final

NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT = 0x02, 0x04, 0x08, 0x10
MAX_LINKS: Final = 255  # as many as Docker follows

_OPENAT2: Final = 437  # one number on every architecture
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    """struct open_how."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """openat2(2) with O_CLOEXEC. Raises OSError with the path."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    name = os.fsencode(path)
    if b"\0" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    while True:
        fd = _libc.syscall(_OPENAT2, directory, name, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return int(fd)
        code = ctypes.get_errno()
        if code != errno.EAGAIN:  # EAGAIN: a rename somewhere raced with ".."; the kernel cannot vouch for it
            raise OSError(code, os.strerror(code), path)


def open_in_root(root: int, path: str, flags: int = os.O_PATH) -> int:
    """Open a path as a process chrooted to `root` sees it; no link of /proc is followed. Raises OSError."""
    return openat2(root, path.lstrip("/") or ".", flags, IN_ROOT | NO_MAGICLINKS)


def open_below(directory: int, path: str, flags: int = os.O_PATH) -> int:
    """Open what lies below a directory, through no link at all. Raises OSError: ELOOP for a link."""
    return openat2(directory, path or ".", flags, BENEATH | NO_MAGICLINKS | NO_SYMLINKS)


def reopen(fd: int, flags: int) -> int:
    """Open what an O_PATH descriptor stands for, so that nobody can put another file in its place."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


def evaluate(root: int, path: str) -> str:
    """An absolute path inside the root with all links followed; what is not there is taken as it is.

    The answer is for people and for a further look-up in the root: by then it may mean something else.
    Raises OSError: ELOOP for more than 255 links.
    """
    done: list[str] = []
    todo = [part for part in reversed(path.split("/")) if part]
    links = 0
    while todo:
        part = todo.pop()
        if part == ".":
            continue
        if part == "..":
            del done[-1:]
            continue
        target = _link_target(root, "/".join([*done, part]))
        if target is None:
            done.append(part)
            continue
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if target.startswith("/"):
            done.clear()
        todo += [piece for piece in reversed(target.split("/")) if piece]
    return "/" + "/".join(done)


def _link_target(root: int, path: str) -> str | None:
    try:
        fd = open_below(root, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    try:
        return os.readlink("", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def make_directories(root: int, path: str, mode: int = 0o755) -> int:
    """Open a directory inside the root, an O_PATH descriptor, and make what is missing of it.

    A link to what does not exist yet is followed, inside the root. Raises OSError.
    """
    try:
        return open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    parts = evaluate(root, path).strip("/").split("/")
    current = os.dup(root)
    for part in parts:
        try:
            below = _enter(current, part, mode)
        finally:
            os.close(current)
        current = below
    return current


def _enter(directory: int, name: str, mode: int) -> int:
    try:
        os.mkdir(name, mode, dir_fd=directory)
    except FileExistsError:
        pass
    else:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fchmod(fd, mode)  # whatever our umask is
        finally:
            os.close(fd)
    return open_below(directory, name, os.O_PATH | os.O_DIRECTORY)
