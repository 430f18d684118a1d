"""A container's cgroup as a unit of systemd: it makes the cgroup, we write the limits to both.

`cgroupsPath` is `slice:prefix:name`; the unit is the scope `prefix-name.scope` in that slice, or the slice
`name` itself when it ends in .slice. A scope begins with a process in it, so the cgroup is made when init
enters it, not before. Properties: systemd.resource-control(5); calls: org.freedesktop.systemd1(5).
"""

import os

from cutaway.errors import AlreadyExists, CutawayError, FailedPrecondition, InvalidArgument
from cutaway.linux.cgroups import detect, files
from cutaway.linux.cgroups.base import Manager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.oom import OomWatch
    from cutaway.linux.cgroups.stats import Stats
    from cutaway.linux.cgroups.systemd_bus import Systemd
    from cutaway.linux.dbus.wire import Variant
    from cutaway.oci.runtime_spec import Resources

RUNNING = "/run/systemd/system"
DEFAULT_SLICE, USER_SLICE = "system.slice", "user.slice"
PREFIX = "runc"


def require() -> None:
    """Raises `FailedPrecondition` where systemd is not process 1 (sd_booted(3))."""
    if not os.path.isdir(RUNNING) or os.path.islink(RUNNING):
        raise FailedPrecondition("systemd not running on this host, cannot use systemd cgroups manager")


class Unit:
    """The names that a configuration's cgroupsPath stands for."""

    __slots__ = ("container", "name", "parent")

    def __init__(self, cgroups_path: str | None, container_id: str) -> None:
        """Raises `InvalidArgument` for a path of another form."""
        parts = (cgroups_path or f":{PREFIX}:{container_id}").split(":")
        if len(parts) != 3:
            raise InvalidArgument(
                'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
                f'got "{cgroups_path}" instead'
            )
        self.parent, prefix, self.container = parts
        self.name = (
            self.container if self.container.endswith(".slice") else f"{prefix}-{self.container}.scope"
        )
        if "/" in self.name or self.name in (".slice", "-.scope"):
            raise InvalidArgument(f'invalid unit name "{self.name}" of cgroupsPath "{cgroups_path}"')

    @property
    def is_slice(self) -> bool:
        return self.name.endswith(".slice")


def expand_slice(name: str) -> str:
    """Where a slice is: `a-b.slice` is `/a.slice/a-b.slice` (systemd.slice(5)). Raises `InvalidArgument`."""
    stem = name.removesuffix(".slice")
    if stem == name or not stem or "/" in name:
        raise InvalidArgument(f"invalid slice name: {name}")
    if stem == "-":
        return "/"
    path, prefix = "", ""
    for part in stem.split("-"):
        if not part:
            raise InvalidArgument(f"invalid slice name: {name}")
        path += f"/{prefix}{part}.slice"
        prefix += f"{part}-"
    return path


def manager(
    cgroups_path: str | None, container_id: str, properties: "dict[str, Variant]", *, user: bool
) -> "SystemdManager":
    """The cgroup of a container to be; starts nothing yet. `user`: ask the user's own systemd.

    Raises `FailedPrecondition` without systemd, `InvalidArgument` for a bad path.
    """
    require()
    unit = Unit(cgroups_path, container_id)
    slice_ = unit.parent or (USER_SLICE if user else DEFAULT_SLICE)
    inner = f"{expand_slice(slice_)}/{unit.name}"
    if user:
        from cutaway.linux.cgroups.systemd_bus import Systemd

        with Systemd(user=True) as systemd:
            inner = f"{systemd.manager_property('ControlGroup')}/{inner}"
    if detect.layout().mode == detect.UNIFIED:
        from cutaway.linux.cgroups.v2 import ManagerV2, path_for

        below: Manager = ManagerV2(path_for(f"/{inner.lstrip('/')}"))
    else:
        from cutaway.linux.cgroups.v1 import ManagerV1

        below = ManagerV1(_paths_v1(inner))
    found = SystemdManager(below, unit.name, user=user)
    found.slice = slice_
    found.container = unit.container
    found.properties = properties
    return found


def _paths_v1(inner: str) -> dict[str, str]:
    """Counted from where process 1 is, which since systemd 226 is init.scope below the root."""
    from cutaway.linux.cgroups import v1

    layout, init = detect.layout(), detect.own_cgroups(1)
    paths = {}
    for key in v1.ORDER:
        if key in layout.mounts:
            top = init.get(key, "/").removesuffix("init.scope")
            start = detect.below(layout, key, top)
            paths[key] = os.path.normpath(f"{start}/{inner}")
    return paths


class SystemdManager(Manager):
    """`base.Manager` with a unit around the cgroups of another."""

    made_by_entry = True

    def __init__(self, inner: Manager, unit: str, *, user: bool) -> None:
        super().__init__(inner.paths())
        self.inner = inner
        self.version = inner.version
        self.unit = unit
        self.user = user
        self.slice = DEFAULT_SLICE
        self.container = unit
        self.properties: dict[str, Variant] = {}
        self.resources: Resources | None = None
        self.owner: int | None = None
        self.started = False

    def _systemd(self) -> "Systemd":
        from cutaway.linux.cgroups.systemd_bus import Systemd

        return Systemd(user=self.user)

    def main_path(self) -> str:
        return self.inner.main_path()

    def check(self, resources: "Resources | None") -> None:
        self.inner.check(resources)

    def create(self, resources: "Resources | None" = None) -> list[str]:
        """Nothing yet: the unit comes with its first process."""
        self.resources = resources
        return []

    def delegate(self, uid: int) -> None:
        self.owner = uid

    def add(self, pid: int) -> None:
        """Start the unit with a process in it, then make and enter what systemd does not manage.

        Raises `AlreadyExists` for a unit that others run.
        """
        from cutaway.linux.cgroups import systemd_properties

        wanted = systemd_properties.of_unit(self.unit, self.slice, self.container, pid, self.version)
        with self._systemd() as systemd:
            try:
                systemd.start(self.unit, [*wanted, *self.properties.items()])
            except AlreadyExists:
                if not self.unit.endswith(".slice"):
                    raise  # a slice may be shared
            self.started = True
        self.inner.create(self.resources)
        for key, directory in self._paths.items():
            if key != "name=systemd" and not (self.version == 2 and not self.unit.endswith(".slice")):
                files.write_pid(directory, pid)
        if self.owner is not None:
            self.inner.delegate(self.owner)

    def apply(self, resources: "Resources | None", *, devices: bool = True) -> None:
        """To systemd first, which would else write its own idea over ours at the next reload."""
        from cutaway.linux.cgroups import systemd_properties

        with self._systemd() as systemd:
            wanted = systemd_properties.of_resources(
                resources, self.version, systemd.version(), self.inner, devices=devices
            )
            # On v1 systemd closes every device for a moment when it is told anything.
            freeze = self.version == 1 and not devices and not self.inner.frozen()
            if freeze:
                self.inner.freeze()
            try:
                systemd.set_properties(self.unit, wanted)
            finally:
                if freeze:
                    self.inner.thaw()
        self.inner.apply(resources, devices=devices)

    def apply_devices(self, resources: "Resources | None") -> None:
        self.inner.apply_devices(resources)

    def delete(self) -> None:
        """Stop the unit, then remove what is left of its cgroups."""
        problem: CutawayError | None = None
        try:
            with self._systemd() as systemd:
                systemd.stop(self.unit)
        except CutawayError as error:
            problem = error
        self.inner.delete()
        if problem is not None:
            raise problem

    def pids(self) -> list[int]:
        return self.inner.pids()

    def freeze(self) -> None:
        self.inner.freeze()

    def thaw(self) -> None:
        self.inner.thaw()

    def frozen(self) -> bool:
        return self.inner.frozen()

    def kill_all(self, signal: int) -> None:
        if self.inner.exists():  # systemd removes the cgroup of a scope whose last process has ended
            self.inner.kill_all(signal)

    def stats(self) -> "Stats":
        return self.inner.stats()

    def oom_kills(self) -> int:
        return self.inner.oom_kills() if self.inner.exists() else 0

    def oom_events(self) -> "OomWatch":
        return self.inner.oom_events()
