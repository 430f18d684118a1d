"""A container's cgroups on v1 and hybrid machines: one directory in each hierarchy.

Kernel: Documentation/admin-guide/cgroup-v1/.
"""

import os
import time

from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument, NotFound
from cutaway.linux.cgroups import detect, files
from cutaway.linux.cgroups.base import Manager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.oom import OomWatch
    from cutaway.linux.cgroups.stats import Stats
    from cutaway.oci.runtime_spec import Cpu, Resources

# Made, limited and entered in this order; "" is the v2 hierarchy of a hybrid machine.
ORDER = (
    "cpuset", "devices", "memory", "cpu", "cpuacct", "pids", "blkio", "hugetlb", "net_cls", "net_prio",
    "perf_event", "freezer", "rdma", "misc", "name=systemd", "",
)  # fmt: skip

SIGKILL = 9
# The fields of `Resources` that `v1_limits` writes.
_LIMITS = ("memory", "cpu", "pids", "block_io", "hugepage_limits", "network", "rdma", "unified")


def paths_for(inner: str) -> dict[str, str]:
    """Controller -> directory, for every hierarchy that is mounted.

    A relative `inner` is counted from our own cgroup in each hierarchy.
    Raises `FailedPrecondition` without a devices controller: a container could open any device.
    """
    layout = detect.layout()
    if "devices" not in layout.mounts:
        raise FailedPrecondition("the v1 devices controller is not mounted; containers need it to be safe")
    own = {} if inner.startswith("/") else detect.own_cgroups()
    paths = {}
    for key in ORDER:
        if key in layout.mounts:
            start = detect.below(layout, key, own[key]) if key in own else layout.mounts[key]
            paths[key] = os.path.normpath(f"{start}/{inner}")
    return paths


class ManagerV1(Manager):
    """`base.Manager` on v1 controllers."""

    version = 1

    def main_path(self) -> str:
        return self._paths.get("devices") or next(iter(self._paths.values()))

    def _directories(self) -> list[str]:
        """Without repetitions: cpu and cpuacct are often one hierarchy."""
        return list(dict.fromkeys(self._paths.values()))

    def check(self, resources: "Resources | None") -> None:
        if resources is not None and resources.unified:
            raise InvalidArgument("invalid configuration: cannot use unified on cgroup v1")
        super().check(resources)

    def _make(self, key: str, resources: "Resources | None") -> list[str]:
        """No process enters a cpuset without CPUs, no realtime one a cgroup without runtime."""
        made = files.make(self._paths[key])
        if key in ("cpuset", "cpu"):
            try:
                self._prepare(key, resources.cpu if resources else None)
            except BaseException:
                for directory in reversed(made):
                    files.remove(directory)
                raise
        return made

    def _prepare(self, key: str, cpu: "Cpu | None") -> None:
        if key == "cpuset":  # no CPU that those above have not
            _inherit_cpuset(os.path.dirname(self._paths[key]))
        if cpu is not None:
            from cutaway.linux.cgroups import v1_limits

            v1_limits.before_entry(key, self._paths[key], cpu)
        if key == "cpuset":
            _inherit_cpuset(self._paths[key])

    def add(self, pid: int) -> None:
        for directory in self._directories():
            files.write_pid(directory, pid)

    def delete(self) -> None:
        """Every directory is tried before the first failure is raised; together they may be busy a second."""
        failed: CutawayError | None = None
        until = time.monotonic() + files.BUSY_FOR
        for directory in self._directories():
            try:
                files.remove(directory, until)
            except CutawayError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def apply(self, resources: "Resources | None", *, devices: bool = True) -> None:
        if devices:
            self.apply_devices(resources)
        if resources is not None and any(getattr(resources, name) is not None for name in _LIMITS):
            from cutaway.linux.cgroups import v1_limits

            v1_limits.apply(self._paths, resources, undo=not devices)

    def apply_devices(self, resources: "Resources | None") -> None:
        from cutaway.linux.cgroups import devices as rules

        rules.apply_v1(self._need("devices"), resources.devices if resources else None)

    def freeze(self) -> None:
        """FREEZING is not yet FROZEN: processes that are forking escape one pass, so passes are repeated."""
        path = f"{self._need('freezer')}/freezer.state"
        try:
            for attempt in range(1000):
                if attempt % 50 == 49:  # a thaw in between lets a busy forker settle
                    files.write(path, "THAWED")
                    time.sleep(0.01)
                files.write(path, "FROZEN")
                if files.read(path).strip() == "FROZEN":
                    return
        except BaseException:
            files.write(path, "THAWED")
            raise
        files.write(path, "THAWED")
        raise FailedPrecondition(f"unable to freeze {path}: processes keep appearing")

    def thaw(self) -> None:
        files.write(f"{self._need('freezer')}/freezer.state", "THAWED")

    def frozen(self) -> bool:
        directory = self._paths.get("freezer")
        try:
            if directory is None or files.read_line(f"{directory}/freezer.state") == "THAWED":
                return False
        except NotFound:  # no such cgroup
            return False
        return files.read_or(f"{directory}/freezer.self_freezing", "1").strip() == "1"

    def kill_all(self, signal: int) -> None:
        """On a hybrid machine SIGKILL goes by cgroup.kill, else all are frozen, signalled and thawed."""
        if signal == SIGKILL and self._kill_by_unified():
            return
        if not self.pids():
            return
        if "freezer" not in self._paths or not files.exists(self._paths["freezer"]):
            self._signal(signal)
            return
        was_frozen = self.frozen()
        self.freeze()
        try:
            self._signal(signal)
        finally:
            if signal == SIGKILL or not was_frozen:  # a frozen v1 task dies only when thawed
                self.thaw()

    def _kill_by_unified(self) -> bool:
        """cgroup.kill of the hybrid machine's v2 directory (Linux 5.14); False where there is none."""
        unified = self._paths.get("")
        if not unified or not files.exists(f"{unified}/cgroup.kill"):
            return False
        files.write(f"{unified}/cgroup.kill", "1")
        self._signal(SIGKILL)  # whoever somebody put into our v1 directories only
        if self.frozen():  # a frozen v1 task dies only when thawed
            self.thaw()
        return True

    def _signal(self, signal: int) -> None:
        for pid in self.pids():
            try:
                os.kill(pid, signal)
            except ProcessLookupError:
                continue

    def stats(self) -> "Stats":
        from cutaway.linux.cgroups import v1_stats

        return v1_stats.collect(self._paths)

    def oom_kills(self) -> int:
        if "memory" not in self._paths:
            return 0
        return files.read_map(f"{self._paths['memory']}/memory.oom_control").get("oom_kill", 0)

    def oom_events(self) -> "OomWatch":
        from cutaway.linux.cgroups.oom import OomWatchV1

        return OomWatchV1(self._need("memory"))

    def _need(self, controller: str) -> str:
        if controller not in self._paths:
            raise NotFound(f"the {controller} controller is not mounted on this machine")
        return self._paths[controller]


def _inherit_cpuset(directory: str) -> None:
    """A new v1 cpuset is empty and takes no process: fill it, and those above it, from their parents."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        _inherit(directory, name)


def _inherit(directory: str, name: str) -> str:
    value = files.read_line(f"{directory}/{name}")
    if value:
        return value
    value = _inherit(os.path.dirname(directory), name)
    files.write(f"{directory}/{name}", value)
    return value
