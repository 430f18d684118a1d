"""From a configuration to the plan for a container's init: pure, nothing is touched.

before   in the container's namespaces, the host's root still in reach; ends with pivot_root
after    inside the container's root, up to the exec: nothing can be imported there
"""

import os

from cutaway.errors import InvalidArgument
from cutaway.runc.plan import (
    cgroups,
    filters,
    mount_options,
    mounts,
    pivot,
    privileges,
    program,
    scheduling,
    system,
    tree,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.capabilities import Sets
    from cutaway.oci.runtime_spec import Device, Linux, Mount, Process, Spec, State
    from cutaway.runc.plan.namespaces import NamespacePlan
    from cutaway.runc.plan.step import Step

DEFAULT_UMASK = 0o022


class Surroundings:
    """What a plan needs to know besides the configuration: found out by the parent, and passed in."""

    def __init__(self, container_id: str, bundle: str, state: "State", sets: "Sets") -> None:
        self.container_id = container_id
        self.bundle = bundle
        self.rootfs = ""
        self.state = state
        self.sets = sets
        self.no_pivot = False
        self.new_keyring = True
        self.enter_cgroups = cgroups.EnterCgroups([])
        self.cgroup_views: list[mounts.CgroupView] = []  # v1
        self.cgroup2: str | None = None  # v2: what to bind where mounting is refused
        self.seccomp: tuple[bytes, int] | None = None
        self.has_kcore = False
        self.personality: int | None = None


class InitPlan:
    """The steps of a container's init."""

    __slots__ = ("after", "before", "start_hooks")

    def __init__(
        self,
        before: "list[Step]",
        after: "list[Step]",
        start_hooks: "list[Step]",
        may_set_groups: bool = True,
    ) -> None:
        self.before = before
        self.after = after
        self.start_hooks = start_hooks


def init_plan(spec: "Spec", namespaces: "NamespacePlan", around: Surroundings) -> InitPlan:
    """The whole plan of a container's init. Raises `InvalidArgument`, `Unimplemented`."""
    assert spec.process is not None
    before = [
        *_namespace_steps(spec, namespaces, around),
        *_root_steps(spec, namespaces, around),
        *_view_steps(spec),
        system.AskParent("mounted"),
        *_hooks(spec, "createContainer", around),
        *_finish_steps(spec, around),
    ]
    after = process_steps(spec.process, around, namespaces)
    return InitPlan(before, after, _hooks(spec, "startContainer", around))


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


def _root_steps(spec: "Spec", namespaces: "NamespacePlan", around: Surroundings) -> "list[Step]":
    linux = spec.linux
    propagation = (
        mount_options.PROPAGATION[linux.rootfs_propagation] if linux and linux.rootfs_propagation else 0
    )
    steps: list[Step] = [mounts.PrepareRoot(around.rootfs, propagation)]
    steps += [mount_step(mount, namespaces, around) for mount in spec.mounts]
    if _sets_up_dev(spec.mounts):
        steps += _device_steps(linux, namespaces, around)
    if spec.process and spec.process.terminal:
        size = spec.process.console_size
        steps.append(system.MakeTerminal(size.height if size else 0, size.width if size else 0, console=True))
    if spec.process:
        steps.append(pivot.MakeWorkingDirectory(spec.process.cwd))
    return steps


def clean(path: str) -> str:
    """A path of the container without dots and doubled slashes, absolute."""
    return "/" + os.path.normpath("/" + path).lstrip("/")


def mount_step(mount: "Mount", namespaces: "NamespacePlan", around: Surroundings) -> "Step":
    """The step for one entry of `mounts`."""
    options = mount_options.parse(mount.options)
    destination = clean(mount.destination)
    source = mount.source or ""
    if options.bind:
        if options.data:
            raise InvalidArgument(
                f"mount {destination}: bind mounts cannot have any filesystem-specific options applied"
            )
        full = os.path.normpath(os.path.join(around.bundle, source))
        return mounts.BindMount(full, destination, options, from_parent=namespaces.is_new("user"))
    if mount.type == "cgroup":
        if around.cgroup2 is not None:
            return mounts.MountCgroupV2(source, destination, options, around.cgroup2)
        own = namespaces.is_new("cgroup")
        return mounts.MountCgroupV1(source, destination, options, around.cgroup_views, own)
    return mounts.MountFilesystem(mount.type or "", source, destination, options)


def _sets_up_dev(entries: "list[Mount]") -> bool:
    """Whether /dev is ours to fill: not when the host's or another's is bound there."""
    return not any(
        clean(mount.destination) == "/dev" and {"bind", "rbind"} & set(mount.options) for mount in entries
    )


def _device_steps(linux: "Linux | None", namespaces: "NamespacePlan", around: Surroundings) -> "list[Step]":
    bind = namespaces.has("user")
    wanted = {f"/dev/{name}": numbers for name, numbers in tree.DEFAULT_DEVICES.items()}
    steps: list[Step] = []
    for device in linux.devices if linux else ():
        path = clean(device.path)
        wanted.pop(path, None)
        if path != "/dev/ptmx":  # always a link into the container's own devpts
            steps.append(_device_step(path, device, bind))
    steps += [tree.MakeDevice(path, "c", *numbers, bind=bind) for path, numbers in wanted.items()]
    steps.append(tree.MakeLink("/dev/ptmx", "pts/ptmx", replace=True))
    steps += [tree.MakeLink(path, target) for path, target in tree.DEV_LINKS.items()]
    if around.has_kcore:
        steps.append(tree.MakeLink("/dev/core", "/proc/kcore"))
    return steps


def _device_step(path: str, device: "Device", bind: bool) -> "Step":
    mode = 0o666 if device.file_mode is None else device.file_mode & 0o7777
    return tree.MakeDevice(
        path, device.type, device.major or 0, device.minor or 0, mode, device.uid or 0, device.gid or 0, bind
    )


def _view_steps(spec: "Spec") -> "list[Step]":
    linux = spec.linux
    if linux is None:
        return []
    return [
        *(tree.ReadonlyPath(path) for path in linux.readonly_paths),
        *(tree.MaskPath(path) for path in linux.masked_paths),
    ]


def _hooks(spec: "Spec", name: str, around: Surroundings) -> "list[Step]":
    hooks = spec.hooks
    if hooks is None:
        return []
    wanted = hooks.create_container if name == "createContainer" else hooks.start_container
    return [system.RunHooks(name, wanted, around.state)] if wanted else []


def _finish_steps(spec: "Spec", around: Surroundings) -> "list[Step]":
    steps: list[Step] = []
    for mount in spec.mounts:
        options = mount_options.parse(mount.options)
        destination = clean(mount.destination)
        if options.readonly and not options.bind and (mount.type == "tmpfs" or destination == "/dev"):
            steps.append(mounts.RemountReadonly(destination))
    if spec.root and spec.root.readonly:
        steps.append(mounts.RemountReadonly("/"))
    if spec.process:
        steps += label_steps(spec.process)
    steps.append(pivot.PivotRoot(pivot=not around.no_pivot))
    return steps


def label_steps(process: "Process") -> "list[Step]":
    """What the security module is told of a process."""
    steps: list[Step] = []
    if process.apparmor_profile:
        steps.append(system.SetLabel("apparmor", process.apparmor_profile))
    if process.selinux_label:
        steps.append(system.SetLabel("selinux", process.selinux_label))
    return steps


def process_steps(
    process: "Process", around: Surroundings, namespaces: "NamespacePlan | None"
) -> "list[Step]":
    """The steps between being in the container and its exec: the same for init and for `exec`.

    Without no_new_privileges a filter needs CAP_SYS_ADMIN and comes before the capabilities go; with
    it, as the very last.
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
    may_set_groups = namespaces is None or namespaces.may_set_groups
    last: list[Step] = [
        privileges.BecomeUser(process.user, around.sets, process.cwd, set_groups=may_set_groups),
        program.FindProgram((process.args or [""])[0]),
    ]
    if around.seccomp is None:
        return [*steps, *last]
    filter_ = filters.InstallSeccomp(*around.seccomp)
    return [*steps, *last, filter_] if process.no_new_privileges else [*steps, filter_, *last]


def _scheduling(process: "Process", personality: int | None) -> "list[Step]":
    io = None
    if process.io_priority is not None:
        io = (scheduling.IO_CLASSES[process.io_priority.class_], process.io_priority.priority)
    if process.scheduler is None and io is None and personality is None:
        return []
    return [scheduling.SetScheduling(process.scheduler, io, personality)]
