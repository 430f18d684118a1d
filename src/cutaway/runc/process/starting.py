"""The parent's steps that bring the container's first process, or one of `exec`, into being."""

import os

from cutaway.errors import CutawayError, FailedPrecondition
from cutaway.linux import namespaces, processes
from cutaway.runc.plan.step import Here, prepare
from cutaway.runc.process import bridge, channel, limits
from cutaway.runc.process.parent import Making, ParentStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cutaway.linux.cgroups.base import Manager
    from cutaway.runc.plan.build import InitPlan
    from cutaway.runc.plan.cgroups import EnterCgroups
    from cutaway.runc.plan.namespaces import NamespacePlan
    from cutaway.runc.process.init import Init

_SIGKILL = 9


class Entry:
    """How a process gets into its cgroups: v1 by itself, v2 by birth if that can be."""

    __slots__ = ("enter_v1", "fd", "v2")

    def __init__(self, enter_v1: "EnterCgroups", v2: str | None) -> None:
        self.enter_v1 = enter_v1
        self.v2 = v2
        self.fd = -1

    def open(self) -> None:
        """When the cgroups exist. Raises OSError."""
        self.enter_v1.open()
        if self.v2 is not None:
            self.fd = os.open(self.v2, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        self.enter_v1.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def clone(self, flags: int) -> tuple[int, bool]:
        """clone(2): the pid, and whether the process is in its v2 cgroup already. Raises OSError."""
        if self.fd >= 0:
            try:
                return namespaces.clone_into(flags, self.fd), True
            except OSError:
                pass  # an old kernel, a filter, a cgroup with cgroups below: the parent moves it afterwards
        return namespaces.clone(flags), self.v2 is None


class PrepareInit(ParentStep):
    """Open and import what init cannot, before there is an init."""

    __slots__ = ("plan",)
    group = "parent"

    def __init__(self, making: Making, plan: "InitPlan") -> None:
        super().__init__(making)
        self.plan = plan

    def describe(self) -> str:
        return "open what only the runtime can reach"

    def command(self) -> str:
        return "# openat2(2), open_tree(2)"

    def execute(self, here: Here) -> None:
        for steps in (self.plan.before, self.plan.after, self.plan.start_hooks):
            prepare(steps)


class StartInit(ParentStep):
    """Clone the container's init into its namespaces, through a bridge where one clone cannot do it."""

    __slots__ = ("enter", "entry", "init", "ours", "plan")
    group = "namespaces"

    def __init__(
        self, making: Making, plan: "NamespacePlan", init: "Init", ours: channel.Channel, entry: Entry
    ) -> None:
        super().__init__(making)
        self.plan = plan
        self.init = init
        self.ours = ours
        self.entry = entry
        self.enter = bridge.JoinByPath(plan)

    def describe(self) -> str:
        return f"start init with {self.plan.describe()}"

    def command(self) -> str:
        new = " ".join(f"--{kind}" for kind in self.plan.new)
        return f"unshare --fork {new} ..."

    def prepare(self) -> None:
        self.enter.open()

    def execute(self, here: Here) -> None:
        self.init.fifo = os.open(self.making.container.fifo, os.O_PATH | os.O_CLOEXEC)
        try:
            self.entry.open()
            if self.plan.needs_bridge:
                self.through_bridge(self.enter)
            else:
                self._directly()
        finally:
            self.init.close()
            self.entry.close()
            self.enter.close()
            os.close(self.init.fifo)

    def _directly(self) -> None:
        """Clone from where we are, or from the namespaces to join: that saves the bridge, and its time."""
        with self.enter:
            pid, self.making.in_cgroup = self.entry.clone(self.plan.clone_flags)
            if pid == 0:
                self.ours.close()
                self.init.main()
            self.making.pid = pid

    def through_bridge(self, enter: "Callable[[], None]") -> None:
        """Have a process in between join namespaces and clone init. Raises what it reports."""
        pid = namespaces.clone(0)
        if pid == 0:
            self.ours.close()
            bridge.main(self.plan, enter, self.init, self.entry)
        self.init.end.close()
        try:
            message = self._hear("map", "pid")
            if message.word == "map":
                from cutaway.runc.process import id_maps

                id_maps.write(pid, self.plan.uid_map, self.plan.gid_map)
                self.ours.say("mapped")
                message = self._hear("pid")
            self.making.pid = int(message.values["pid"])
            self.making.in_cgroup = bool(message.values["in_cgroup"])
        except BaseException:
            os.kill(pid, _SIGKILL)
            raise
        finally:
            os.waitpid(pid, 0)

    def _hear(self, *words: str) -> channel.Message:
        message = self.ours.hear(*words)
        if message.word == "error":
            raise channel.error_of(message)
        return message

    def undo(self) -> None:
        if self.making.pid:
            kill(self.making.pid)

    def values(self) -> dict[str, str | int | float | bool]:
        kinds = [*self.plan.new, *self.plan.joined]
        found = {f"ns.{kind}": namespaces.inode(kind, self.making.pid) for kind in kinds}
        return {"pid": self.making.pid, **{key: inode for key, inode in found.items() if inode}}


def kill(pid: int) -> None:
    """Kill and reap a child of ours; one that is gone already is no error."""
    try:
        os.kill(pid, _SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return


class Adopt(ParentStep):
    """Set what only the host's root may set on the process, and take its pid down."""

    __slots__ = ("manager", "v2")
    group = "parent"

    def __init__(self, making: Making, v2: str | None, manager: "Manager | None" = None) -> None:
        """`manager`: the cgroup that a process cannot enter by itself."""
        super().__init__(making)
        self.v2 = v2
        self.manager = manager

    def describe(self) -> str:
        return f"limit process {self.making.pid or 'init'}"

    def command(self) -> str:
        return f"prlimit --pid {self.making.pid} ..."

    def execute(self, here: Here) -> None:
        pid, record = self.making.pid, self.making.container.record
        self.enter_v2()
        if self.manager is not None:
            self.enter_unit(self.manager)
        limits.set_limits(pid, self.making.process)
        found = processes.status(pid)
        if found is None:
            raise FailedPrecondition(f"process {pid} ended before it was set up")
        record.pid, record.start_time = pid, found[1]

    def enter_unit(self, manager: "Manager") -> None:
        """Have the process's cgroup made around it."""
        try:
            manager.add(self.making.pid)
        except CutawayError as error:
            raise type(error)(f"unable to apply cgroup configuration: {error}") from error

    def enter_v2(self) -> None:
        """Move the process into its v2 cgroup, if it was not born there."""
        if self.v2 is not None and not self.making.in_cgroup:
            from cutaway.linux import cgroups

            cgroups.from_paths({"": self.v2}).add(self.making.pid)
