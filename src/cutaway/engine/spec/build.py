"""A container's settings as the OCI document that dockerd would make of them.

Pure: nothing is looked up, nothing is touched. Compared with what dockerd gives its runtime, the hook that
sets up the network is missing: our network exists before the runtime starts, so its namespace is
named by path, and nothing of the engine need run inside a container's start.
"""

from cutaway.engine.spec import capabilities, defaults, mounts, resources, seccomp_profile
from cutaway.engine.spec.inputs import Host, SpecInputs
from cutaway.errors import InvalidArgument
from cutaway.oci import runtime_spec as oci

PRIVATE, HOST = "private", "host"


def build(inputs: SpecInputs, host: Host) -> oci.Spec:
    """The document. Raises `InvalidArgument`, in Docker's words where it has some, for impossible wishes."""
    granted = capabilities.effective(inputs.cap_add, inputs.cap_drop, inputs.privileged, host)
    return oci.Spec(
        oci_version=defaults.OCI_VERSION,
        process=_process(inputs, granted),
        root=oci.Root(path=inputs.rootfs, readonly=True if inputs.readonly_rootfs else None),
        hostname=inputs.hostname if inputs.hostname and inputs.namespaces.uts != HOST else None,
        mounts=mounts.mounts(inputs, host),
        annotations=dict(inputs.annotations),
        linux=oci.Linux(
            sysctl=_sysctls(inputs),
            resources=resources.resources(inputs, host),
            cgroups_path=cgroups_path(inputs),
            namespaces=_namespaces(inputs, host),
            devices=resources.device_nodes(inputs, host),
            seccomp=_seccomp(inputs, host, granted),
            rootfs_propagation=mounts.rootfs_propagation(inputs),
            masked_paths=_paths(inputs, inputs.masked_paths, defaults.MASKED_PATHS),
            readonly_paths=_paths(inputs, inputs.readonly_paths, defaults.READONLY_PATHS),
        ),
    )


def process(inputs: SpecInputs, host: Host) -> oci.Process:
    """The process alone, for an exec in the container: same capabilities and limits."""
    granted = capabilities.effective(inputs.cap_add, inputs.cap_drop, inputs.privileged, host)
    return _process(inputs, granted)


def cgroups_path(inputs: SpecInputs) -> str:
    """PARENT/ID; whatever ".." a parent holds is counted from the root."""
    parent = inputs.cgroup_parent or defaults.CGROUP_PARENT
    return f"{parent.rstrip('/')}/{inputs.id}"


def uses_init(inputs: SpecInputs) -> bool:
    """--init has a meaning only where the container's first process is the first of its namespace."""
    return inputs.init_path is not None and inputs.namespaces.pid == PRIVATE


def _process(inputs: SpecInputs, granted: list[str]) -> oci.Process:
    if not inputs.args:
        raise InvalidArgument("No command specified")
    args = list(inputs.args)
    if uses_init(inputs):
        args = [defaults.INIT_DESTINATION, "--", *args]
    gids = [inputs.gid, *(gid for gid in inputs.additional_gids if gid != inputs.gid)]
    size = inputs.console_size if inputs.terminal else None
    return oci.Process(
        terminal=True if inputs.terminal else None,
        console_size=oci.Box(height=size[0], width=size[1]) if size and all(size) else None,
        user=oci.User(uid=inputs.uid, gid=inputs.gid, additional_gids=gids),
        args=args,
        env=list(inputs.env),
        cwd=inputs.cwd or "/",
        # No inheritable set: files could hand it to any user of the container (CVE-2022-24769).
        capabilities=oci.Capabilities(
            bounding=list(granted), effective=list(granted), permitted=list(granted)
        ),
        rlimits=[resources.rlimit(limit) for limit in inputs.ulimits],
        no_new_privileges=True if inputs.no_new_privileges else None,
        oom_score_adj=inputs.oom_score_adj,
    )


def _namespaces(inputs: SpecInputs, host: Host) -> list[oci.Namespace]:
    wanted = inputs.namespaces
    cgroup = wanted.cgroup or (PRIVATE if host.cgroup_version == 2 else HOST)
    modes = (
        ("mount", PRIVATE),
        ("network", wanted.network),
        ("uts", wanted.uts),
        ("pid", wanted.pid),
        ("ipc", PRIVATE if wanted.ipc == "none" else wanted.ipc),
        ("cgroup", cgroup),
        ("user", wanted.user),
    )
    return [_namespace(kind, mode) for kind, mode in modes if mode != HOST]


def _namespace(kind: str, mode: str) -> oci.Namespace:
    if mode == PRIVATE:
        return oci.Namespace(type=kind)
    if not mode.startswith("/"):
        raise InvalidArgument(f'{kind} namespace: "{mode}" is not private, host or a path')
    return oci.Namespace(type=kind, path=mode)


def _sysctls(inputs: SpecInputs) -> dict[str, str]:
    found = {}
    if inputs.domainname and inputs.namespaces.uts != HOST:
        # The document's own field came with specification 1.1, which runc 1.1 does not read yet.
        found["kernel.domainname"] = inputs.domainname
    if inputs.namespaces.network != HOST:
        found.update(defaults.NETWORK_SYSCTLS)
    for name, value in inputs.sysctls.items():
        if name.startswith("net.") and inputs.namespaces.network == HOST:
            raise InvalidArgument(f'sysctl "{name}" is not allowed in the host network namespace')
        found[name] = value
    return found


def _seccomp(inputs: SpecInputs, host: Host, granted: list[str]) -> oci.Seccomp | None:
    if inputs.privileged or inputs.seccomp == "unconfined":
        return None
    if not host.seccomp:
        if inputs.seccomp is None:
            return None
        raise InvalidArgument("seccomp is not enabled in your kernel, cannot run a custom seccomp profile")
    return seccomp_profile.resolve(inputs.seccomp, host, granted)


def _paths(inputs: SpecInputs, given: tuple[str, ...] | None, default: tuple[str, ...]) -> list[str]:
    if given is not None:
        return list(given)
    return [] if inputs.privileged else list(default)
