"""A container's cgroup on v2: one directory, controllers handed down by cgroup.subtree_control.

Kernel: Documentation/admin-guide/cgroup-v2.rst.
"""

import os
import select
import time

from cutaway.errors import CutawayError, FailedPrecondition, NotFound
from cutaway.linux import smallfile
from cutaway.linux.cgroups import detect, files
from cutaway.linux.cgroups.base import Manager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.oom import OomWatch
    from cutaway.linux.cgroups.stats import Stats
    from cutaway.oci.runtime_spec import Resources

SIGKILL = 9
FREEZE_WITHIN = 10.0  # seconds
DELEGATED = "/sys/kernel/cgroup/delegate"


def path_for(inner: str) -> str:
    """The directory of a configuration's path.

    A relative one is counted from the parent of our own cgroup: ours has processes in it, and a v2
    cgroup with processes cannot hand controllers to cgroups below ("no internal processes").
    """
    layout = detect.layout()
    if inner.startswith("/"):
        return os.path.normpath(f"{layout.mounts['']}/{inner}")
    parent = os.path.dirname(detect.below(layout, "", detect.own_cgroups()[""]))
    root = layout.mounts[""]
    if not (parent + "/").startswith(root + "/"):
        parent = root
    return os.path.normpath(f"{parent}/{inner}")


class ManagerV2(Manager):
    """`base.Manager` on the unified hierarchy; `root` is where it is mounted."""

    version = 2

    def __init__(self, path: str, root: str | None = None) -> None:
        super().__init__({"": path})
        self.path = path
        self.root = root if root is not None else detect.layout().mounts[""]

    def main_path(self) -> str:
        return self.path

    def create(self, resources: "Resources | None" = None) -> list[str]:
        """Make the directories and enable, on the way down, every controller that is there.

        Below processes or a threaded cgroup only threaded ones can be: such as `resources` allow.
        """
        controllers = files.read(f"{self.root}/cgroup.controllers").split()
        made: list[str] = []
        current = self.root
        try:
            for name in self.path[len(self.root) :].strip("/").split("/"):
                _enable(current, controllers)
                current = f"{current}/{name}"
                made += files.make(current)
                _settle_type(current, resources)
        except BaseException:
            for directory in reversed(made):
                files.remove(directory)
            raise
        return made

    def apply(self, resources: "Resources | None", *, devices: bool = True) -> None:
        from cutaway.linux.cgroups import v2_limits

        if devices:
            self.apply_devices(resources)
        if resources is not None:
            v2_limits.apply(self.path, resources, undo=not devices)

    def delegate(self, uid: int) -> None:
        """As cgroups(7), "Delegation", has it: the directory, and the files that the kernel names for it."""
        try:
            names = os.fsdecode(smallfile.read(DELEGATED)).split()
        except FileNotFoundError:
            names = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]
        for path in (self.path, *(f"{self.path}/{name}" for name in names)):
            try:
                os.chown(path, uid, -1)
            except FileNotFoundError:  # of a controller that is not enabled here
                continue
            except OSError as error:
                raise files.failure(f"chown {path}", error) from None

    def apply_devices(self, resources: "Resources | None") -> None:
        from cutaway.linux.cgroups import device_program
        from cutaway.linux.cgroups import devices as rules

        table = rules.table(resources.devices if resources else None)
        if not table.open or table.rules:
            device_program.install(self.path, device_program.assemble(table))
        else:  # everything allowed is what a cgroup without a program does
            device_program.uninstall(self.path)

    def add(self, pid: int) -> None:
        _settle_type(self.path, None)
        files.write_pid(self.path, pid)

    def freeze(self) -> None:
        """Waits on cgroup.events, which is made for poll(2), until the kernel says that all have stopped."""
        files.write(f"{self.path}/cgroup.freeze", "1")
        if not self._wait_event("frozen", 1, FREEZE_WITHIN):
            self.thaw()
            raise FailedPrecondition(
                f"unable to freeze {self.path} within {FREEZE_WITHIN:g} s: a process cannot stop"
            )

    def thaw(self) -> None:
        files.write(f"{self.path}/cgroup.freeze", "0")

    def frozen(self) -> bool:
        return files.read_or(f"{self.path}/cgroup.freeze", "0").strip() == "1"

    def kill_all(self, signal: int) -> None:
        """SIGKILL goes by cgroup.kill (Linux 5.14), which also reaches what is being forked."""
        if signal == SIGKILL and self._kill():
            return
        if not self.pids():
            return
        was_frozen = self.frozen()
        if not was_frozen:
            self.freeze()
        try:
            for pid in self.pids():
                try:
                    os.kill(pid, signal)
                except ProcessLookupError:
                    continue
        finally:
            if not was_frozen:
                self.thaw()

    def _kill(self) -> bool:
        """Whether the kernel has killed all at once; a threaded cgroup refuses with EOPNOTSUPP."""
        try:
            files.write(f"{self.path}/cgroup.kill", "1")
        except (NotFound, FailedPrecondition):
            return False
        return True

    def stats(self) -> "Stats":
        from cutaway.linux.cgroups import v2_stats

        return v2_stats.collect(self.path)

    def oom_kills(self) -> int:
        return files.read_map(f"{self.path}/memory.events").get("oom_kill", 0)

    def oom_events(self) -> "OomWatch":
        from cutaway.linux.cgroups.oom import OomWatchV2

        if not files.exists(f"{self.path}/memory.events"):
            raise NotFound(f"{self.path} has no memory controller")
        return OomWatchV2(self.path)

    def _wait_event(self, key: str, value: int, timeout: float) -> bool:
        """Wait until cgroup.events says `key value`; False when it does not in time."""
        fd = os.open(f"{self.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLPRI)
            deadline = time.monotonic() + timeout
            wanted = f"{key} {value}"
            while wanted not in os.pread(fd, 4096, 0).decode().splitlines():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                poll.poll(min(left, 0.1) * 1000)
            return True
        finally:
            os.close(fd)


def _enable(directory: str, controllers: list[str]) -> None:
    """Hand controllers down; one by one if not all together work (delegated or threaded subtrees).

    What cannot be enabled is no error here: a limit that needs it fails by name later.
    """
    path = f"{directory}/cgroup.subtree_control"
    missing = [name for name in controllers if name not in files.read_or(path, "").split()]
    if not missing:
        return
    try:
        files.write(path, " ".join(f"+{name}" for name in missing))
    except CutawayError:
        for name in missing:
            try:
                files.write(path, f"+{name}")
            except CutawayError:
                continue


def _settle_type(directory: str, resources: "Resources | None") -> None:
    """Below a threaded cgroup a new one is `domain invalid`: it takes no process until it is threaded too.

    Raises `FailedPrecondition` when a limit is wanted that threaded cgroups cannot have.
    """
    kind = files.read_or(f"{directory}/cgroup.type", "domain").strip()
    if kind == "domain":
        return
    from cutaway.linux.cgroups import v2_limits

    if v2_limits.needs_domain(resources):
        state = "an invalid state" if kind == "domain invalid" else f"{kind} mode"
        raise FailedPrecondition(
            f'cannot enter cgroupv2 "{directory}" with domain controllers -- it is in {state}'
        )
    if kind == "domain invalid":
        files.write(f"{directory}/cgroup.type", "threaded")
