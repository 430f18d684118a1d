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


def permitted(manager: "Manager") -> "Manager":
    """The manager without the hierarchies in which its directory cannot be made."""
    from cutaway.linux import cgroups

    paths = manager.paths()
    usable = {key: path for key, path in paths.items() if _usable(path)}
    if usable == paths:
        return manager
    # A hybrid machine's v2 hierarchy has no controllers: alone it is of no use.
    return cgroups.from_paths({} if set(usable) == {""} else usable)


def _usable(directory: str) -> bool:
    if os.path.isdir(directory):
        return _may(f"{directory}/cgroup.procs", os.W_OK)
    while not os.path.isdir(directory := os.path.dirname(directory)):
        if directory in (detect.ROOT, "/"):
            return False
    return _may(directory, os.W_OK | os.X_OK)


def _may(path: str, how: int) -> bool:
    return os.access(path, how, effective_ids=True)


def limits(resources: "Resources | None") -> bool:
    """Whether anything but device rules is limited."""
    if resources is None:
        return False
    return any(_asks(value) for name, value in vars(resources).items() if name != "devices")


def _asks(value: object) -> bool:
    return bool(value) if isinstance(value, dict | list | None) else any(vars(value).values())
