"""Which cgroup hierarchies this machine has mounted, and where we are in them.

Three layouts exist (cgroups(7), systemd's "Control Group APIs and Delegation"):

    legacy   a v1 hierarchy for each controller
    hybrid   the same, and a v2 hierarchy beside them at .../unified, mostly without controllers
    unified  v2 alone, at /sys/fs/cgroup
"""

import os

from cutaway.errors import FailedPrecondition
from cutaway.linux import smallfile

LEGACY, HYBRID, UNIFIED = "legacy", "hybrid", "unified"

ROOT = "/sys/fs/cgroup"


class Layout:
    """`mounts`: controller -> mount point; `name=systemd` for the named v1 hierarchy, "" for v2.

    `roots`: the same keys -> the cgroup that the mount point shows; not "/" where a container sees
    only its own subtree.
    """

    __slots__ = ("mode", "mounts", "roots")

    def __init__(self, mode: str, mounts: dict[str, str], roots: dict[str, str]) -> None:
        self.mode = mode
        self.mounts = mounts
        self.roots = roots


_layout: Layout | None = None


def layout() -> Layout:
    """The layout of this machine, looked up once a process.

    Raises `FailedPrecondition` when no cgroup hierarchy is mounted.
    """
    global _layout
    if _layout is None:
        _layout = parse(os.fsdecode(smallfile.read("/proc/self/mountinfo")))
    return _layout


def parse(mountinfo: str) -> Layout:
    """The layout that a mountinfo text (proc_pid_mountinfo(5)) describes.

    Of several mounts of one hierarchy the one below /sys/fs/cgroup wins, else the first.
    """
    mounts: dict[str, str] = {}
    roots: dict[str, str] = {}
    for line in mountinfo.splitlines():
        if " - cgroup" not in line:
            continue
        head, _, tail = line.partition(" - ")
        root, point = head.split()[3:5]
        kind, _, options = tail.split(" ", 2)
        for key in [""] if kind == "cgroup2" else _controllers(options):
            if key not in mounts or (point.startswith(ROOT) and not mounts[key].startswith(ROOT)):
                mounts[key], roots[key] = _unescape(point), _unescape(root)
    if not mounts:
        raise FailedPrecondition(
            f"no cgroup hierarchy is mounted; mount one, e.g. mount -t cgroup2 cgroup2 {ROOT}"
        )
    mode = UNIFIED if list(mounts) == [""] else HYBRID if "" in mounts else LEGACY
    return Layout(mode, mounts, roots)


# What a v1 mount's super options may hold besides controllers.
_NOT_CONTROLLERS = {"rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"}


def _controllers(options: str) -> list[str]:
    words = options.split()[-1].split(",")
    return [
        word
        for word in words
        if word not in _NOT_CONTROLLERS and (word.startswith("name=") or "=" not in word)
    ]


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, char)
    return text


def own_cgroups(pid: int | str = "self") -> dict[str, str]:
    """A process's cgroup in every hierarchy: controller -> path; "" is v2 (/proc/PID/cgroup)."""
    found = {}
    for line in os.fsdecode(smallfile.read(f"/proc/{pid}/cgroup")).rstrip("\n").split("\n"):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def below(mounts: Layout, key: str, path: str) -> str:
    """The directory of a cgroup whose path is as /proc/PID/cgroup gives it."""
    root = mounts.roots[key]
    if root != "/" and (path + "/").startswith(root + "/"):
        path = path[len(root) :]
    return os.path.normpath(f"{mounts.mounts[key]}/{path}")


def inner_path(cgroups_path: str | None, container_id: str) -> str:
    """A configuration's cgroupsPath without anything that could lead out of the hierarchy.

    Absolute stays absolute (counted from the hierarchy's root), relative stays relative (counted from
    where the runtime is); absent means the container's id, relative. ".." cannot leave either.
    """
    path = cgroups_path or container_id
    clean = os.path.normpath("/" + path.lstrip("/"))
    return clean if path.startswith("/") else clean.lstrip("/")
