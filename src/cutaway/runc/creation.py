"""`create`, up to the point where the container waits for `start`: from options and a bundle to steps.

look         read config.json, check it, look at the machine: nothing is touched
plan         init's steps (plan.build) and the parent's (process.parent), still nothing
make         execute the parent's steps; undo them all if one fails
"""

import os
import time

from cutaway.errors import AlreadyExists, CutawayError, InvalidArgument
from cutaway.linux import capabilities
from cutaway.oci.runtime_spec import Hooks
from cutaway.runc import cgroup_setup, config, console, rootless, state, validate
from cutaway.runc.plan import build, scheduling, step
from cutaway.runc.plan.namespaces import NamespacePlan
from cutaway.runc.process import channel, parent, sealed, starting
from cutaway.runc.process.init import Init

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.base import Manager
    from cutaway.oci.runtime_spec import Hook, Linux, Process, Seccomp, Spec
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed
    from cutaway.runc.process.agent import Agent
    from cutaway.runc.process.parent import Making
    from cutaway.runc.terminal_relay import Relay

SECCOMP_CACHE = "/run/cutaway/seccomp"


def create(context: "Context", options: "Parsed", *, detach: bool, relay: "Relay | None" = None) -> "Making":
    """Make the container that the options name, up to its init waiting for `start`.

    `relay` takes the terminal of a foreground `run`, or gives it pipes. Raises the classes of
    `cutaway.errors`; then nothing is left.
    """
    container_id = options.arguments[0]
    pid_file = os.path.abspath(options.text("pid-file")) if options.text("pid-file") else ""
    bundle = config.enter_bundle(options.text("bundle"))
    spec, text = config.load()
    if rootless.unprivileged():
        rootless.check(spec)
    rootfs = validate.spec(spec, bundle)
    process = spec.process
    assert process is not None  # validated
    if context.restart is not None:
        context.restart.before(process, spec.linux)
    for warning in validate.warnings(spec):
        context.log.warning(warning)
    state.check_id(container_id)
    rootless.check_user(process, spec)
    check_terminal(process, detach=detach, console_socket=options.text("console-socket"))
    making = parent.Making(container(context, container_id, spec, bundle, rootfs), spec, process)
    if os.environ.get("NOTIFY_SOCKET"):
        from cutaway.runc import notify

        notify.set_up(spec, making.container)
    kept = inherited_fds(process, options.number("preserve-fds"))
    console_socket = -1
    if options.text("console-socket"):
        console_socket = console.connect(options.text("console-socket"))
    elif relay is not None and process.terminal:
        console_socket = relay.open_socket(process)
    try:
        steps = plan_steps(context, options, making, text, pid_file, kept, console_socket, relay)
        make(context, steps, making)
    finally:
        if console_socket >= 0:
            os.close(console_socket)
    return making


def container(
    context: "Context", container_id: str, spec: "Spec", bundle: str, rootfs: str
) -> state.Container:
    kinds = [namespace.type for namespace in spec.linux.namespaces] if spec.linux else []
    joins_pids = any(n.type == "pid" and n.path for n in spec.linux.namespaces) if spec.linux else False
    hooks = spec.hooks or Hooks()
    record = state.Record(
        oci_version=spec.oci_version,
        id=container_id,
        bundle=bundle,
        rootfs=rootfs,
        created=now(),
        own_pids="pid" in kinds and not joins_pids,
        annotations=spec.annotations,
        hooks=Hooks(poststart=hooks.poststart, poststop=hooks.poststop),
    )
    return state.Container(context.root, record)


def now() -> str:
    """The time in RFC 3339 with nanoseconds, UTC."""
    nanoseconds = time.time_ns()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanoseconds // 10**9))
    return f"{whole}.{nanoseconds % 10**9:09d}Z"


def check_terminal(process: "Process", *, detach: bool, console_socket: str) -> None:
    """A terminal that nobody holds, and a socket that nothing goes to, are mistakes."""
    if detach and process.terminal and not console_socket:
        raise InvalidArgument("cannot allocate tty if runc will detach without setting console socket")
    if console_socket and not (detach and process.terminal):
        raise InvalidArgument("cannot use console socket if runc will not detach or allocate tty")


def inherited_fds(process: "Process", preserved: int) -> int:
    """How many descriptors after stderr the program gets: socket activation's, then those asked for."""
    listen = 0
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS", "").isdecimal():
        listen = int(os.environ["LISTEN_FDS"])
        if listen:
            process.env = [*process.env, f"LISTEN_FDS={listen}", "LISTEN_PID=1"]
    for fd in range(3, 3 + listen + preserved):
        try:
            os.fstat(fd)
        except OSError:
            raise InvalidArgument(
                f"unable to stat preserved-fd {fd - 3 - listen} (of {preserved}): "
                f"stat /proc/self/fd/{fd}: no such file or directory"
            ) from None
    return listen + preserved


def plan_steps(
    context: "Context",
    options: "Parsed",
    making: "Making",
    text: str,
    pid_file: str,
    kept: int,
    console_socket: int,
    relay: "Relay | None",
) -> "list[step.Step]":
    """What the runtime will do, from a name for the container to its being created; init's plan is within.

    Opens what init gets: who does not execute the steps closes that (`Init.close`, `Channel.close`).
    """
    spec, container = making.spec, making.container
    namespaces = NamespacePlan(spec.linux)
    if "user" in namespaces.joined:
        from cutaway.runc import joined_user

        joined_user.learn(namespaces, context.log)
    manager = cgroup_setup.choose(context, spec, container)
    around = _look_around(context, spec, container, manager)
    paths = {} if manager.made_by_entry else manager.paths()
    cgroup2 = paths.pop("", None)
    around.enter_cgroups.directories += paths.values()
    around.no_pivot = options.flag("no-pivot")
    around.new_keyring = not options.flag("no-new-keyring")
    around.way = sealed.prepare(
        making.process,
        around.sets,
        spec.linux.seccomp if spec.linux else None,
        around.seccomp,
        own_users=namespaces.has("user"),
    )
    plan = build.init_plan(spec, namespaces, around)
    ours, theirs = channel.pair()
    init = Init(plan, making.process, theirs, around.way)
    init.kept_fds = kept
    if relay is not None and not making.process.terminal:
        init.stdio = relay.open_pipes(namespaces.host_root())
    init.console_socket = console_socket
    init.plain_lines = not options.text("console-socket")
    init.trace = context.tracing
    init.visible = around.unprivileged and namespaces.is_new("user") and namespaces.is_new("pid")
    entry = starting.Entry(around.enter_cgroups, cgroup2)
    start_init = starting.StartInit(making, namespaces, init, ours, entry)
    start_init.prepare()
    hooks = spec.hooks or Hooks()
    steps_of_ours: list[step.Step] = [
        parent.ReserveName(making, text, namespaces.host_root()),
        *_notify_steps(making),
        starting.PrepareInit(making, plan),
        parent.MakeCgroup(making, manager, cgroup_setup.owner(spec, namespaces)),
        *_host_mounts(making, namespaces),
        start_init,
        starting.Adopt(making, cgroup2, manager if manager.made_by_entry else None),
        *_resctrl(making),
        *_net_devices(making),
        parent.LetInitRun(making, ours, "go", "mounted", manager, meanwhile=making.container.save),
        parent.LimitResources(making, manager, lenient=context.may_lack_cgroups()),
        *_hook_steps(making, ("prestart", hooks.prestart), ("createRuntime", hooks.create_runtime)),
        parent.LetInitRun(making, ours, "resume", "ready", manager, agent(making, state.CREATING)),
        parent.SaveReady(making, pid_file),
    ]
    context.explain("parent", steps_of_ours)
    context.explain("init", (*plan.before, *plan.after))
    return steps_of_ours


def _host_mounts(making: "Making", namespaces: NamespacePlan) -> "list[step.Step]":
    if namespaces.has("mount"):
        return []
    from cutaway.linux import mounts
    from cutaway.runc.process.host_mounts import MountOnHost

    record = making.container.record
    record.root_mounts = mounts.stacked(record.rootfs)
    return [MountOnHost(making)]


def _resctrl(making: "Making") -> "list[step.Step]":
    wanted = making.spec.linux.intel_rdt if making.spec.linux else None
    if wanted is None:
        return []
    from cutaway.linux import resctrl
    from cutaway.runc.intel_rdt import EnterResctrl

    return [EnterResctrl(making, wanted, resctrl.find())]


def _net_devices(making: "Making") -> "list[step.Step]":
    devices = making.spec.linux.net_devices if making.spec.linux else None
    if not devices:
        return []
    from cutaway.runc.process.net_devices import MoveNetDevice

    return [MoveNetDevice(making, name, device.name or "") for name, device in devices.items()]


def _notify_steps(making: "Making") -> "list[step.Step]":
    if not os.environ.get("NOTIFY_SOCKET"):
        return []
    from cutaway.runc import notify

    return [notify.MakeDirectory(making)]


def _hook_steps(making: "Making", *named: "tuple[str, list[Hook]]") -> "list[step.Step]":
    return [parent.RunHooks(making, name, hooks) for name, hooks in named if hooks]


def _look_around(
    context: "Context", spec: "Spec", container: state.Container, manager: "Manager"
) -> build.Surroundings:
    """What the plan needs to know about this machine."""
    process, linux = spec.process, spec.linux
    granted = capabilities.grantable(NamespacePlan(linux).has("user"))
    sets = capabilities.resolve(process.capabilities if process else None, granted=granted)
    if sets.ignored:
        context.log.warning(f"ignoring unknown or unavailable capabilities: [{' '.join(sets.ignored)}]")
    record = container.record
    around = build.Surroundings(record.id, record.bundle, container.oci_state(state.CREATING), sets)
    around.rootfs = record.rootfs
    around.unprivileged = rootless.unprivileged()
    if linux is not None and linux.mount_label:
        from cutaway.linux import selinux

        around.mount_label = linux.mount_label if selinux.enabled() else ""
    around.has_kcore = os.path.exists("/proc/kcore")
    around.personality = personality(linux)
    around.seccomp = compiled_filter(linux.seccomp if linux else None)
    if any(mount.type == "cgroup" for mount in spec.mounts):
        cgroup_setup.look_at_views(around, manager)
    return around


def personality(linux: "Linux | None") -> int | None:
    """The execution domain's number, if the configuration names one."""
    if linux is None or linux.personality is None:
        return None
    return scheduling.PERSONALITIES[linux.personality.domain]


def compiled_filter(wanted: "Seccomp | None") -> tuple[bytes, int] | None:
    """The filter's program and flags, or None without one."""
    if wanted is None or not (wanted.default_action or wanted.syscalls):
        return None
    from cutaway.linux import seccomp

    return seccomp.compile(wanted, rootless.seccomp_cache(SECCOMP_CACHE)), seccomp.flags(wanted)


def agent(making: "Making", status: str = "") -> "Agent | None":
    """Who gets the filter's listener, if the filter has one. It is told this status, or the one there is."""
    config = making.spec.linux.seccomp if making.spec.linux else None
    if config is None or not config.listener_path:
        return None
    from cutaway.runc.process.agent import Agent

    container = making.container
    pid = container.record.pid  # 0: not made yet, so this is the container's init
    return Agent(config, container.record.bundle, container.oci_state(status or container.status()), pid)


def _run_poststop(context: "Context", making: "Making") -> None:
    """A container that came to be and is undone again has stopped (runtime.md, lifecycle steps 3 to 13)."""
    wanted = making.container.record.hooks.poststop
    if wanted and making.reserved:
        from cutaway.runc import hooks

        for failure in hooks.run_all("poststop", wanted, making.container.oci_state(state.STOPPED)):
            context.log.warning(failure)


def make(context: "Context", steps: "list[step.Step]", making: "Making") -> None:
    timings: list[step.Timing] | None = [] if context.tracing else None
    try:
        parent.make(steps, timings)
    except AlreadyExists:
        raise
    except CutawayError as error:
        _run_poststop(context, making)
        raise type(error)(f"unable to start container process: {error}") from error
    finally:
        making.lock.release()
        context.record([*(timings or []), *making.timings])
    for warning in making.warnings:
        context.log.debug(warning)  # runc goes on silently, and callers show what is on stderr
