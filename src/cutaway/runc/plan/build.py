"""From a configuration to the plan for a container's init: pure, nothing is touched.

before   in the container's namespaces, the host's root still in reach; ends with pivot_root
after    inside the container's root, up to the exec: nothing can be imported there
"""

from cutaway.linux.mounts import MS_REC, MS_SLAVE
from cutaway.runc.plan import (
    cgroup_mounts,
    cgroups,
    filters,
    mount_options,
    mounts,
    pivot,
    privileges,
    program,
    rootfs,
    scheduling,
    system,
)
from cutaway.runc.process.sealed import Way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutaway.linux.capabilities import Sets
    from cutaway.oci.runtime_spec import Process, Spec, State
    from cutaway.runc.plan import binds
    from cutaway.runc.plan.namespaces import NamespacePlan
    from cutaway.runc.plan.step import Step

DEFAULT_UMASK = 0o022


class Surroundings:
    """What a plan needs to know besides the configuration: found out by the parent, and passed in."""

    def __init__(self, container_id: str, bundle: str, state: "State", sets: "Sets") -> None:
        self.container_id = container_id
        self.bundle = bundle
        self.rootfs = ""
        self.propagation = MS_SLAVE | MS_REC  # of all mounts when init takes them over
        self.id_maps: dict[str, binds.IdMap] = {}  # shared by the mounts that have the same
        self.state = state
        self.sets = sets
        self.no_pivot = False
        self.new_keyring = True
        self.enter_cgroups = cgroups.EnterCgroups([])
        self.cgroup_views: list[cgroup_mounts.CgroupView] = []  # v1
        self.cgroup2: str | None = None  # v2: what to bind where mounting is refused
        self.seccomp: tuple[bytes, int] | None = None
        self.way = Way()
        self.has_kcore = False
        self.mount_label = ""  # of SELinux, where that is enabled
        self.personality: int | None = None
        self.unprivileged = False  # the runtime is not root


class InitPlan:
    """The steps of a container's init."""

    __slots__ = ("after", "before", "start_hooks")

    def __init__(
        self,
        before: "list[Step]",
        after: "list[Step]",
        start_hooks: "list[Step]",
    ) -> None:
        self.before = before
        self.after = after
        self.start_hooks = start_hooks


def init_plan(spec: "Spec", namespaces: "NamespacePlan", around: Surroundings) -> InitPlan:
    """The whole plan of a container's init. Raises `InvalidArgument`, `Unimplemented`."""
    assert spec.process is not None
    wait: list[Step] = [system.AwaitParent()]
    waits_late = _may_wait_late(spec)
    before = [
        *_namespace_steps(spec, namespaces, around),
        *rootfs.root_steps(spec, namespaces, around),
        *rootfs.view_steps(spec, around.mount_label),
        system.TellParent("mounted"),
        *([] if waits_late else wait),
        *_hooks(spec, "createContainer", around),
        *_finish_steps(spec, namespaces, around),
    ]
    after = process_steps(spec.process, around, wait if waits_late else [])
    return InitPlan(before, after, _hooks(spec, "startContainer", around))


def _may_wait_late(spec: "Spec") -> bool:
    """Whether the parent's work on the mounted container may be going on while init finishes its own.

    Not if there are hooks, which come in an order; and not with a terminal: setting limits, v1 forbids all
    devices before it allows some, and a terminal is opened once more.
    """
    hooks = spec.hooks
    ordered = hooks is not None and bool(hooks.prestart or hooks.create_runtime or hooks.create_container)
    return not ordered and not (spec.process is not None and spec.process.terminal)


def _namespace_steps(spec: "Spec", namespaces: "NamespacePlan", around: Surroundings) -> "list[Step]":
    steps: list[Step] = [around.enter_cgroups]
    if around.new_keyring:
        steps.append(system.JoinKeyring(f"_ses.{around.container_id}"))
    if namespaces.is_new("cgroup"):
        steps.append(cgroups.UnshareCgroup())
    if namespaces.is_new("network"):
        steps.append(system.LoopbackUp())
    if spec.hostname:
        steps.append(system.SetHostname(spec.hostname))
    if spec.domainname:
        steps.append(system.SetDomainname(spec.domainname))
    linux = spec.linux
    steps += [system.WriteSysctl(key, value) for key, value in (linux.sysctl if linux else {}).items()]
    return steps


def _hooks(spec: "Spec", name: str, around: Surroundings) -> "list[Step]":
    hooks = spec.hooks
    if hooks is None:
        return []
    early = name == "createContainer"
    wanted = hooks.create_container if early else hooks.start_container
    entries = spec.process.env if spec.process else []
    status = "creating" if early else "created"
    return [system.RunHooks(name, wanted, around.state, status, entries)] if wanted else []


def _finish_steps(spec: "Spec", namespaces: "NamespacePlan", around: Surroundings) -> "list[Step]":
    steps: list[Step] = []
    for mount in spec.mounts:
        options = mount_options.parse(mount.options)
        destination = rootfs.clean(mount.destination)
        if options.readonly and not options.bind and (mount.type == "tmpfs" or destination == "/dev"):
            steps.append(mounts.RemountReadonly(destination))
    if spec.root and spec.root.readonly:
        steps.append(mounts.RemountReadonly("/"))
    if spec.process:
        steps += label_steps(spec.process, around.way)
    if not namespaces.has("mount"):
        return [*steps, pivot.ChangeRoot()]
    wanted = spec.linux.rootfs_propagation if spec.linux else None
    propagation = mount_options.PROPAGATION[wanted] if wanted else 0
    steps.append(pivot.PivotRoot(pivot=not around.no_pivot, propagation=propagation))
    return steps


def label_steps(process: "Process", way: Way) -> "list[Step]":
    """What the security module is told of a process."""
    steps: list[Step] = []
    if process.apparmor_profile:
        steps.append(system.SetLabel("apparmor", process.apparmor_profile, way.attributes))
    if process.selinux_label:
        steps.append(system.SetLabel("selinux", process.selinux_label, way.attributes))
    return steps


def process_steps(process: "Process", around: Surroundings, wait: "Sequence[Step]" = ()) -> "list[Step]":
    """The steps between being in the container and its exec: the same for init and for `exec`.

    Without no_new_privileges a filter needs CAP_SYS_ADMIN and comes before the capabilities go; with
    it, as the very last. `wait`, for the parent, comes as late as a filter lets it.
    """
    steps: list[Step] = []
    if process.terminal:
        steps.append(system.TakeTerminal())
    umask = process.user.umask
    steps.append(privileges.SetUmask(DEFAULT_UMASK if umask is None else umask))
    steps += _scheduling(process, around.personality)
    if process.no_new_privileges:
        steps.append(filters.ForbidNewPrivileges())
    steps.append(program.SetEnvironment(process.env, process.user.uid))
    last: list[Step] = [
        privileges.BecomeUser(
            process.user, around.sets, process.cwd, not around.unprivileged, around.way.lent
        ),
        program.FindProgram((process.args or [""])[0]),
    ]
    if around.seccomp is None or around.way.filter_late:
        return [*steps, *last, *wait]
    filter_ = filters.InstallSeccomp(*around.seccomp)
    if process.no_new_privileges:
        return [*steps, *last, *wait, filter_]
    return [*steps, *wait, filter_, *last]


def _scheduling(process: "Process", personality: int | None) -> "list[Step]":
    io = None
    if process.io_priority is not None:
        io = (scheduling.IO_CLASSES[process.io_priority.class_], process.io_priority.priority)
    if process.scheduler is None and io is None and personality is None:
        return []
    return [scheduling.SetScheduling(process.scheduler, io, personality)]
