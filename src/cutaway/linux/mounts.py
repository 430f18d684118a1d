"""Mounting: mount(2), pivot_root(2) and the descriptor-based calls of Linux 5.2 to 5.12."""

import ctypes
import os

from cutaway.linux import libc, smallfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
MS_I_VERSION = 0x800000
MS_STRICTATIME = 0x1000000
MS_LAZYTIME = 0x2000000

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

AT_FDCWD = -100
_EINVAL = 22
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = 0o2000000
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_ATIME = 0x70
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000


# What a superblock takes by these names, and not a mount point (fsconfig flags).
_SUPERBLOCK = {MS_SYNCHRONOUS: "sync", MS_DIRSYNC: "dirsync", MS_MANDLOCK: "mand", MS_LAZYTIME: "lazytime"}
# File systems that there is one of on the host: read-only must be the mount's affair alone.
_SHARED = frozenset({"cgroup", "cgroup2", "configfs", "debugfs", "pstore", "securityfs", "tracefs"})
_ATTRIBUTES = {
    MS_RDONLY: MOUNT_ATTR_RDONLY,
    MS_NOSUID: MOUNT_ATTR_NOSUID,
    MS_NODEV: MOUNT_ATTR_NODEV,
    MS_NOEXEC: MOUNT_ATTR_NOEXEC,
    MS_NOATIME: MOUNT_ATTR_NOATIME,
    MS_STRICTATIME: MOUNT_ATTR_STRICTATIME,
    MS_NODIRATIME: MOUNT_ATTR_NODIRATIME,
    MS_NOSYMFOLLOW: MOUNT_ATTR_NOSYMFOLLOW,
}
ATIME = MS_NOATIME | MS_STRICTATIME | MS_RELATIME | MS_NODIRATIME
# What a mount keeps for good when it is taken over by a lesser user namespace (mount_namespaces(7)).
LOCKABLE = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
_ATTRIBUTE_NAMES = {
    MOUNT_ATTR_RDONLY: "MS_RDONLY",
    MOUNT_ATTR_NOSUID: "MS_NOSUID",
    MOUNT_ATTR_NODEV: "MS_NODEV",
    MOUNT_ATTR_NOEXEC: "MS_NOEXEC",
}
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_FSCONFIG_CMD_RECONFIGURE = 7
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = _FSPICK_CLOEXEC = 1
_FSPICK_EMPTY_PATH = 8


def attributes(flags: int) -> int:
    """mount(2)'s per-mount flags as mount_setattr(2)'s; of the atime ones strictatime wins, as there."""
    if flags & MS_STRICTATIME:
        flags &= ~MS_NOATIME
    return sum(attribute for flag, attribute in _ATTRIBUTES.items() if flags & flag)


def attribute_names(attributes_: int) -> str:
    """Lockable attributes as runc writes them in errors."""
    return "|".join(name for bit, name in _ATTRIBUTE_NAMES.items() if attributes_ & bit)


def filesystem(kind: str, source: str, flags: int, data: list[str], *, shown: str) -> int:
    """A new file system, mounted nowhere yet: a descriptor for `move_mount` (fsopen(2), Linux 5.2).

    `data` are its own options, `key=value` or `key`; `shown` is where it will go, for the error's text,
    which has the form of runc's. Raises OSError.
    """
    try:
        context = libc.syscall("fsopen", kind, _FSOPEN_CLOEXEC)
        try:
            _configure(context, kind, source, flags, data)
            return libc.syscall("fsmount", context, _FSMOUNT_CLOEXEC, attributes(flags))
        finally:
            os.close(context)
    except OSError as error:
        _fail(error, source, shown, flags, data)


def reconfigure(place: int, kind: str, flags: int, data: list[str], *, shown: str) -> None:
    """Change a mounted file system's own options, by a descriptor of its mount (fspick(2), Linux 5.2).

    Where it is the only one of the host, nothing is done: it is not the container's. Raises OSError.
    """
    if kind in _SHARED:
        return
    try:
        context = libc.syscall("fspick", place, "", _FSPICK_CLOEXEC | _FSPICK_EMPTY_PATH)
        try:
            _set_flag(context, "ro" if flags & MS_RDONLY else "rw")
            _set_options(context, flags, data)
            libc.syscall("fsconfig", context, _FSCONFIG_CMD_RECONFIGURE, None, None, 0)
        finally:
            os.close(context)
    except OSError as error:
        _fail(error, "", shown, flags | MS_REMOUNT, data)


def _fail(error: OSError, source: str, shown: str, flags: int, data: list[str]) -> "NoReturn":
    text = f"mount {source}:{shown}" + (f", flags: {flags:#x}" if flags else "")
    libc.fail(error.errno or 0, text + (f", data: {','.join(data)}" if data else ""))


def _configure(context: int, kind: str, source: str, flags: int, data: list[str]) -> None:
    libc.syscall("fsconfig", context, _FSCONFIG_SET_STRING, "source", source, 0)
    if flags & MS_RDONLY and kind not in _SHARED:
        _set_flag(context, "ro")
    _set_options(context, flags, data)
    libc.syscall("fsconfig", context, _FSCONFIG_CMD_CREATE, None, None, 0)


def _set_flag(context: int, name: str) -> None:
    libc.syscall("fsconfig", context, _FSCONFIG_SET_FLAG, name, None, 0)


def _set_options(context: int, flags: int, data: list[str]) -> None:
    for bit, name in _SUPERBLOCK.items():
        if flags & bit:
            _set_flag(context, name)
    for option in data:
        key, equals, value = option.partition("=")
        if equals:
            libc.syscall("fsconfig", context, _FSCONFIG_SET_STRING, key, value, 0)
        elif key:
            _set_flag(context, key)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2), where a path of our own is at hand. Raises OSError."""
    libc.syscall("mount", source, target, kind, flags, data, what=f"mount {target}")


def umount(target: str, flags: int = 0) -> None:
    """umount2(2). Raises OSError."""
    libc.syscall("umount2", target, flags, what=f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2). Raises OSError."""
    libc.syscall("pivot_root", new, old, what="pivot_root")


def open_tree(fd: int, path: str = "", *, recursive: bool = False) -> int:
    """A detached copy of the mount at `fd` or, below it, at `path` (open_tree(2), Linux 5.2)."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return libc.syscall("open_tree", fd, path, flags | _AT_EMPTY_PATH, what=f"open_tree {path}".rstrip())


def move_mount(tree: int, target: int, name: str = "", *, shown: str = "") -> None:
    """Attach a detached mount on what a descriptor names: no path is walked (move_mount(2), Linux 5.2).

    With `name`, on that entry of the directory: one component, and no link is followed.
    """
    flags = _MOVE_MOUNT_F_EMPTY_PATH | (0 if name else _MOVE_MOUNT_T_EMPTY_PATH)
    libc.syscall("move_mount", tree, "", target, name, flags, what=f"move_mount {shown}".rstrip())


def mount_setattr(
    fd: int, set_: int, clear: int, *, propagation: int = 0, userns: int = 0, recursive: bool = False
) -> None:
    """Change a mount's attributes, with all below it when `recursive` (mount_setattr(2), Linux 5.12)."""
    wanted = (ctypes.c_uint64 * 4)(set_, clear, propagation, userns)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    libc.syscall("mount_setattr", fd, "", flags, wanted, ctypes.sizeof(wanted))


def map_ids(tree: int, userns: int, *, recursive: bool = False) -> None:
    """Show the files of a detached mount with their owners mapped by a user namespace's maps.

    Raises OSError: EINVAL where the file system does not know how (mount_setattr(2), "ID-mapped mounts").
    """
    mount_setattr(tree, MOUNT_ATTR_IDMAP, 0, userns=userns, recursive=recursive)


def change(fd: int, flags: int) -> None:
    """Set mount(2)'s per-mount flags of the mount at a descriptor, and leave the others. Raises OSError."""
    if wanted := attributes(flags):
        mount_setattr(fd, wanted, MOUNT_ATTR_ATIME if wanted & MOUNT_ATTR_ATIME else 0)


def _points() -> list[bytes]:
    """The mount points of our mount namespace, from /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    lines = smallfile.read("/proc/self/mountinfo").rstrip(b"\n").split(b"\n")
    return [unescape(line.split(b" ", 5)[4]) for line in lines]


def stacked(path: str) -> int:
    """How many mounts are stacked on a directory."""
    return _points().count(os.fsencode(path))


def make_private_above(path: str) -> None:
    """Make the mount that a directory lies on private; `path` is without links. Raises OSError.

    The kernel is asked of each name upwards whether it is a mount point: a host's list of mounts may be long.
    """
    point = path
    while libc.raw("mount", None, point, None, MS_PRIVATE, None) < 0:
        code = ctypes.get_errno()
        if code != _EINVAL or point == "/":
            libc.fail(code, f"mount {point}")
        point = os.path.dirname(point)


def unescape(text: bytes) -> bytes:
    """Undo mountinfo's octal escapes (space, tab, newline, backslash)."""
    if b"\\" not in text:
        return text
    for octal, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        text = text.replace(octal, char)
    return text
