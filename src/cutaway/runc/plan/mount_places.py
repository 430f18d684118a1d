"""Where in the container nothing may be mounted, or only some things."""

import os

from cutaway.errors import FailedPrecondition, PermissionDenied
from cutaway.linux import paths
from cutaway.runc.plan.step import Here

# Below /proc only these may be mounted over: what lxcfs makes up for a container.
PROC_ALLOWED = frozenset(
    "/proc/" + name
    for name in (
        "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo",
        "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
    )
)  # fmt: skip


def ordinary_directory(here: Here, kind: str, destination: str) -> int:
    """The directory for a proc or sysfs: no link anywhere in its path (CVE-2019-16884, CVE-2023-28642)."""
    try:
        return paths.open_in_root(here.root, destination, paths.O_PATH | os.O_DIRECTORY, links=False)
    except FileNotFoundError:
        os.close(paths.make_directories(here.root, destination))
        return paths.open_in_root(here.root, destination, paths.O_PATH | os.O_DIRECTORY, links=False)
    except PermissionError:
        raise
    except OSError:
        raise PermissionDenied(f'filesystem "{kind}" must be mounted on ordinary directory') from None


def check(here: Here, target: int, destination: str, kind: str) -> None:
    """Raise for a place that nothing may cover: the root itself, and what a procfs tells.

    `kind` is the type of what comes there: a procfs may cover another. Raises `PermissionDenied`, and
    `FailedPrecondition` for the root.
    """
    clean = os.path.normpath(destination)
    if clean == "/proc":
        if kind != "proc":
            raise PermissionDenied('"/proc" cannot be mounted because it is not of type proc')
        return
    if paths.filesystem(target) == paths.PROC_MAGIC and clean not in PROC_ALLOWED:
        raise PermissionDenied(f'"{clean}" cannot be mounted because it is inside /proc')
    if _is_root(here, target):
        path = os.readlink(str(here.root), dir_fd=here.host_fds)
        raise FailedPrecondition(
            f'create mountpoint for {clean} mount: mountpoint "{path}" is on the top of rootfs "{path}"'
        )


def _is_root(here: Here, target: int) -> bool:
    """Whether a mount there would cover the root; what is mounted afterwards would go below it."""
    if here.root_stat is None:
        here.root_stat = os.fstat(here.root)
    if not os.path.samestat(os.fstat(target), here.root_stat):
        return False
    names = [os.readlink(str(fd), dir_fd=here.host_fds) for fd in (target, here.root)]
    return names[0] == names[1]  # else it is a second mount of the same directory
