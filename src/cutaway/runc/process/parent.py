"""The runtime's side of making a container: a list of steps, each with its undoing.

Whatever fails, everything done so far is undone, last first: the process killed and reaped, the cgroup
removed, the name given back. Mounts need no undoing: they live in init's mount namespace and end with it.
The state file is written before there is a process and again, with its pid, while that mounts; before it
is let go on from there. So a runtime that is killed itself leaves nothing that `delete --force` does not
find: a process that it does not know ends by itself, when it has nobody to ask.
"""

import os

from cutaway.errors import CutawayError, FailedPrecondition
from cutaway.faults import point
from cutaway.linux import libc, smallfile
from cutaway.oci.runtime_spec import Hook
from cutaway.runc import state
from cutaway.runc.plan.step import Here, Step, Timing, run
from cutaway.runc.process import autopsy, channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cutaway.linux.cgroups.base import Manager
    from cutaway.oci.runtime_spec import Process, Spec
    from cutaway.runc.process.agent import Agent
    from cutaway.runc.state import Container


class Making:
    """What the steps of the parent share: the container and its process on the way to existence."""

    def __init__(self, container: "Container", spec: "Spec", process: "Process") -> None:
        self.container = container
        self.spec = spec
        self.process = process
        self.lock = state.Lock(container.directory)
        self.reserved = False  # the name is ours: there is a container
        self.pid = 0
        self.in_cgroup = True  # v2: or else it must be moved there
        self.warnings: list[str] = []
        self.timings: list[Timing] = []  # of init


def make(steps: "list[Step]", timings: list[Timing] | None) -> None:
    """Execute the parent's steps; on any failure undo those done, the failed one included, and re-raise."""
    done: list[Step] = []
    try:
        for step in steps:
            done.append(step)
            point("runc.create.before-step")
            run([step], Here(), timings)
        point("runc.create.made")
    except BaseException as error:
        failures = [text for step in reversed(done) if (text := _undo(step))]
        if failures and isinstance(error, CutawayError):
            raise type(error)(f"{error} (and cleaning up failed: {'; '.join(failures)})") from error
        raise


def _undo(step: Step) -> str:
    """Undo a step; why that failed, in words: the first error must not be lost over a second one."""
    try:
        step.undo()
    except CutawayError as error:
        return str(error)
    except OSError as error:
        return libc.reason(error)
    return ""


class ParentStep(Step):
    """A step of the parent: it knows what is being made, and how to take back what it did."""

    __slots__ = ("making",)
    group = "parent"

    def __init__(self, making: Making) -> None:
        self.making = making

    def failure(self, reason: str) -> str:
        return reason


class ReserveName(ParentStep):
    """Take the container's name, and write down what is needed to clean up after us."""

    __slots__ = ("config", "owner")
    group = "state"

    def __init__(self, making: Making, config: str, owner: tuple[int, int]) -> None:
        super().__init__(making)
        self.config = config
        self.owner = owner  # the host's ids of the container's root: it must reach the fifo

    def describe(self) -> str:
        return f"make {self.making.container.directory}"

    def command(self) -> str:
        return f"mkdir {self.making.container.directory} && mkfifo {self.making.container.fifo}"

    def execute(self, here: Here) -> None:
        container = self.making.container
        state.reserve(container.root, container.id)
        self.making.reserved = True
        self.making.lock.take()
        os.mkfifo(container.fifo, 0o622)
        os.chmod(container.fifo, 0o622)  # whatever the umask
        if self.owner != (0, 0) and not os.geteuid():  # others get there by a descriptor
            os.chown(container.fifo, *self.owner)
        container.save_config(self.config)
        container.save()

    def undo(self) -> None:
        if self.making.reserved:
            state.remove(self.making.container.root, self.making.container.id)


class MakeCgroup(ParentStep):
    """Make the container's cgroup; with an owner, one whom it is delegated to."""

    __slots__ = ("made", "manager", "owner")
    group = "cgroup"

    def __init__(self, making: Making, manager: "Manager", owner: int | None) -> None:
        super().__init__(making)
        self.manager = manager
        self.owner = owner
        self.made: list[str] = []

    def describe(self) -> str:
        return f"make cgroup {self.manager.main_path()}"

    def command(self) -> str:
        return "mkdir -p " + " ".join(self.manager.paths().values())

    def failure(self, reason: str) -> str:
        return f"unable to apply cgroup configuration: {reason}"

    def execute(self, here: Here) -> None:
        linux = self.making.spec.linux
        self.made = self.manager.create(linux.resources if linux else None)
        if self.owner is not None:
            self.manager.delegate(self.owner)

    def undo(self) -> None:
        if self.made or self.manager.started:
            self.manager.delete()

    def values(self) -> dict[str, str | int | float | bool]:
        return {"paths": " ".join(self.manager.paths().values())}


class LetInitRun(ParentStep):
    """Let init go on, and wait for it to come to a point."""

    __slots__ = ("agent", "manager", "meanwhile", "ours", "until", "word")
    group = "init"

    def __init__(
        self,
        making: Making,
        ours: channel.Channel,
        word: str,
        until: str,
        manager: "Manager | None",
        agent: "Agent | None" = None,
        meanwhile: "Callable[[], None] | None" = None,
    ) -> None:
        """`meanwhile` is what the runtime does while init is at work."""
        super().__init__(making)
        self.meanwhile = meanwhile
        self.ours = ours
        self.word = word
        self.until = until
        self.manager = manager
        self.agent = agent

    def describe(self) -> str:
        return f'tell init to {self.word}, wait until it is "{self.until}"'

    def command(self) -> str:
        return "# the runtime's side of the handshake"

    def execute(self, here: Here) -> None:
        self._tell()
        if self.meanwhile is not None:
            self.meanwhile()
        self._await(self.until)
        if self.until == "ready":
            self._await_end()

    def _tell(self) -> None:
        try:
            self.ours.say(self.word)
        except channel.Gone:
            return  # what it said before that is still to be heard

    def _await(self, word: str) -> None:
        try:
            message = self.ours.hear(word)
        except channel.Gone:
            raise autopsy.autopsy(self.making.pid, self.manager) from None
        if message.word == "error":
            raise self._explain(message)
        self._remember(message)

    def _remember(self, message: channel.Message) -> None:
        self.making.warnings += message.values.get("warnings", ())
        for name, start, end, values in message.values.get("timings", ()):
            timing = Timing(name, start)
            timing.end_ns, timing.values = end, values
            self.making.timings.append(timing)

    def _await_end(self) -> None:
        """After "ready": "done", an error, or the end of the socket with the process still there."""
        try:
            message = self.ours.hear("done", "listener")
            if message.word == "listener" and self.agent is not None:
                self.agent.send(self.making.pid, int(message.values["fd"]))
                self.ours.say("taken")
                message = self.ours.hear("done")
        except channel.Gone:
            if autopsy.ended(self.making.pid, autopsy.GRACE_MS):
                raise autopsy.autopsy(self.making.pid, self.manager) from None
            return
        if message.word == "error":
            raise self._explain(message)
        self._remember(message)

    def _explain(self, message: channel.Message) -> CutawayError:
        error = channel.error_of(message)
        if message.values.get("stage") == "before":
            return type(error)(f"error during container init: {error}")
        return error


class LimitResources(ParentStep):
    """Write the limits, when init has mounted and made its devices."""

    __slots__ = ("lenient", "manager")
    group = "cgroup"

    def __init__(self, making: Making, manager: "Manager", lenient: bool = False) -> None:
        super().__init__(making)
        self.manager = manager
        self.lenient = lenient

    def describe(self) -> str:
        return f"set the limits of {self.manager.main_path()}"

    def command(self) -> str:
        return f"# writes below {self.manager.main_path()}"

    def failure(self, reason: str) -> str:
        return f"error during container init: error setting cgroup config for procHooks process: {reason}"

    def execute(self, here: Here) -> None:
        linux = self.making.spec.linux
        resources = linux.resources if linux else None
        if self.lenient:
            from cutaway.runc import rootless

            rootless.limit(self.manager, resources)
        else:
            self.manager.apply(resources)


class RunHooks(ParentStep):
    """Run hooks in the runtime's own namespaces."""

    __slots__ = ("hooks", "name")
    group = "hooks"

    def __init__(self, making: Making, name: str, hooks: list[Hook]) -> None:
        super().__init__(making)
        self.name = name
        self.hooks = hooks

    def describe(self) -> str:
        return f"run {len(self.hooks)} {self.name} hooks"

    def command(self) -> str:
        return "; ".join(hook.path for hook in self.hooks)

    def failure(self, reason: str) -> str:
        return f"error during container init: {reason}"

    def execute(self, here: Here) -> None:
        from cutaway.runc import hooks

        hooks.run(self.name, self.hooks, self.making.container.oci_state(state.CREATING))


class StageReady(ParentStep):
    """Write what is to be read when the container is "created", beside where it will be looked for."""

    __slots__ = ("pid_file",)
    group = "state"

    def __init__(self, making: Making, pid_file: str) -> None:
        super().__init__(making)
        self.pid_file = pid_file  # "": none

    def describe(self) -> str:
        return f"write what {self.making.container.id} will be once it is created"

    def command(self) -> str:
        return f"echo -n {self.making.pid} > {beside(self.pid_file)}" if self.pid_file else "# state.json.new"

    def execute(self, here: Here) -> None:
        self.making.container.record.ready = True
        self.making.container.stage()
        if self.pid_file:
            stage_pid_file(self.pid_file, self.making.pid)

    def undo(self) -> None:
        if self.pid_file:
            _unlink(beside(self.pid_file))


class SaveReady(ParentStep):
    """From now on the container is "created": say so in its state, then give the pid file its name."""

    __slots__ = ("pid_file",)
    group = "state"

    def __init__(self, making: Making, stage: StageReady) -> None:
        super().__init__(making)
        self.pid_file = stage.pid_file

    def describe(self) -> str:
        return f"write down that {self.making.container.id} is created"

    def command(self) -> str:
        if self.pid_file:
            return f"mv {beside(self.pid_file)} {self.pid_file}"
        return "mv state.json.new state.json"

    def execute(self, here: Here) -> None:
        self.making.container.publish()
        if self.pid_file:
            publish_pid_file(self.pid_file)


def beside(path: str) -> str:
    """Where a pid file is written before it has its name: what has that name is whole."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}")


def stage_pid_file(path: str, pid: int) -> None:
    """Write the pid in decimal, without a newline, beside the file. Raises `FailedPrecondition`."""
    try:
        smallfile.write(beside(path), str(pid).encode(), 0o666)
    except OSError as error:
        raise FailedPrecondition(f"open {beside(path)}: {libc.words(error.errno or 0)}") from None


def publish_pid_file(path: str) -> None:
    """Give it its name. Raises `FailedPrecondition`."""
    try:
        os.rename(beside(path), path)
    except OSError as error:
        raise FailedPrecondition(f"open {beside(path)}: {libc.words(error.errno or 0)}") from None


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
