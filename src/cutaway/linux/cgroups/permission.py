"""Which cgroups a caller without root may make: asked of the kernel by access(2), nothing is touched.

A cgroup can be had where the nearest directory that exists may be written, or where it exists itself and
lets us move processes in. That is so in what has been delegated: by systemd to a user's own slice (v2), by
an administrator's chown.
"""

import os

from cutaway.linux.cgroups import detect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.base import Manager
    from cutaway.oci.runtime_spec import Resources

# Hierarchies without controllers beside those of v1: to lack them costs nothing.
_NO_CONTROLLERS = frozenset(("", "name=systemd"))


def permitted(manager: "Manager", *, asked: bool) -> "Manager":
    """The manager without the hierarchies in which its directory cannot be made and entered.

    With `asked`, when the configuration names it, only those are left out that hold no limits.
    """
    from cutaway.linux import cgroups

    paths = manager.paths()
    limiting = set(paths) if manager.version == 2 else set(paths) - _NO_CONTROLLERS
    usable = {key: path for key, path in paths.items() if (asked and key in limiting) or _usable(key, path)}
    if usable == paths:
        return manager
    # A hybrid machine's v2 hierarchy has no controllers: alone it is of no use.
    return cgroups.from_paths({} if set(usable) == {""} else usable)


def _usable(key: str, directory: str) -> bool:
    if key == "" and not _may(f"{_common(directory)}/cgroup.procs", os.W_OK):
        return False
    if os.path.isdir(directory):
        return _may(f"{directory}/cgroup.procs", os.W_OK)
    while not os.path.isdir(directory := os.path.dirname(directory)):
        if directory in (detect.ROOT, "/"):
            return False
    return _may(directory, os.W_OK | os.X_OK)


def _common(directory: str) -> str:
    """The lowest v2 cgroup above both a directory and us: moving a process needs the right to write there
    too (cgroup-v2.rst, "Delegation Containment")."""
    layout = detect.layout()
    above = os.path.commonpath([detect.below(layout, "", detect.own_cgroups()[""]), directory])
    root = layout.mounts[""]
    return above if (above + "/").startswith(root + "/") else root


def _may(path: str, how: int) -> bool:
    return os.access(path, how, effective_ids=True)


def limits(resources: "Resources | None") -> bool:
    """Whether anything but device rules is limited."""
    if resources is None:
        return False
    return any(_asks(value) for name, value in vars(resources).items() if name != "devices")


def _asks(value: object) -> bool:
    return bool(value) if isinstance(value, dict | list | None) else any(vars(value).values())
