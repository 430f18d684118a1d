"""Which capabilities a container gets: Docker's default 14, --cap-add, --cap-drop, --privileged."""

from collections.abc import Iterable

from cutaway.engine.spec.inputs import Host
from cutaway.errors import InvalidArgument

DEFAULT = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)

# All there are, in the order of their numbers (capabilities(7)).
ALL = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
    "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip

_EVERYTHING = "ALL"


def effective(add: tuple[str, ...], drop: tuple[str, ...], privileged: bool, host: Host) -> list[str]:
    """The capabilities of a container's first process.

    "All" means all that this machine and the engine itself have: one that the engine lacks could not be
    given anyway, and asking the kernel for it would make every start fail. The default ones are never
    filtered so: a lack there is worth an error.
    Raises `InvalidArgument` for unknown names, and for one asked for by name that cannot be had.
    """
    available = [name for name in ALL if name in host.capabilities]
    if privileged:
        return available
    added, dropped = checked_added(add, host), normalized(drop)
    if _EVERYTHING in added:
        return [name for name in available if name not in dropped]
    if _EVERYTHING in dropped:
        return added
    kept = [name for name in DEFAULT if name not in dropped]
    return kept + [name for name in added if name not in kept]


def checked_added(names: Iterable[str], host: Host) -> list[str]:
    """The normalized names of --cap-add; besides unknown ones, those that cannot be had are refused."""
    found = normalized(names)
    for name in found:
        if name != _EVERYTHING and name not in host.capabilities:
            raise InvalidArgument(
                "capability not supported by your kernel or not available in the current environment: "
                f'"{name}"'
            )
    return found


def normalized(names: Iterable[str]) -> list[str]:
    """`net_admin`, `NET_ADMIN` and `CAP_NET_ADMIN` are the same; so says Docker.

    Raises `InvalidArgument` for a name that is no capability's.
    """
    found = []
    for given in names:
        name = given.strip().upper()
        if name == _EVERYTHING:
            found.append(name)
            continue
        name = name if name.startswith("CAP_") else f"CAP_{name}"
        if name not in ALL:
            raise InvalidArgument(f'unknown capability: "{name}"')
        found.append(name)
    return found
