"""The process between the runtime and init, when init's namespaces cannot all be had by one clone(2).

It joins namespaces by path and makes those that must exist first (user, time), then clones init as a
sibling of itself (CLONE_PARENT): init's parent is the runtime, and after that its subreaper, exactly as if
there had been no bridge. The pid it reports is the host's, for the bridge has not left the host's
pid namespace itself: setns(2) and unshare(2) move only the children.
"""

import os

from cutaway.errors import CutawayError, FailedPrecondition, Unknown
from cutaway.linux import libc, namespaces, processes
from cutaway.runc import rootless
from cutaway.runc.plan.namespaces import JOIN_ORDER
from cutaway.runc.plan.scheduling import set_initial_affinity
from cutaway.runc.process import limits
from cutaway.runc.process.sealing import seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from cutaway.runc.plan.namespaces import NamespacePlan
    from cutaway.runc.process.channel import Channel
    from cutaway.runc.process.init import Init
    from cutaway.runc.process.starting import Entry


def main(plan: "NamespacePlan", enter: "Callable[[], None]", init: "Init", entry: "Entry") -> "NoReturn":
    """Join namespaces by `enter`, make what must be there first, clone init, report its pid."""
    end = init.end
    try:
        seal()
        processes.set_name("runc:[1:CHILD]")
        if os.geteuid():
            limits.set_oom_score(init.process)
            entry.enter_v1.enter()  # while the ids are those of the cgroup's owner
        enter()
        _unshare(plan, end, init.host_proc)
        processes.set_dumpable(False)
        pid, in_cgroup = entry.clone(plan.clone_flags | namespaces.CLONE_PARENT)
        if pid == 0:
            init.main()
        end.say("pid", pid=pid, in_cgroup=in_cgroup)
    except CutawayError as error:
        _give_up(end, error)
    except OSError as error:
        _give_up(end, FailedPrecondition(libc.reason(error)))
    except BaseException as error:  # noqa: BLE001  # a bug: said in one line, as nothing else can be done here
        _give_up(end, Unknown(f"internal error: {type(error).__name__}: {error}"))
    os._exit(0)


def _unshare(plan: "NamespacePlan", end: "Channel", host_proc: int) -> None:
    """What must be there before init: a user namespace, with us as its root, and a time namespace."""
    if plan.is_new("user"):
        namespaces.unshare(namespaces.flag("user"))
        end.say("map", pid=os.getpid())
        end.hear("mapped")
    if plan.is_new("time"):
        namespaces.unshare(namespaces.flag("time"))
        if plan.time_offsets:  # before the ids change: /proc/self belongs to the old ones afterwards
            namespaces.write_time_offsets(plan.time_offsets, host_proc)
    if plan.has("user"):
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


def _give_up(end: "Channel", error: CutawayError) -> "NoReturn":
    try:
        end.say_error(error, "before")
    finally:
        os._exit(1)


class JoinByPath:
    """Enter the namespaces that a configuration names by path: with the rights we have now or, where those
    are not enough, with those that the user namespace to join gives."""

    __slots__ = ("fds", "own", "plan")

    def __init__(self, plan: "NamespacePlan") -> None:
        self.plan = plan
        self.fds: dict[str, int] = {}
        self.own: dict[str, int] = {}

    def make(self) -> None:
        """Make those new ones that can be there before the process is. Raises OSError.

        Only for a process that nobody misses: one that cannot return from a new namespace ends.
        """
        for kind in self.plan.may_be_made:
            own = os.open(namespaces.file_of(kind), os.O_RDONLY | os.O_CLOEXEC)
            namespaces.unshare(namespaces.flag(kind))
            try:
                self.fds[kind] = os.open(namespaces.file_of(kind), os.O_RDONLY | os.O_CLOEXEC)
                namespaces.setns(own, namespaces.flag(kind))
            except OSError:
                os._exit(1)
            os.close(own)
            self.plan.made.append(kind)

    def open(self) -> None:
        """Open the namespaces' files. Raises `NotFound`, and `InvalidArgument` for one of another type."""
        for kind, path in self.plan.joined.items():
            self.fds[kind] = namespaces.open_file(kind, path, self.plan.place(kind))

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}

    def __call__(self) -> None:
        later = []
        for kind in JOIN_ORDER:
            if kind not in self.fds:
                continue
            try:
                self._enter(kind)
            except PermissionError:
                if "user" not in self.fds:
                    raise
                later.append(kind)
        if "user" in self.fds:
            self._enter("user")
        for kind in later:
            self._enter(kind)

    def __enter__(self) -> None:
        """Enter for a moment: only where `NamespacePlan.needs_bridge` says that there is a way back."""
        self.own = {kind: os.open(namespaces.file_of(kind), os.O_RDONLY | os.O_CLOEXEC) for kind in self.fds}
        try:
            self()
        except BaseException:
            self._leave()
            raise

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        own, self.own = self.own, {}
        for kind, fd in own.items():
            namespaces.setns(fd, namespaces.flag(kind), "failed to setns back into the runtime's namespace")
            os.close(fd)

    def _enter(self, kind: str) -> None:
        path = self.plan.joined.get(kind, "of the container's own")
        what = f"failed to setns into {namespaces.KINDS[kind][1]} namespace {path}"
        namespaces.setns(self.fds[kind], namespaces.flag(kind), what)


class JoinProcess:
    """Enter every namespace of a running process that is not ours already, in one call: setns(2) with a
    pidfd (Linux 5.8) takes the user namespace first and does all or nothing.

    Where the mount namespace is ours, the process has only its root of its own: that is entered then.
    """

    __slots__ = ("_own_pids", "cpus", "flags", "pidfd", "root")

    def __init__(self, pidfd: int, pid: int, cpus: list[int]) -> None:
        self.pidfd = pidfd
        self.cpus = cpus  # to run on before the container's cgroup; none: as the runtime does
        self.flags = sum(
            namespaces.flag(kind)
            for kind in namespaces.KINDS
            if namespaces.inode(kind, pid) != namespaces.inode(kind)
        )
        self.root = -1
        self._own_pids = -1
        if not self.joins("mount"):
            self.root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            processes.pidfd_send_signal(pidfd, 0)  # the pid was the process's until now: no other's root

    def close(self) -> None:
        for fd in (self.pidfd, self.root):
            if fd >= 0:
                os.close(fd)

    def joins(self, kind: str) -> bool:
        return bool(self.flags & namespaces.flag(kind))

    @property
    def needs_bridge(self) -> bool:
        """Whether more than the pid namespace must be entered, or set, before the process is cloned.

        Or no way back: within a user namespace our own pid namespace is somebody else's (setns(2)).
        """
        more = bool(self.cpus) or self.root >= 0 or self.joins("user") or self.joins("time")
        return more or (self.joins("pid") and rootless.in_user_namespace())

    def __enter__(self) -> None:
        """Have what is cloned now begin in the pid namespace; it enters the others itself."""
        if self.joins("pid"):
            self._own_pids = os.open(namespaces.file_of("pid"), os.O_RDONLY | os.O_CLOEXEC)
            namespaces.setns(
                self.pidfd, namespaces.flag("pid"), "failed to setns into the container's pid namespace"
            )

    def __exit__(self, *_: object) -> None:
        if self._own_pids >= 0:
            what = "failed to setns back into the runtime's pid namespace"
            namespaces.setns(self._own_pids, namespaces.flag("pid"), what)
            os.close(self._own_pids)
            self._own_pids = -1

    def __call__(self) -> None:
        if self.cpus:
            set_initial_affinity(self.cpus)
        if self.flags:
            namespaces.setns(self.pidfd, self.flags, "failed to setns into the container's namespaces")
        if self.root >= 0:
            os.fchdir(self.root)
            os.chroot(".")
