"""What a stack may leave behind on the machine: look before, look after, compare; and clear away."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Self

from support.process import command_line, is_zombie, kill_all, name_of, processes_of

CGROUPS: Final = Path("/sys/fs/cgroup")
SHIM_SOCKETS: Final = Path("/run/containerd/s")
NAMED_NETNS: Final = (Path("/run/netns"), Path("/run/docker/netns"))

# A shim's bundle, seen from the folder of its containerd or of the stack.
BUNDLES: Final = ("state", "exec/containerd/daemon")
ADDRESS_NOTES: Final = [
    f"{above}{state}/io.containerd.runtime.v2.task/*/*/address" for above in ("", "*/") for state in BUNDLES
]
MNT_DETACH: Final = 2
# The name of a shim that the zygote has forked ahead, and of its children.
WAITING: Final = "cutaway-waiting"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


@dataclass(frozen=True)
class Leftovers:
    """Parts of the machine's state, each as a set of names.

    With a folder, this is only what has to do with it (mounts below it, cgroups named after it,
    processes and shims at work there), so that what goes on elsewhere makes no difference; network
    namespaces with a name and links are then left out, as a stack has its own namespace for them.
    """

    mounts: frozenset[str]
    cgroups: frozenset[str]
    processes: frozenset[str]
    netns: frozenset[str]
    links: frozenset[str]
    shim_sockets: frozenset[str]

    @classmethod
    def snapshot(cls, folder: Path | None = None) -> Self:
        """Look at the machine now."""
        return cls(
            mounts=frozenset(mounts_below(folder or Path("/"))),
            cgroups=frozenset(cgroups(folder.name if folder else "")),
            processes=frozenset(f"{pid} {line}" for pid, line in processes(folder).items()),
            netns=frozenset(() if folder else named_netns()),
            links=frozenset(() if folder else os.listdir("/sys/class/net")),
            shim_sockets=frozenset(os.fspath(path) for path in shim_sockets(folder)),
        )

    def since(self, before: Leftovers) -> Leftovers:
        """What is there now and was not before."""
        return Leftovers(*(getattr(self, field.name) - getattr(before, field.name) for field in fields(self)))

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        """One line for each thing left."""
        return "\n".join(
            f"{field.name}: {item}" for field in fields(self) for item in sorted(getattr(self, field.name))
        )


def processes(folder: Path | None) -> dict[int, str]:
    """The processes that work below a folder, or all of the machine, with their command lines.

    Without shims that the zygote has forked ahead: these come when they like, and go with it.
    """
    if folder is not None:
        found = processes_of(folder)
    else:
        pids = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
        found = {pid: command_line(pid) for pid in pids if not is_zombie(pid)}
    return {pid: line for pid, line in found.items() if name_of(pid) != WAITING}


def mounts_below(folder: Path) -> list[str]:
    """The mount points at or below a folder, in the order they were mounted."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in map(unescape, points) if Path(point).is_relative_to(folder)]


def unescape(text: str) -> str:
    """Undo mountinfo's way of writing spaces and the like: a backslash and three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def cgroups(name: str = "") -> list[str]:
    """The cgroups of every hierarchy that have a name or are below one that has; all if there is no name."""
    found = (Path(top) for top, _, _ in os.walk(CGROUPS))
    return [os.fspath(path) for path in found if not name or name in path.parts]


def unmount_below(folder: Path) -> None:
    """Unmount everything at or below a folder, what was mounted last first."""
    for point in reversed(mounts_below(folder)):
        if _libc.umount2(os.fsencode(point), MNT_DETACH) < 0:
            number = ctypes.get_errno()
            if number not in (errno.EINVAL, errno.ENOENT):  # another has been quicker
                raise OSError(number, f"umount {point}: {os.strerror(number)}")


def remove_cgroups(name: str) -> None:
    """Remove the cgroups with a name in their path, leaves first; one that is in use stays."""
    for path in reversed(cgroups(name)):
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOENT):
                raise


def named_netns() -> list[str]:
    return [os.fspath(file) for place in NAMED_NETNS for file in place.glob("*")]


def shim_sockets(folder: Path | None) -> list[Path]:
    """The sockets of shims, which are not below the folder of their containerd, but noted there."""
    if folder is None:
        return list(SHIM_SOCKETS.glob("*"))
    notes = [note for pattern in ADDRESS_NOTES for note in folder.glob(pattern)]
    paths = [Path(note.read_text().strip().removeprefix("unix://")) for note in notes]
    return [path for path in paths if path.is_socket()]


def sweep(folder: Path) -> None:
    """End every process that works below a folder, unmount what is mounted there, remove shims' sockets."""
    kill_all(lambda: processes_of(folder))
    unmount_below(folder)
    for path in shim_sockets(folder):
        path.unlink(missing_ok=True)


@contextmanager
def temporary_base() -> Iterator[Path]:
    """A folder for a stack, with a path short enough for sockets far below it; swept and removed after.

    Its name is no other's, so things named after it (cgroups, a containerd namespace) are known by it.
    """
    base = Path(f"/tmp/cw-{secrets.token_hex(4)}")
    base.mkdir(mode=0o711)
    try:
        yield base
    finally:
        sweep(base)
        remove_cgroups(base.name)
        shutil.rmtree(base)
