"""Facts of the machine: what the spec builder must know, and what `docker info` tells."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from cutaway.engine.spec.inputs import Host, HostDevice

# Order of include/uapi/linux/capability.h; the number is the bit.
_CAPABILITIES: Final = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
# Nodes of these belong to a terminal session or to a container's own devpts.
_SKIPPED_DIRS: Final = ("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev")


@cache
def host() -> Host:
    """What of the machine never changes while it is up (devices are looked up when they are needed)."""
    release = os.uname().release.split(".")
    return Host(
        cgroup_version=2 if has_cgroup2() else 1,
        kernel=(int(release[0]), int("".join(filter(str.isdigit, release[1])) or "0")),
        architecture=os.uname().machine,
        capabilities=bounding_set(),
        seccomp=Path("/proc/sys/kernel/seccomp/actions_avail").exists(),
    )


def has_cgroup2() -> bool:
    """Whether the host runs on the unified hierarchy alone."""
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def bounding_set() -> frozenset[str]:
    """The capabilities that this process, and so any container, can have at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            mask = int(line.split()[1], 16)
            return frozenset(f"CAP_{name}" for bit, name in enumerate(_CAPABILITIES) if mask >> bit & 1)
    return frozenset()


def device_at(path: str, inside: str) -> HostDevice | None:
    """The device node at a path, as it is to appear in the container; None if it is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        return HostDevice(
            path=inside,
            type="c" if stat.S_ISCHR(found.st_mode) else "b",
            major=os.major(found.st_rdev),
            minor=os.minor(found.st_rdev),
            mode=stat.S_IMODE(found.st_mode),
            uid=found.st_uid,
            gid=found.st_gid,
        )
    return None


def devices_below(folder: str = "/dev") -> Iterator[HostDevice]:
    """Every device node below a folder, as a privileged container gets them."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_symlink():
                continue
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _SKIPPED_DIRS:
                    yield from devices_below(entry.path)
            elif entry.name != "console" and (device := device_at(entry.path, entry.path)):
                yield device


def memory_total() -> int:
    """Bytes of memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def operating_system() -> tuple[str, str]:
    """The distribution's name and its version, from os-release(5)."""
    values: dict[str, str] = {}
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        if Path(path).exists():
            for line in Path(path).read_text(errors="replace").splitlines():
                key, _, value = line.partition("=")
                values.setdefault(key, value.strip("\"'"))
    return values.get("PRETTY_NAME", "Linux"), values.get("VERSION_ID", "")
