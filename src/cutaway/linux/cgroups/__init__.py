"""The cgroup of a container, v1, v2 or hybrid, behind one interface (`base.Manager`).

    cgroup = manager(linux.cgroups_path, container_id)
    cgroup.create()
    cgroup.apply(linux.resources)
    cgroup.add(pid)
    ...
    cgroup.kill_all(signal.SIGKILL)
    cgroup.delete()

Only what the machine's layout needs is imported.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.base import Manager


def manager(cgroups_path: str | None, container_id: str) -> "Manager":
    """The cgroup that a configuration's cgroupsPath names; touches nothing yet.

    A relative or absent path is counted from the runtime's own cgroup, as in runc. For cgroups that
    systemd is to make, see `systemd.manager`. Raises `FailedPrecondition` without cgroups.
    """
    from cutaway.linux.cgroups import detect

    inner = detect.inner_path(cgroups_path, container_id)
    if detect.layout().mode == detect.UNIFIED:
        from cutaway.linux.cgroups import v2

        return v2.ManagerV2(v2.path_for(inner))
    from cutaway.linux.cgroups import v1

    return v1.ManagerV1(v1.paths_for(inner))


def from_paths(paths: dict[str, str], unit: str = "", *, user: bool = False) -> "Manager":
    """The cgroup whose `paths()` were kept, e.g. in a runtime's state file; `unit` is systemd's, if it has
    one, and `user` whether it is the user's own systemd's."""
    found: Manager
    if not paths:
        from cutaway.linux.cgroups import none

        return none.NoCgroup()
    if set(paths) == {""}:
        from cutaway.linux.cgroups import v2

        found = v2.ManagerV2(paths[""])
    else:
        from cutaway.linux.cgroups import v1

        found = v1.ManagerV1(paths)
    if not unit:
        return found
    from cutaway.linux.cgroups import systemd

    return systemd.SystemdManager(found, unit, user=user)


def from_pid(pid: int) -> "Manager":
    """The cgroup that a process is in now, e.g. to read its stats. Raises FileNotFoundError without it."""
    from cutaway.linux.cgroups import detect

    mounts = detect.layout()
    own = detect.own_cgroups(pid)
    return from_paths({key: detect.below(mounts, key, own[key]) for key in mounts.mounts if key in own})


def mode() -> str:
    """ "legacy", "hybrid" or "unified"."""
    from cutaway.linux.cgroups import detect

    return detect.layout().mode
