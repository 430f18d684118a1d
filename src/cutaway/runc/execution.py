"""`exec`: a further process in a running container.

The bridge enters the container's namespaces and clones the process as our child (CLONE_PARENT), in the
container's pid namespace; what follows is what init does after its own pivot_root, by the same steps.
"""

import os

from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument
from cutaway.linux import capabilities, processes, smallfile
from cutaway.oci.runtime_spec import Capabilities
from cutaway.runc import ahead, config, console, draft, restart, rootless, state, validate
from cutaway.runc.plan import build, cgroups, scheduling, step, system
from cutaway.runc.plan.namespaces import NamespacePlan
from cutaway.runc.process import bridge, channel, limits, parent, sealed, starting
from cutaway.runc.process.init import Init

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Process, Spec
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed
    from cutaway.runc.process.parent import Making
    from cutaway.runc.state import Container
    from cutaway.runc.terminal_relay import Relay


class Exec:
    """A process that can be started in a container; drawn up as far as its steps, or not yet."""

    __slots__ = ("init", "making", "sources", "steps", "tracer")

    def __init__(self, making: "Making", *, tracer: bool) -> None:
        self.making = making
        self.tracer = tracer  # the first in the container that can look into others
        self.init: Init | None = None
        self.steps: list[step.Step] = []
        self.sources: tuple[bytes, bytes] | None = None  # what it was drawn up from


def look(context: "Context", options: "Parsed") -> Exec:
    """The container and the process that the options name: nothing is touched, but the runtime may be started
    anew. Raises the classes of `cutaway.errors`."""
    drawn = ahead.kept_exec(context)
    if drawn is not None and drawn.sources == _sources(context, options):
        _check_status(drawn.making.container, ignore_paused=options.flag("ignore-paused"))
        return drawn
    container = state.load(context.root, options.arguments[0])
    _check_status(container, ignore_paused=options.flag("ignore-paused"))
    spec = container.load_spec()
    traced = container.has_tracer() or restart.may_trace(spec.process)
    process = validate.process(_process(options, spec))
    rootless.check_user(process, spec)
    if context.restart is not None and restart.needed_for(process, spec.linux, traced=traced):
        context.restart.execute()
    tracer = restart.may_trace(process) and not traced
    return Exec(parent.Making(container, spec, process), tracer=tracer)


def draw(context: "Context", options: "Parsed") -> Exec:
    """Draw up a detached `exec` without a terminal, before it is called. Raises as `look` and `execute`."""
    sources = _sources(context, options)
    found = look(context, options)
    draft.check_terminal(found.making.process, detach=True, console_socket="")
    _draw(context, options, found, -1, None)
    found.sources = sources
    return found


def _sources(context: "Context", options: "Parsed") -> tuple[bytes, bytes] | None:
    """The files that an `exec` depends on as they are now; None if one cannot be read."""
    try:
        process = smallfile.read(options.text("process"))
        return state.read(context.root, options.arguments[0]), process
    except (OSError, CutawayError):
        return None


def execute(context: "Context", options: "Parsed", found: Exec, relay: "Relay | None") -> None:
    """Start the process that `look` has found, up to its exec. Raises the classes of `cutaway.errors`.

    With a `relay` in the foreground: it takes the terminal, if the process has one, or gives it pipes.
    """
    making = found.making
    process = making.process
    draft.check_terminal(process, detach=relay is None, console_socket=options.text("console-socket"))
    console_socket = -1
    if options.text("console-socket"):
        console_socket = console.connect(options.text("console-socket"))
    elif relay is not None and process.terminal:
        console_socket = relay.open_socket(process)
    try:
        if not found.steps:
            _draw(context, options, found, console_socket, relay)
        assert found.init is not None
        found.init.trace = context.tracing
        context.explain("parent", found.steps)
        context.explain("process", (*found.init.plan.before, *found.init.plan.after))
        if found.tracer:
            making.container.note_tracer()
        _make(context, found.steps, making)
    finally:
        if console_socket >= 0:
            os.close(console_socket)


def _check_status(container: "Container", *, ignore_paused: bool) -> None:
    status = container.status()
    if status == state.STOPPED:
        raise FailedPrecondition("cannot exec in a stopped container")
    if status == state.CREATED and os.stat(container.directory).st_uid != 0:
        # Its init still holds descriptors of the host, and may be looked into (`Init.visible`).
        raise FailedPrecondition("cannot exec in a user's container that is not started")
    if status == state.PAUSED and not ignore_paused:
        raise FailedPrecondition("cannot exec in a paused container (use --ignore-paused to override)")


def _process(options: "Parsed", spec: "Spec") -> "Process | None":
    """The process: from a file, or the container's own with what the options change."""
    if options.text("process"):
        return config.load_process(options.text("process"))
    process = spec.process
    if len(options.arguments) < 2:
        raise InvalidArgument("process args cannot be empty")
    if process is None:
        return None
    process.args = options.arguments[1:]
    process.terminal = options.flag("tty")
    process.cwd = options.text("cwd") or process.cwd
    process.apparmor_profile = options.text("apparmor") or process.apparmor_profile
    process.selinux_label = options.text("process-label") or process.selinux_label
    process.env = [*process.env, *options.many("env")]
    if "no-new-privs" in options:
        process.no_new_privileges = options.flag("no-new-privs")
    if options.many("cap"):
        process.capabilities = process.capabilities or Capabilities()
        capabilities.add(process.capabilities, options.many("cap"))
    _set_user(process, options.text("user"), options.numbers("additional-gids"))
    return process


def _set_user(process: "Process", user: str, groups: list[int]) -> None:
    uid, _, gid = user.partition(":")
    if uid:
        process.user.uid = _id(uid, "uid")
    if gid:
        process.user.gid = _id(gid, "gid")
    process.user.additional_gids = [*process.user.additional_gids, *map(_additional, groups)]


def _id(text: str, what: str) -> int:
    if not (text.removeprefix("-").isdecimal() and text.isascii()):
        raise InvalidArgument(
            f'parsing {text} as int for {what} failed: strconv.Atoi: parsing "{text}": invalid syntax'
        )
    return _in_range(int(text))


def _in_range(number: int) -> int:
    if not 0 <= number < 1 << 31:
        raise InvalidArgument("unable to setup user: uids and gids must be in range 0-2147483647")
    return number


def _additional(number: int) -> int:
    if number < 0:
        raise InvalidArgument(f"additional-gids must be a positive number {number}")
    return _in_range(number)


def _draw(
    context: "Context", options: "Parsed", found: Exec, console_socket: int, relay: "Relay | None"
) -> None:
    making = found.making
    container, process = making.container, making.process
    kept = draft.inherited_fds(process, options.number("preserve-fds"))
    pidfd = processes.pidfd_open(container.record.pid)
    if not container.alive():  # asked with the pidfd in hand
        raise FailedPrecondition("cannot exec in a stopped container")
    enter = bridge.JoinProcess(pidfd, container.record.pid, _cpus(process, "initial"))
    paths = _cgroup_paths(container, options.many("cgroup"))
    cgroup2 = paths.pop("", None)
    entry = starting.Entry(cgroups.EnterCgroups(list(paths.values())), cgroup2)
    ours, theirs = channel.pair()
    around = _look_around(context, making, options, own_users=enter.joins("user"))
    plan = _plan(making, around, entry.enter_v1)
    init = Init(plan, process, theirs, around.way)
    init.joined = True
    init.kept_fds = kept
    if relay is not None and not process.terminal:
        init.stdio = relay.open_pipes(_root(making))
    init.console_socket = console_socket
    init.plain_lines = not options.text("console-socket")
    found.init = init
    found.steps = [
        StartProcess(making, enter, init, ours, entry),
        AdoptProcess(making, cgroup2),
        parent.LetInitRun(making, ours, "go", "ready", None, draft.agent(making)),
        WritePid(making, os.path.abspath(options.text("pid-file")) if options.text("pid-file") else ""),
    ]


def _root(making: "Making") -> tuple[int, int]:
    """The container's root on the host."""
    found = NamespacePlan(making.spec.linux)
    if "user" in found.joined:
        from cutaway.linux import userns

        pid = making.container.record.pid
        found.uid_map, found.gid_map = userns.map_of(pid, "uid"), userns.map_of(pid, "gid")
    return found.host_root()


def _look_around(
    context: "Context", making: "Making", options: "Parsed", *, own_users: bool
) -> build.Surroundings:
    container, process, linux = making.container, making.process, making.spec.linux
    granted = capabilities.grantable(NamespacePlan(linux).has("user"))
    caps = process.capabilities or _own_capabilities(making.spec, options)
    sets = capabilities.resolve(caps, granted=granted)
    if sets.ignored:
        context.log.warning(f"ignoring unknown or unavailable capabilities: [{' '.join(sets.ignored)}]")
    around = build.Surroundings(
        container.id, container.record.bundle, container.oci_state(state.RUNNING), sets
    )
    around.unprivileged = rootless.unprivileged()
    around.personality = draft.personality(linux)
    wanted = linux.seccomp if linux else None
    around.seccomp = draft.compiled_filter(wanted)
    around.way = sealed.prepare(process, sets, wanted, around.seccomp, own_users=own_users)
    return around


def _plan(
    making: "Making", around: build.Surroundings, enter_cgroups: cgroups.EnterCgroups
) -> build.InitPlan:
    container, process = making.container, making.process
    before: list[step.Step] = [enter_cgroups]
    if cpus := _cpus(process, "final"):
        before.append(scheduling.SetAffinity(cpus))
    before.append(system.JoinKeyring(f"_ses.{container.id}"))
    if process.terminal:
        size = process.console_size
        before.append(
            system.MakeTerminal(size.height if size else 0, size.width if size else 0, console=False)
        )
    before += build.label_steps(process, around.way)
    plan = build.InitPlan(before, build.process_steps(process, around), [])
    for steps in (plan.before, plan.after):
        step.prepare(steps)
    return plan


def _cpus(process: "Process", which: str) -> list[int]:
    affinity = process.exec_cpu_affinity
    text = getattr(affinity, which) if affinity is not None else None
    return scheduling.cpu_list(text) if text else []


def _own_capabilities(spec: "Spec", options: "Parsed") -> Capabilities | None:
    """A process file without capabilities gets the container's, as in runc."""
    return spec.process.capabilities if spec.process and options.text("process") else None


def _cgroup_paths(container: "Container", wanted: list[str]) -> dict[str, str]:
    """The container's cgroups, or those below them that `--cgroup [controller:]path` names."""
    paths = dict(container.record.cgroup_paths)
    for entry in wanted:
        controllers, colon, path = entry.rpartition(":")
        if ":" in controllers:
            raise InvalidArgument(f"invalid --cgroup argument: {entry}")
        if not colon and len(wanted) > 1:
            raise InvalidArgument(f"invalid --cgroup argument: {entry} (missing <controller>: prefix)")
        for controller in controllers.split(",") if colon else list(paths):
            if controller not in paths:
                raise InvalidArgument(f"unknown controller {controller} in --cgroup {entry}")
            paths[controller] = _below(paths[controller], path)
    return paths


def _below(cgroup: str, path: str) -> str:
    full = os.path.normpath(f"{cgroup}/{path.lstrip('/')}")
    if full != cgroup and not full.startswith(cgroup + "/"):
        raise InvalidArgument(f"bad sub cgroup path: {path} is not a sub cgroup path")
    if not os.path.isdir(full):
        raise FailedPrecondition(
            f"error adding pid to cgroups: open {full}/cgroup.procs: no such file or directory"
        )
    return full


class StartProcess(starting.StartInit):
    """Clone the process inside the container's namespaces."""

    __slots__ = ("join",)

    def __init__(
        self,
        making: "Making",
        join: bridge.JoinProcess,
        init: Init,
        ours: channel.Channel,
        entry: starting.Entry,
    ) -> None:
        super().__init__(making, NamespacePlan(None), init, ours, entry)
        self.join = join
        if join.joins("user"):
            self.plan.joined["user"] = f"pid {making.container.record.pid}"

    def describe(self) -> str:
        return f"start a process in the namespaces of process {self.making.container.record.pid}"

    def command(self) -> str:
        return f"nsenter --target {self.making.container.record.pid} --all"

    def execute(self, here: step.Here) -> None:
        try:
            self.entry.open()
            if self.join.needs_bridge:
                self.through_bridge(self.join)
            else:
                self._from_here()
        finally:
            self.init.close()
            self.entry.close()
            self.join.close()

    def _from_here(self) -> None:
        """Clone without a bridge. The process is seen in the container before it has entered it, so it must
        not be looked into from its first moment (CVE-2016-9962)."""
        processes.set_dumpable(False)
        self.init.enter = self.join
        with self.join:
            pid, self.making.in_cgroup = self.entry.clone(0)
            if pid == 0:
                self.ours.close()
                self.init.main()
            self.making.pid = pid


class AdoptProcess(starting.Adopt):
    """Set what only the host's root may set on the process."""

    __slots__ = ()

    def execute(self, here: step.Here) -> None:
        try:
            self.enter_v2()
        except CutawayError:
            # A v2 cgroup with controllers for those below it takes no processes itself (EBUSY): the
            # container's init has moved further down then.
            from cutaway.linux.cgroups import detect, files

            own = detect.own_cgroups(self.making.container.record.pid)[""]
            files.write_pid(detect.below(detect.layout(), "", own), self.making.pid)
        limits.set_limits(self.making.pid, self.making.process)


class WritePid(parent.ParentStep):
    """Write the pid file, if one is wanted."""

    __slots__ = ("path",)
    group = "state"

    def __init__(self, making: "Making", path: str) -> None:
        super().__init__(making)
        self.path = path

    def describe(self) -> str:
        return f"write pid {self.making.pid} to {self.path or 'no file'}"

    def command(self) -> str:
        return f"echo -n {self.making.pid} > {self.path}" if self.path else "# no pid file is wanted"

    def execute(self, here: step.Here) -> None:
        if self.path:
            parent.stage_pid_file(self.path, self.making.pid)
            parent.publish_pid_file(self.path)


def _make(context: "Context", steps: "list[step.Step]", making: "Making") -> None:
    timings: list[step.Timing] | None = [] if context.tracing else None
    try:
        parent.make(steps, timings)
    except CutawayError as error:
        raise type(error)(f"unable to start container process: {error}") from error
    finally:
        context.record([*(timings or []), *making.timings])
    for warning in making.warnings:
        context.log.debug(warning)
