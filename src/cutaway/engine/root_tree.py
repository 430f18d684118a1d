"""A container's root file system with its volumes in it, as a tree that only descriptors lead to.

    with open_tree(Root(mounts=...), points) as root:     # or Root(pid=...) of a running container
        fd = open_in_root(root, "/data/file")

This is what `docker cp` sees: the root file system itself, without /proc, /dev and what else is mounted at
run time, and in it the volumes and bind mounts, each writable or not as in the container.

    root: running    the mount at the root of the process's mount namespace, cloned alone
          stopped    the snapshot's overlay, mounted for writing: nobody else may have it mounted then
    volumes          cloned from the host

All of it is put together in a mount namespace of its own, by a thread that ends when that is done; the
namespace lives as long as the descriptors do, also when this process is killed. The thread never looks up
a path in the container and loads nothing while it is there (CVE-2019-14271); no path of the container is
ever resolved but inside its root (CVE-2018-15664). Linux 5.12 (mount_setattr).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from cutaway.archive import paths
from cutaway.engine.rootfs_view import Mount, check, fsmount_overlay, lower_directories
from cutaway.errors import FailedPrecondition, InvalidArgument, NotFound

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # one number on every architecture
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_TREE_CLONE, _TREE_CLOEXEC = 1, os.O_CLOEXEC
_FROM_EMPTY, _TO_EMPTY = 0x04, 0x40
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_MNT_DETACH: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


@dataclass(frozen=True)
class Root:
    """Where the root file system is: what containerd says how to mount, or a running process's."""

    mounts: Sequence[Mount] = ()
    pidfd: int = -1


@dataclass(frozen=True)
class Point:
    """Something of the host inside: a file or a directory, at a path of the container."""

    source: str
    destination: str
    writable: bool = True


@contextmanager
def open_tree(root: Root, points: Sequence[Point]) -> Iterator[int]:
    """A descriptor of the tree's root.

    A place of a volume that is not there is made, as at a start. Blocks: call it in a thread. Raises
    `FailedPrecondition` for what the kernel refuses, `NotFound` for a source that is no more,
    `InvalidArgument` for a kind of snapshot that is neither overlay nor bind.
    """
    with ExitStack() as stack:
        attached = []
        for point in sorted(points, key=lambda point: point.destination.count("/")):
            attached.append((point, _volume(point)))
            stack.callback(os.close, attached[-1][1])
        top = _root(root)
        stack.callback(os.close, top)
        namespace = _in_thread(lambda: _assemble(top))
        stack.callback(os.close, namespace)
        for point, volume in attached:
            _attach(top, namespace, point, volume)
        yield top


def _root(root: Root) -> int:
    try:
        if root.pidfd >= 0:
            top = _in_thread(lambda: _clone_root(root.pidfd))
        elif len(root.mounts) != 1:
            raise InvalidArgument(f"root file system of {len(root.mounts)} mounts: exactly one is supported")
        elif root.mounts[0].type == "overlay":
            top = _overlay(root.mounts[0].options)
        elif root.mounts[0].type in ("bind", "rbind"):
            top = _clone(root.mounts[0].source, recursive=False)
        else:
            raise InvalidArgument(
                f'root file system of type "{root.mounts[0].type}": only overlay and bind are supported'
            )
        _set_attributes(top, read_only=False)
    except OSError as error:
        raise FailedPrecondition(f"cannot look into the root file system: {error.strerror}") from None
    return top


def _clone_root(pidfd: int) -> int:
    """The root of another process's mount namespace, without what is mounted in it."""
    check(_libc.unshare(_CLONE_FS))  # setns(2) asks for it
    check(_libc.setns(pidfd, _CLONE_NEWNS))
    return _clone("/", recursive=False)


def _overlay(options: Sequence[str]) -> int:
    """The overlay that options describe, mounted for writing and attached nowhere."""
    values = dict(option.partition("=")[::2] for option in options)
    settings = [("lowerdir+", path) for path in lower_directories(values.pop("lowerdir", ""))]
    try:
        return fsmount_overlay([*settings, *values.items()])
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise
        return _in_thread(lambda: _mounted_overlay(options))  # before Linux 6.5


def _mounted_overlay(options: Sequence[str]) -> int:
    """The same by mount(2), in a mount namespace that ends with the thread."""
    check(_libc.unshare(_CLONE_NEWNS))
    check(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    point = tempfile.mkdtemp(prefix="cutaway-tree-")
    try:
        data = os.fsencode(",".join(options))
        check(_libc.mount(b"overlay", os.fsencode(point), b"overlay", 0, data))
        try:
            return _clone(point, recursive=False)
        finally:
            _libc.umount2(os.fsencode(point), _MNT_DETACH)
    finally:
        os.rmdir(point)


def _volume(point: Point) -> int:
    try:
        fd = _clone(point.source, recursive=True)
        _set_attributes(fd, read_only=not point.writable)
    except FileNotFoundError:
        raise NotFound(f"mount of {point.destination}: {point.source} does not exist") from None
    except OSError as error:
        raise FailedPrecondition(f"mount of {point.destination}: {point.source}: {error.strerror}") from None
    return fd


def _clone(path: str, *, recursive: bool) -> int:
    """A mount of a path that is attached nowhere yet: open_tree(2)."""
    flags = _TREE_CLONE | _TREE_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return check(_libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags))


class _MountAttr(ctypes.Structure):
    """struct mount_attr."""

    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns", ctypes.c_uint64),
    )


def _set_attributes(mount: int, *, read_only: bool) -> None:
    """Nothing in the tree is a device or a program to us, and nothing mounted is passed on."""
    attributes = _NOSUID | _NODEV | _NOEXEC | (_RDONLY if read_only else 0)
    wanted = _MountAttr(attributes, 0, _MS_PRIVATE, 0)
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    check(_libc.syscall(_MOUNT_SETATTR, mount, b"", flags, ctypes.byref(wanted), ctypes.sizeof(wanted)))


def _assemble(top: int) -> int:
    """Make the tree the root of a mount namespace that has nothing else; the namespace's descriptor."""
    check(_libc.unshare(_CLONE_NEWNS))
    check(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        check(_libc.syscall(_MOVE_MOUNT, top, b"", _AT_FDCWD, b"/", _FROM_EMPTY))
        os.fchdir(top)
        check(_libc.pivot_root(b".", b"."))  # the old root is then on top of the new one
        check(_libc.umount2(b".", _MNT_DETACH))
    except BaseException:
        os.close(namespace)
        raise
    return namespace


def _attach(top: int, namespace: int, point: Point, volume: int) -> None:
    """Mount a volume at its place, which is made if it is not there."""
    try:
        place = _place(top, point.destination, directory=stat.S_ISDIR(os.fstat(volume).st_mode))
    except OSError as error:
        raise FailedPrecondition(f"mount of {point.destination}: {error.strerror}") from None

    def work() -> int:
        check(_libc.unshare(_CLONE_FS))
        check(_libc.setns(namespace, _CLONE_NEWNS))
        return check(_libc.syscall(_MOVE_MOUNT, volume, b"", place, b"", _FROM_EMPTY | _TO_EMPTY))

    try:
        _in_thread(work)
    except OSError as error:
        raise FailedPrecondition(f"mount of {point.destination}: {error.strerror}") from None
    finally:
        os.close(place)


def _place(top: int, path: str, *, directory: bool) -> int:
    if directory:
        return paths.make_directories(top, path)
    try:
        return paths.open_in_root(top, path)
    except FileNotFoundError:
        above, _, name = paths.evaluate(top, path).rpartition("/")
    folder = paths.make_directories(top, above)
    try:
        made = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o755, dir_fd=folder)
        os.close(made)
        return paths.open_below(folder, name)
    finally:
        os.close(folder)


def _in_thread(work: Callable[[], int]) -> int:
    """Do something in a thread of its own, which it may leave in another namespace. Raises OSError."""
    outcome: list[int | OSError] = []

    def run() -> None:
        try:
            outcome.append(work())
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=run, name="root-tree", daemon=True)
    thread.start()
    thread.join()
    result = outcome[0] if outcome else OSError(errno.EIO, "the thread has failed")
    if isinstance(result, OSError):
        raise result
    return result
