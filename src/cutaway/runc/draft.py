"""A create as it is drawn up: from options and a configuration to a list of steps, and nothing is touched.

look   read the configuration's text, check it
plan   look at the machine; init's steps (plan.build) and the parent's (process.parent)

A draft may be kept until it is asked for (`runc.ahead`). So what may have changed by then has no place in
here: whoever makes the container looks at that (`creation.create`).
"""

import os
import time

from cutaway.errors import InvalidArgument
from cutaway.linux import capabilities
from cutaway.oci.runtime_spec import Hooks
from cutaway.runc import cgroup_setup, config, rootless, state, validate
from cutaway.runc.plan import build, scheduling, step
from cutaway.runc.plan.namespaces import NamespacePlan
from cutaway.runc.process import channel, parent, sealed, starting
from cutaway.runc.process.init import Init

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutaway.linux.cgroups.base import Manager
    from cutaway.oci.runtime_spec import Hook, Linux, Process, Seccomp, Spec
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed
    from cutaway.runc.process.agent import Agent
    from cutaway.runc.process.parent import Making
    from cutaway.runc.terminal_relay import Relay

SECCOMP_CACHE = "/run/cutaway/seccomp"


class Draft:
    """A container that can be made."""

    __slots__ = ("init", "making", "manager", "ours", "start_init", "steps", "text")

    def __init__(
        self, making: "Making", text: str, manager: "Manager", init: Init, ours: channel.Channel
    ) -> None:
        self.making = making
        self.text = text  # of config.json
        self.manager = manager
        self.init = init
        self.ours = ours
        self.start_init: starting.StartInit
        self.steps: list[step.Step] = []

    def close(self) -> None:
        """Let go of what has been opened for init: for who does not execute the steps."""
        self.init.close()
        self.ours.close()


def look(context: "Context", options: "Parsed", bundle: str, text: str, *, detach: bool) -> "Making":
    """What the configuration asks for, checked. Raises the classes of `cutaway.errors`."""
    container_id = options.arguments[0]
    spec = config.parse(text)
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
        if not _was_inherited(fd):
            raise InvalidArgument(
                f"unable to stat preserved-fd {fd - 3 - listen} (of {preserved}): "
                f"stat /proc/self/fd/{fd}: no such file or directory"
            )
    return listen + preserved


def plan(
    context: "Context",
    options: "Parsed",
    making: "Making",
    text: str,
    pid_file: str,
    console_socket: int = -1,
    relay: "Relay | None" = None,
) -> Draft:
    """What the runtime will do, from a name for the container to its being created; init's plan is within.

    Opens what init gets: who does not make the container closes that (`Draft.close`).
    """
    spec, process = making.spec, making.process
    kept = inherited_fds(process, options.number("preserve-fds"))
    namespaces = NamespacePlan(spec.linux)
    if "user" in namespaces.joined:
        from cutaway.runc import joined_user

        joined_user.learn(namespaces, context.log)
    manager = cgroup_setup.choose(context, spec, making.container)
    around = _look_around(context, making, manager)
    paths = {} if manager.made_by_entry else manager.paths()
    cgroup2 = paths.pop("", None)
    around.enter_cgroups.directories += paths.values()
    around.no_pivot = options.flag("no-pivot")
    around.new_keyring = not options.flag("no-new-keyring")
    around.way = sealed.prepare(
        process,
        around.sets,
        spec.linux.seccomp if spec.linux else None,
        around.seccomp,
        own_users=namespaces.has("user"),
    )
    ours, theirs = channel.pair()
    init = Init(build.init_plan(spec, namespaces, around), process, theirs, around.way)
    init.kept_fds = kept
    if relay is not None and not process.terminal:
        init.stdio = relay.open_pipes(namespaces.host_root())
    init.console_socket = console_socket
    init.plain_lines = not options.text("console-socket")
    init.visible = around.unprivileged and namespaces.is_new("user") and namespaces.is_new("pid")
    drawn = Draft(making, text, manager, init, ours)
    entry = starting.Entry(around.enter_cgroups, cgroup2)
    drawn.start_init = starting.StartInit(making, namespaces, init, ours, entry)
    lenient = context.may_lack_cgroups()
    drawn.steps = list(_steps(drawn, namespaces, pid_file, lenient=lenient))
    return drawn


def _steps(drawn: Draft, namespaces: NamespacePlan, pid_file: str, *, lenient: bool) -> "Iterator[step.Step]":
    making, manager, ours = drawn.making, drawn.manager, drawn.ours
    spec = making.spec
    hooks = spec.hooks or Hooks()
    stage = parent.StageReady(making, pid_file)
    yield parent.ReserveName(making, drawn.text, namespaces.host_root())
    yield from _notify_steps(making)
    yield starting.PrepareInit(making, drawn.init.plan)
    yield parent.MakeCgroup(making, manager, cgroup_setup.owner(spec, namespaces))
    yield from _host_mounts(making, namespaces)
    yield drawn.start_init
    yield starting.Adopt(making, drawn.start_init.entry.v2, manager if manager.made_by_entry else None)
    yield from _resctrl(making)
    yield from _net_devices(making)
    yield parent.LetInitRun(making, ours, "go", "mounted", manager, meanwhile=making.container.save)
    yield parent.LimitResources(making, manager, lenient=lenient)
    yield from _hook_steps(making, ("prestart", hooks.prestart), ("createRuntime", hooks.create_runtime))
    yield stage
    yield parent.LetInitRun(making, ours, "resume", "ready", manager, agent(making, state.CREATING))
    yield parent.SaveReady(making, stage)


def _was_inherited(fd: int) -> bool:
    """Whether a descriptor comes from our caller: those of our own (the log, a directory) are closed on exec,
    and given away they would lead out of the container (CVE-2024-21626)."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


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


def _look_around(context: "Context", making: "Making", manager: "Manager") -> build.Surroundings:
    """What the plan needs to know about this machine."""
    spec, process, container = making.spec, making.process, making.container
    linux = spec.linux
    granted = capabilities.grantable(NamespacePlan(linux).has("user"))
    sets = capabilities.resolve(process.capabilities, granted=granted)
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
