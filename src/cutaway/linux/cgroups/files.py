"""Reading and writing the small files of cgroupfs, with errors that carry operation, path and data.

What is opened must be cgroupfs: below a path that somebody else has a hand in, a link or a mount may lead a
limit into a file that keeps it and does nothing (CVE-2025-52881).

The kernel's answers become our error classes here and nowhere else: a value it finds invalid is the
configuration's fault, one it finds busy is the cgroup's state, a missing file a controller that this
kernel or this cgroup lacks.
"""

import errno
import os
import time

from cutaway.errors import (
    CutawayError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
    Unknown,
)
from cutaway.linux import libc, paths, patience

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC = (paths.CGROUP_MAGIC, paths.CGROUP2_MAGIC)
BUSY_FOR = 1.0  # seconds that a dying process may take to leave its cgroup

_CLASSES: "dict[int, type[CutawayError]]" = {
    errno.EINVAL: InvalidArgument,
    errno.ERANGE: InvalidArgument,
    errno.EOVERFLOW: InvalidArgument,
    errno.ENOENT: NotFound,
    errno.ENODEV: NotFound,
    errno.ESRCH: NotFound,
    errno.EBUSY: FailedPrecondition,
    errno.EOPNOTSUPP: FailedPrecondition,
    errno.ENOSPC: FailedPrecondition,
    errno.EPERM: PermissionDenied,
    errno.EACCES: PermissionDenied,
    errno.EROFS: PermissionDenied,
    errno.EAGAIN: Unavailable,
}


def failure(what: str, error: OSError) -> CutawayError:
    """One line in runc's words: operation and path, then the kernel's reason; `code` keeps the errno."""
    cls = _CLASSES.get(error.errno or 0, Unknown)
    raised = cls(f"{what}: {libc.words(error.errno or 0)}")
    raised.code = error.errno  # type: ignore[attr-defined]
    return raised


def code(error: CutawayError) -> int:
    """The errno behind an error raised here, or 0."""
    return getattr(error, "code", 0) or 0


def read(path: str) -> str:
    """The whole of a file."""
    fd = _open(path, os.O_RDONLY)
    chunks = []
    try:
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
    except OSError as error:
        raise failure(f"read {path}", error) from None
    finally:
        os.close(fd)
    return b"".join(chunks).decode()


def read_line(path: str) -> str:
    """A file of one value, by one read(2), without the line's end."""
    fd = _open(path, os.O_RDONLY)
    try:
        return os.read(fd, 4096).decode().strip()
    except OSError as error:
        raise failure(f"read {path}", error) from None
    finally:
        os.close(fd)


def read_or(path: str, default: str) -> str:
    """The whole of a file, or `default` where this kernel or cgroup has no such file."""
    try:
        return read(path)
    except NotFound:
        return default


def write(path: str, data: str) -> None:
    """One write(2): the kernel takes each as one command."""
    _write(path, data, f'"{data}"')


def write_each(path: str, lines: list[str]) -> None:
    """A write(2) for each command, to a file that is opened once."""
    fd = _open(path, os.O_WRONLY)
    try:
        for line in lines:
            try:
                os.write(fd, line.encode())
            except OSError as error:
                raise failure(f'failed to write "{line}": write {path}', error) from None
    finally:
        os.close(fd)


def _write(path: str, data: str, shown: str) -> None:
    fd = _open(path, os.O_WRONLY)
    try:
        os.write(fd, data.encode())
    except OSError as error:
        raise failure(f"failed to write {shown}: write {path}", error) from None
    finally:
        os.close(fd)


def _open(path: str, flags: int) -> int:
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise failure(f"open {path}", error) from None
    if is_cgroupfs(fd):
        return fd
    os.close(fd)
    raise PermissionDenied(f"open {path}: it is not a file of a cgroup file system")


def is_cgroupfs(fd: int) -> bool:
    """Whether a descriptor lies on a cgroup file system, v1 or v2. Raises OSError."""
    return paths.filesystem(fd) in _MAGIC


def open_tasks(directory: str) -> int:
    """A v1 cgroup's `tasks`, for a process to move itself there."""
    return _open(f"{directory}/tasks", os.O_WRONLY)


def write_pid(directory: str, pid: int) -> None:
    """Move a process into a cgroup; pid 0 is the caller.

    EINVAL is retried for a moment: a task that is just being forked cannot be moved yet.
    """
    path = f"{directory}/cgroup.procs"
    for _ in range(5):
        try:
            _write(path, str(pid), str(pid))
            return
        except InvalidArgument:
            time.sleep(0.03)
    _write(path, str(pid), str(pid))


def read_pids(directory: str) -> list[int]:
    """The processes directly in a cgroup; [] when it does not exist.

    A threaded v2 cgroup refuses cgroup.procs, there cgroup.threads is read.
    """
    try:
        text = read_or(f"{directory}/cgroup.procs", "")
    except FailedPrecondition:
        text = read(f"{directory}/cgroup.threads")
    return [int(line) for line in text.split()]


def read_all_pids(directory: str) -> list[int]:
    """The processes in a cgroup and in those below it."""
    found = read_pids(directory)
    for child in children(directory):
        found += read_all_pids(child)
    return found


def read_int(path: str, default: int | None = None) -> int:
    """A file of one number; `max` is the largest unsigned 64-bit number, as v1 kernels write it."""
    text = (read(path) if default is None else read_or(path, str(default))).strip()
    return number(text)


def number(text: str) -> int:
    return (1 << 64) - 1 if text == "max" else int(text)


def read_map(path: str) -> dict[str, int]:
    """A file of lines `key number`; {} when it does not exist."""
    found = {}
    for line in read_or(path, "").splitlines():
        key, _, value = line.partition(" ")
        if value.strip().lstrip("-").isdigit():
            found[key] = int(value)
    return found


def exists(path: str) -> bool:
    return os.access(path, os.F_OK)


def children(directory: str) -> "Iterator[str]":
    """The paths of the cgroups directly below one; none when it does not exist."""
    try:
        with os.scandir(directory) as entries:
            found = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    yield from found


def make(directory: str) -> list[str]:
    """Create a cgroup and its parents; returns the directories that were made, parents first."""
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return []
    except FileNotFoundError:
        made = make(os.path.dirname(directory))
        return made + make(directory)
    except OSError as error:
        raise failure(f"mkdir {directory}", error) from None
    return [directory]


def remove(directory: str, until: float | None = None) -> None:
    """Remove a cgroup and those below it; nothing to do when it does not exist.

    A cgroup whose last process is just dying answers EBUSY for a moment: retried until a time of
    `time.monotonic`, by default for a second.
    """
    if until is None:
        until = time.monotonic() + BUSY_FOR
    if _rmdir(directory):
        return
    for child in children(directory):
        remove(child, until)
    pause = 0.001
    while not _rmdir(directory):
        if time.monotonic() > until:
            pids = read_all_pids(directory)
            inside = f"processes {', '.join(map(str, pids))} are in it" if pids else "it is in use"
            raise FailedPrecondition(f"failed to remove {directory}: {inside}")
        patience.needed()
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def _rmdir(directory: str) -> bool:
    """Whether the directory is gone; False means busy."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise failure(f"rmdir {directory}", error) from None
    return True


def page_sizes() -> list[str]:
    """The machine's huge page sizes as they stand in file names: "2MB", "1GB"."""
    found = []
    for path in children("/sys/kernel/mm/hugepages"):
        size = int(path.rpartition("-")[2].removesuffix("kB"))
        for unit in ("KB", "MB", "GB"):
            if size < 1024 or unit == "GB":
                found.append(f"{size}{unit}")
                break
            size //= 1024
    return found
