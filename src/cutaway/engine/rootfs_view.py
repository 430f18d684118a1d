"""Looking into a container's root file system without mounting it anywhere.

    with open_rootfs(mounts) as root:            # what containerd's Snapshots service answered
        fd = open_in_root(root, "etc/passwd")

The view is read-only and belongs to a descriptor: no path leads to it, nothing needs unmounting, and it
is gone with the descriptor, also when this process is killed. An overlay is mounted by fsopen and fsmount
(Linux 5.2; many layers 6.5). Where that cannot be, it is mounted by mount(2) in a mount namespace
that a short-lived thread has for itself.

Everything in the view is hostile; `open_in_root` never leaves it, waits for nothing and opens only files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from cutaway.archive import paths
from cutaway.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied

_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # one number on every architecture
_CLOEXEC: Final = 1
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 1, 2, 4, 8
_SAFE: Final = _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV | _ATTR_NOEXEC
_LONGEST_STRING: Final = 255  # fsconfig(2) takes no longer ones

_CLONE_NEWNS: Final = 0x20000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REC, _MS_PRIVATE, _MS_BIND = 0x4000, 0x40000, 0x1000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


class Mount(Protocol):
    """containerd's description of a mount (containerd.types.Mount)."""

    @property
    def type(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def options(self) -> Sequence[str]: ...


@contextmanager
def open_rootfs(mounts: Sequence[Mount]) -> Iterator[int]:
    """A descriptor of the root directory that the mounts would show.

    Raises `FailedPrecondition` when the kernel refuses, `InvalidArgument` for a kind of mount that is
    neither overlay nor bind.
    """
    if len(mounts) != 1:
        raise InvalidArgument(f"root file system of {len(mounts)} mounts: exactly one is supported")
    mount = mounts[0]
    if mount.type == "overlay":
        root = _open_overlay(_layers(mount.options))
    elif mount.type in ("bind", "rbind"):
        root = _open_directory(mount.source)
    else:
        raise InvalidArgument(f'root file system of type "{mount.type}": only overlay and bind are supported')
    try:
        yield root
    finally:
        os.close(root)


def is_untouched(mounts: Sequence[Mount]) -> bool:
    """Whether nothing was written to a root file system yet: it shows what its image has, and no more."""
    if len(mounts) != 1 or mounts[0].type != "overlay":
        return False
    upper = next((o for o in mounts[0].options if o.startswith("upperdir=")), "")
    try:
        return not os.listdir(upper.removeprefix("upperdir="))
    except OSError:
        return False


def open_in_root(root: int, path: str) -> int:
    """Open a regular file of the view for reading; symbolic links in it count from its root.

    Raises `NotFound` when there is none, `PermissionDenied` for what is not a regular file (a FIFO would
    make us wait, a device do who knows what).
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = _openat2(root, path, flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise NotFound(f"{path}: {os.strerror(error.errno)}") from None
        raise PermissionDenied(f"{path}: {os.strerror(error.errno or 0)}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PermissionDenied(f"{path}: not a regular file")
    return descriptor


def _openat2(root: int, path: str, flags: int) -> int:
    """Open in the root; on Linux before 5.6, by a walk that follows no symbolic link at all."""
    try:
        return paths.open_in_root(root, path, flags)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
    return _walk(root, path, flags)


def _walk(root: int, path: str, flags: int) -> int:
    *folders, name = [part for part in path.split("/") if part]
    if ".." in (*folders, name):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    current = os.dup(root)
    try:
        for folder in folders:
            mode = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(folder, mode, dir_fd=current)
            os.close(current)
            current = below
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=current)
    finally:
        os.close(current)


def _open_directory(path: str) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise FailedPrecondition(f"root file system {path}: {os.strerror(error.errno or 0)}") from None


def _layers(options: Sequence[str]) -> list[str]:
    """All directories of an overlay, the top one first.

    The writable one is taken as one more read-only layer: a second overlay that writes to the directory
    of a running container's is forbidden, one that reads it is not.
    """
    values = dict(option.partition("=")[::2] for option in options)
    found = [values.get("upperdir", ""), *lower_directories(values.get("lowerdir", ""))]
    found = [path for path in found if path]
    if not found:
        raise InvalidArgument("overlay without lowerdir and upperdir")
    return found


def lower_directories(value: str) -> list[str]:
    """The directories of overlay's `lowerdir`, in which a colon of a path is escaped."""
    return [path.replace("\0", ":") for path in value.replace("\\:", "\0").split(":")]


def _open_overlay(layers: list[str]) -> int:
    if len(layers) == 1:  # an overlay needs two, and one layer needs no overlay
        return _open_directory(layers[0])
    try:
        return _fsmount_overlay(layers)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise FailedPrecondition(f"root file system: a layer is missing: {':'.join(layers)}") from None
        return _mount_overlay(layers)


def _fsmount_overlay(layers: list[str]) -> int:
    # "lowerdir+" adds one layer, colons and all
    return fsmount_overlay([*(("lowerdir+", path) for path in layers), ("ro", "")], _SAFE)


def fsmount_overlay(settings: Sequence[tuple[str, str]], attributes: int = 0) -> int:
    """A mount that is attached nowhere, of options with their values, "" for none.

    Raises OSError where the kernel is too old for it.
    """
    context = check(_libc.syscall(_FSOPEN, b"overlay", _CLOEXEC))
    try:
        for key, value in settings:
            text = os.fsencode(value)
            if len(text) > _LONGEST_STRING:
                raise OSError(errno.EINVAL, "path too long for fsconfig")
            kind = _SET_STRING if value else _SET_FLAG
            check(_libc.syscall(_FSCONFIG, context, kind, os.fsencode(key), text if value else None, 0))
        check(_libc.syscall(_FSCONFIG, context, _CREATE, None, None, 0))
        return check(_libc.syscall(_FSMOUNT, context, _CLOEXEC, attributes))
    finally:
        os.close(context)


def _mount_overlay(layers: list[str]) -> int:
    """The same by mount(2), in a mount namespace that ends with the thread; the descriptor outlives it."""
    outcome: list[int | OSError] = []

    def work() -> None:
        try:
            outcome.append(_mount_here(layers))
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=work, name="rootfs-view", daemon=True)
    thread.start()
    thread.join()
    if isinstance(outcome[0], OSError):
        raise FailedPrecondition(f"cannot look into the root file system: overlay: {outcome[0].strerror}")
    return outcome[0]


def _mount_here(layers: list[str]) -> int:
    check(_libc.unshare(_CLONE_NEWNS))
    check(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    point = tempfile.mkdtemp(prefix="cutaway-view-")
    try:
        lower = ":".join(path.replace("\\", "\\\\").replace(":", "\\:") for path in layers)
        flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        check(
            _libc.mount(b"overlay", os.fsencode(point), b"overlay", flags, os.fsencode(f"lowerdir={lower}"))
        )
        descriptor = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        _libc.umount2(os.fsencode(point), 2)  # lazily: the descriptor keeps it
        return descriptor
    finally:
        os.rmdir(point)


def check(result: int) -> int:
    """The result of a system call. Raises OSError for a negative one."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
