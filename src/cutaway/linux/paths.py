"""Paths inside a root that somebody hostile controls: nothing here ever leaves the root.

A container's file system is full of somebody else's links. Walking it by string, checking first and
using later, has been the way out of containers time and again (CVE-2019-16884, CVE-2021-30465,
CVE-2023-28642, CVE-2025-52881). So a path is resolved by the kernel, once, with RESOLVE_IN_ROOT
(openat2(2), Linux 5.6), and what is used afterwards is the descriptor.
"""

import ctypes
import os
import stat

from cutaway.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

O_PATH: int = os.O_PATH
_LINKS_FOLLOWED = 40  # as many as the kernel follows (path_resolution(7))
_DEEPEST = 4096  # as many directories as a path of getcwd(2) can name
_EAGAIN, _ENOENT, _EEXIST, _ENOTDIR, _EPERM, _ENOSYS = 11, 2, 17, 20, 1, 38
_AT_FDCWD, _AT_EACCESS = -100, 0x200

PROC_MAGIC = 0x9FA0
DEVPTS_MAGIC = 0x1CD1
CGROUP_MAGIC = 0x27E0EB
CGROUP2_MAGIC = 0x63677270


def openat2(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2) with O_CLOEXEC. Raises OSError with the path."""
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        result = libc.raw("openat2", directory, path, how, ctypes.sizeof(how))
        if result >= 0:
            return result
        code = ctypes.get_errno()
        if code != _EAGAIN:  # EAGAIN: a rename elsewhere on the system raced with ".."; try again
            libc.fail(code, f"open {path}")


def open_in_root(root: int, path: str, flags: int = O_PATH, *, links: bool = True) -> int:
    """Open `path` as a process chrooted to `root` would see it; no link of /proc is followed.

    With `links=False` no symbolic link at all is followed. Raises OSError.
    """
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | (0 if links else RESOLVE_NO_SYMLINKS)
    return openat2(root, path.lstrip("/") or ".", flags, resolve)


def make_directories(root: int, path: str, mode: int = 0o755) -> int:
    """Create the directories of `path` that are missing inside `root`; a descriptor (O_PATH) of the last.

    A link to what does not exist yet is followed, inside the root, and its target created.
    Raises OSError: ENOTDIR when something else is in the way.
    """
    return _make(root, _clean(path), mode, True, _LINKS_FOLLOWED)


def make_file(root: int, path: str, mode: int = 0o644) -> int:
    """As `make_directories`, with an empty file as the last component unless something is there."""
    return _make(root, _clean(path), mode, False, _LINKS_FOLLOWED)


def _clean(path: str) -> str:
    return os.path.normpath("/" + path).lstrip("/") or "."


def _make(root: int, path: str, mode: int, directory: bool, links: int) -> int:
    try:
        return open_in_root(root, path, O_PATH | (os.O_DIRECTORY if directory else 0))
    except OSError as error:
        if error.errno != _ENOENT:
            verb = "mkdir" if directory else "open"
            libc.fail(error.errno or 0, f"{verb} /{path}")
    head, _, name = path.rpartition("/")
    parent = _make(root, head or ".", 0o755, True, links)
    try:
        if _create(parent, name, mode, directory, path) and directory:
            return os.open(name, O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        target = _link_target(parent, name)
    finally:
        os.close(parent)
    if target is not None:
        if links == 0:
            libc.fail(40, f"mkdir /{path}")
        joined = target if target.startswith("/") else f"{head}/{target}"
        return _make(root, _clean(joined), mode, directory, links - 1)
    return open_in_root(root, path, O_PATH | os.O_NOFOLLOW | (os.O_DIRECTORY if directory else 0))


def _create(parent: int, name: str, mode: int, directory: bool, path: str) -> bool:
    """Whether it had to be made."""
    try:
        if directory:
            os.mkdir(name, mode, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=parent))
    except OSError as error:
        if error.errno != _EEXIST:
            libc.fail(error.errno or 0, f"{'mkdir' if directory else 'open'} /{path}")
        return False
    return True


def _link_target(parent: int, name: str) -> str | None:
    """Where a symbolic link points, or None when `name` is none."""
    if not stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        return None
    return os.readlink(name, dir_fd=parent)


def may_execute(path: str) -> bool:
    """Whether the process's present rights let it execute a file (faccessat2(2), Linux 5.8).

    Where a seccomp filter refuses the question, the answer is left to execve(2): True if anybody may.
    """
    if libc.raw("faccessat2", _AT_FDCWD, path, os.X_OK, _AT_EACCESS) == 0:
        return True
    refused = ctypes.get_errno() in (_EPERM, _ENOSYS)
    return refused and bool(os.stat(path).st_mode & 0o111)


def is_inside_root() -> bool:
    """Whether the working directory is in the process's root, where `..` leads from it to `/`.

    getcwd(2) says it in one call; a seccomp filter may refuse that one, then the way up is walked.
    """
    try:
        return os.getcwd().startswith("/")
    except FileNotFoundError:
        return False
    except OSError:
        return _leads_to_root()


def _leads_to_root() -> bool:
    fd = os.open(".", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(_DEEPEST):
            above = os.open("..", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            here, fd = fd, above
            same = os.path.samestat(os.fstat(here), os.fstat(above))
            os.close(here)
            if same:  # a root: of ours, or of what lies outside of it
                return os.path.samestat(os.fstat(above), os.stat("/"))
        return False
    finally:
        os.close(fd)


def parents(path: str) -> "Iterator[str]":
    """Every directory above an absolute path, the nearest first."""
    while path not in ("/", ""):
        path = os.path.dirname(path)
        yield path


class _StatFs(ctypes.Structure):
    """struct statfs of the 64-bit architectures; only type and flags are used."""

    _fields_ = [
        ("type", ctypes.c_long),
        ("bsize", ctypes.c_long),
        ("blocks", ctypes.c_ulong),
        ("bfree", ctypes.c_ulong),
        ("bavail", ctypes.c_ulong),
        ("files", ctypes.c_ulong),
        ("ffree", ctypes.c_ulong),
        ("fsid", ctypes.c_int * 2),
        ("namelen", ctypes.c_long),
        ("frsize", ctypes.c_long),
        ("flags", ctypes.c_long),
        ("spare", ctypes.c_long * 4),
    ]


def _statfs(fd: int) -> _StatFs:
    found = _StatFs()
    if libc.fstatfs(fd, ctypes.byref(found)) < 0:
        libc.fail(ctypes.get_errno(), "fstatfs")
    return found


def filesystem(fd: int) -> int:
    """The magic number of the file system that a descriptor lies on (statfs(2)). Raises OSError."""
    return int(_statfs(fd).type) & 0xFFFFFFFF


def mount_flags(fd: int) -> int:
    """The ST_* flags of the mount that a descriptor lies on (statvfs(3)). Raises OSError."""
    return int(_statfs(fd).flags)
