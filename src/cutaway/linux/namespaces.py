"""Namespaces: their kinds, and the calls that make and join them (namespaces(7))."""

import ctypes
import os

from cutaway.errors import InvalidArgument, NotFound
from cutaway.linux import libc, procfs

# OCI's name -> (flag for clone and unshare, name in /proc/PID/ns)
KINDS = {
    "user": (0x10000000, "user"),
    "ipc": (0x08000000, "ipc"),
    "uts": (0x04000000, "uts"),
    "network": (0x40000000, "net"),
    "pid": (0x20000000, "pid"),
    "mount": (0x00020000, "mnt"),
    "cgroup": (0x02000000, "cgroup"),
    "time": (0x00000080, "time"),
}

CLONE_PARENT = 0x8000
_CLONE_INTO_CGROUP = 0x200000000
SIGCHLD = 17
_NS_GET_NSTYPE = 0xB703
_TIMENS_OFFSETS = "/proc/self/timens_offsets"


def flag(kind: str) -> int:
    """The CLONE_NEW* bit of an OCI namespace type."""
    return KINDS[kind][0]


def clone(flags: int) -> int:
    """Fork into new namespaces: 0 in the child, its pid (seen from the caller's pid namespace) in the parent.

    A raw clone(2) with a null stack behaves as fork. Only for a process with one thread. glibc's fork
    handlers do not run, which is sound with one thread. CLONE_NEWTIME is not a flag of clone(2): its
    bit belongs to the exit signal; use `unshare` first.
    """
    result = libc.raw_held("clone", flags | SIGCHLD, 0, 0, 0, 0)
    if result < 0:
        libc.fail(ctypes.get_errno(), f"clone {describe(flags)}")
    return result


def clone_into(flags: int, cgroup: int) -> int:
    """As `clone`, the child born in the v2 cgroup that a descriptor names (clone3(2), Linux 5.7).

    Raises OSError: ENOSYS where clone3 is blocked, EBUSY for a cgroup that takes no processes itself.
    """
    exit_signal = 0 if flags & CLONE_PARENT else SIGCHLD  # a sibling ends with its creator's own signal
    arguments = (ctypes.c_uint64 * 11)(
        flags | _CLONE_INTO_CGROUP, 0, 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup
    )
    result = libc.raw_held("clone3", arguments, ctypes.sizeof(arguments))
    if result < 0:
        libc.fail(ctypes.get_errno(), f"clone {describe(flags)}")
    return result


def unshare(flags: int) -> None:
    """Move the caller into new namespaces (pid and time: its future children). Raises OSError."""
    libc.syscall("unshare", flags, what=f"unshare {describe(flags)}")


def setns(fd: int, kinds: int, what: str = "setns") -> None:
    """Join the namespace that `fd` (a namespace file, or a pidfd since 5.8) names. Raises OSError."""
    libc.syscall("setns", fd, kinds, what=what)


def describe(flags: int) -> str:
    """The flags by name, for messages."""
    return "|".join(f"new {kind}" for kind, (bit, _) in KINDS.items() if flags & bit) or "plain"


def file_of(kind: str, pid: int | str = "self") -> str:
    """The file that stands for a process's namespace of an OCI type."""
    return f"/proc/{pid}/ns/{KINDS[kind][1]}"


def kind_of(fd: int) -> str | None:
    """The OCI type of the namespace that a descriptor stands for (ioctl_ns(2)); None if it is none."""
    import fcntl

    try:
        bit = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        return None
    return next((kind for kind, (flag_, _) in KINDS.items() if flag_ == bit), None)


def open_file(kind: str, path: str, where: str) -> int:
    """Open a namespace by a path that a configuration gives at `where`.

    Raises `NotFound` in the words of runc, and `InvalidArgument` when what is there is of another kind.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        reason = libc.words(error.errno or 0)
        raise NotFound(
            f"unable to create new parent process: namespace path: lstat {path}: {reason}"
        ) from None
    found = kind_of(fd)
    if found == kind:
        return fd
    os.close(fd)
    if found is None:
        raise InvalidArgument(f"{where}: {path} is not a namespace (expected one of type {kind})")
    raise InvalidArgument(f"{where}: {path} is a namespace of type {found}, expected {kind}")


def inode(kind: str, pid: int | str = "self") -> int:
    """The namespace's inode number, as `lsns` and `readlink /proc/PID/ns/...` show it; 0 when unknown."""
    try:
        return os.stat(file_of(kind, pid)).st_ino
    except OSError:
        return 0


def write_id_map(pid: int, which: str, mappings: list[tuple[int, int, int]]) -> None:
    """Set the `uid` or `gid` map of a process's user namespace: (inside, outside, how many) each.

    One write is all the kernel takes (user_namespaces(7)). Raises OSError.
    """
    text = "".join(f"{inside} {outside} {size}\n" for inside, outside, size in mappings)
    procfs.write(f"/proc/{pid}/{which}_map", text.encode())


def deny_setgroups(pid: int) -> None:
    """Give up setgroups(2) in a process's user namespace: what an unprivileged gid map needs (Linux 3.19)."""
    procfs.write(f"/proc/{pid}/setgroups", b"deny")


def write_time_offsets(offsets: dict[str, tuple[int, int]], proc: int) -> None:
    """Shift the clocks (`monotonic`, `boottime`) of the time namespace made by `unshare`.

    `proc` is the host's /proc: the mount namespace may be another's by now. Possible until the first
    process enters the time namespace (time_namespaces(7)). Raises OSError, `PermissionDenied`.
    """
    text = "".join(f"{clock} {secs} {nanos}\n" for clock, (secs, nanos) in offsets.items())
    procfs.write(_TIMENS_OFFSETS, text.encode(), proc)
