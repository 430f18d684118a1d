"""A container's mounts: the kernel's file systems, the engine's files in /etc, the user's."""

from cutaway.engine.spec import defaults
from cutaway.engine.spec.inputs import BindMount, Host, SpecInputs, TmpfsMount
from cutaway.errors import InvalidArgument
from cutaway.oci.runtime_spec import Mount

_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")


def mounts(inputs: SpecInputs, host: Host) -> list[Mount]:
    """In the order they are mounted: parents before what is below them.

    A user's mount takes the place of a default one at the same path; one of /dev takes all below it.
    """
    wanted = sorted([*_engine_files(inputs), *inputs.mounts], key=lambda mount: _depth(mount.destination))
    taken = {mount.destination for mount in wanted}
    found = [mount for mount in defaults.mounts() if not _replaced(mount, taken)]
    if inputs.namespaces.ipc == "none":
        found = [mount for mount in found if mount.destination != "/dev/shm"]
    found = [_adjusted(mount, inputs) for mount in found]
    found += [_bind(mount) if isinstance(mount, BindMount) else _tmpfs(mount) for mount in wanted]
    if inputs.init_path is not None and inputs.namespaces.pid == "private":
        found.append(_plain_bind(inputs.init_path, defaults.INIT_DESTINATION, "bind", "ro"))
    return found


def rootfs_propagation(inputs: SpecInputs) -> str | None:
    """What the rootfs must be for mounts to travel as the user's binds say; None: the runtime's default."""
    kinds = {mount.propagation.removeprefix("r") for mount in inputs.mounts if isinstance(mount, BindMount)}
    if "shared" in kinds:
        return "shared"
    return "rslave" if "slave" in kinds else None


def _depth(path: str) -> int:
    return len([part for part in path.split("/") if part])


def _replaced(mount: Mount, taken: set[str]) -> bool:
    return mount.destination in taken or ("/dev" in taken and mount.destination.startswith("/dev/"))


def _engine_files(inputs: SpecInputs) -> list[BindMount]:
    """Unless the user mounts another file there."""
    users = {mount.destination for mount in inputs.mounts}
    shm = {"none": None, "host": "/dev/shm"}.get(inputs.namespaces.ipc, inputs.shm_path)
    files = (
        ("/etc/resolv.conf", inputs.resolv_conf_path, inputs.readonly_rootfs),
        ("/etc/hostname", inputs.hostname_path, inputs.readonly_rootfs),
        ("/etc/hosts", inputs.hosts_path, inputs.readonly_rootfs),
        ("/dev/shm", shm, False),
    )
    return [
        BindMount(source, place, read_only)
        for place, source, read_only in files
        if source and place not in users
    ]


def _adjusted(mount: Mount, inputs: SpecInputs) -> Mount:
    """A default mount with what the settings change of it."""
    options = list(mount.options)
    if mount.destination == "/dev/shm":
        options.append(f"size={inputs.shm_size}")
    if inputs.privileged and mount.destination in ("/sys", "/sys/fs/cgroup"):
        options = [option for option in options if option != "ro"]
    elif inputs.readonly_rootfs and mount.destination not in defaults.WRITABLE_WITH_READONLY_ROOTFS:
        options += [] if "ro" in options else ["ro"]
    return Mount(destination=mount.destination, type=mount.type, source=mount.source, options=options)


def _bind(mount: BindMount) -> Mount:
    if mount.propagation not in _PROPAGATIONS:
        raise InvalidArgument(f'invalid mount propagation "{mount.propagation}" for {mount.destination}')
    options = ["rbind" if mount.recursive else "bind"]
    options += ["ro"] if mount.read_only else []
    options.append(mount.propagation)
    return _plain_bind(mount.source, mount.destination, *options)


def _plain_bind(source: str, destination: str, *options: str) -> Mount:
    return Mount(destination=destination, type="bind", source=source, options=list(options))


# Of options that contradict one another the last given counts.
_OPPOSITES = (("noexec", "exec"), ("nosuid", "suid"), ("nodev", "dev"), ("rw", "ro"), ("sync", "async"))


def _tmpfs(mount: TmpfsMount) -> Mount:
    options: list[str] = []
    for option in ("noexec", "nosuid", "nodev", "rprivate", *mount.options):
        rivals = {name for pair in _OPPOSITES if option in pair for name in pair}
        key = option.partition("=")[0] if "=" in option else None
        options = [
            other
            for other in options
            if other not in rivals and other != option and (key is None or other.partition("=")[0] != key)
        ]
        options.append(option)
    return Mount(destination=mount.destination, type="tmpfs", source="tmpfs", options=options)
