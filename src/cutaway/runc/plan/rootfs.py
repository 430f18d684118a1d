"""From a configuration to the steps that make the container's file system tree: pure, nothing is touched."""

import os

from cutaway.errors import InvalidArgument
from cutaway.linux.mounts import MS_PRIVATE
from cutaway.runc.plan import cgroup_mounts, mount_options, mounts, pivot, system, tree
from cutaway.runc.plan.namespaces import triples

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Device, Linux, Mount, Spec
    from cutaway.runc.plan.binds import IdMap
    from cutaway.runc.plan.build import Surroundings
    from cutaway.runc.plan.mount_options import MountOptions
    from cutaway.runc.plan.namespaces import NamespacePlan
    from cutaway.runc.plan.step import Step


def root_steps(spec: "Spec", namespaces: "NamespacePlan", around: "Surroundings") -> "list[Step]":
    """The steps that make the tree: the root, what is mounted in it, its devices, its terminal."""
    linux = spec.linux
    if linux and linux.rootfs_propagation:
        around.propagation = mount_options.PROPAGATION[linux.rootfs_propagation]
    if around.no_pivot and around.propagation & MS_PRIVATE:
        # What the host unmounts would stay mounted below the root that was moved to the top.
        raise InvalidArgument("rootfsPropagation of [r]private is not safe without pivot_root")
    steps: list[Step] = [mounts.PrepareRoot(around.rootfs, around.propagation)]
    if not namespaces.has("mount"):
        steps = [pivot.BindRoot(around.rootfs)]
    for index, mount in enumerate(spec.mounts):
        steps.append(mount_step(mount, namespaces, around, spec.mounts[:index]))
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


def mount_step(
    mount: "Mount", namespaces: "NamespacePlan", around: "Surroundings", earlier: "list[Mount]"
) -> "Step":
    """The step for one entry of `mounts`; `earlier` are those before it."""
    options = mount_options.parse(mount.options)
    destination = clean(mount.destination)
    source = mount.source or ""
    if options.remount:
        return mounts.Remount(mount.type or "", source, destination, options)
    if options.bind:
        from cutaway.runc.plan import binds

        full = os.path.normpath(os.path.join(around.bundle, source))
        id_map = _id_map(mount, options, namespaces, around)
        outside = _opened_outside(full, namespaces, around)
        if outside is None and id_map is not None and namespaces.has("user") and not around.unprivileged:
            _must_be_plain(full.removeprefix(around.rootfs) or "/", destination, earlier)
            outside = around.propagation
        return binds.BindMount(full, destination, options, id_map, outside)
    if mount.type == "cgroup":
        if around.cgroup2 is not None:
            return cgroup_mounts.MountCgroupV2(source, destination, options, around.cgroup2)
        own = namespaces.is_new("cgroup")
        return cgroup_mounts.MountCgroupV1(
            source, destination, options, around.cgroup_views, own, around.mount_label
        )
    return mounts.MountFilesystem(mount.type or "", source, destination, options, around.mount_label)


def _opened_outside(source: str, namespaces: "NamespacePlan", around: "Surroundings") -> int | None:
    """Whether the runtime opens a bind's source, as `BindMount` has it: not what lies in the root itself,
    where earlier mounts of the container cover it."""
    if not namespaces.has("user") and "mount" not in namespaces.joined:
        return None
    if around.unprivileged:  # its reach is no further than init's, and it may make no mounts
        return None
    if source == around.rootfs or source.startswith(around.rootfs + "/"):
        return None
    return around.propagation


def _must_be_plain(inner: str, destination: str, earlier: "list[Mount]") -> None:
    """Only the runtime may map ids, and it sees the root without the container's mounts, which init makes.

    Raises `InvalidArgument` for a source that earlier mounts cover, or are in.
    """
    for mount in earlier:
        place = clean(mount.destination)
        if _within(inner, place) or _within(place, inner):
            raise InvalidArgument(
                f"id-mapped mount {destination}: its source is {inner} of the root itself, and a mount on"
                f" {place} comes before it; with a user namespace, name that mount's source instead"
            )


def _within(path: str, folder: str) -> bool:
    return folder in ("/", path) or path.startswith(f"{folder}/")


def _id_map(
    mount: "Mount", options: "MountOptions", namespaces: "NamespacePlan", around: "Surroundings"
) -> "IdMap | None":
    """The mount's own maps or, when it only says that there shall be some, those of the container."""
    if not (options.id_map or mount.uid_mappings or mount.gid_mappings):
        return None
    from cutaway.runc.plan import binds

    path = ""
    uid_map, gid_map = triples(mount.uid_mappings or []), triples(mount.gid_mappings or [])
    if not uid_map and not gid_map:
        uid_map, gid_map = namespaces.uid_map, namespaces.gid_map
        path = namespaces.joined.get("user", "")
    known = around.id_maps
    return known.setdefault(f"{path} {uid_map} {gid_map}", binds.IdMap(uid_map, gid_map, path))


def _sets_up_dev(entries: "list[Mount]") -> bool:
    """Whether /dev is ours to fill: not when the host's or another's is bound there."""
    return not any(
        clean(mount.destination) == "/dev" and {"bind", "rbind"} & set(mount.options) for mount in entries
    )


def _device_steps(linux: "Linux | None", namespaces: "NamespacePlan", around: "Surroundings") -> "list[Step]":
    bind = namespaces.has("user")
    wanted = {f"/dev/{name}": numbers for name, numbers in tree.DEFAULT_DEVICES.items()}
    steps: list[Step] = []
    for device in linux.devices if linux else ():
        path = clean(device.path)
        wanted.pop(path, None)
        if path != "/dev/ptmx":  # always a link into the container's own devpts
            steps.append(_device_step(path, device, bind, namespaces, around))
    steps += [tree.MakeDevice(path, "c", *numbers, bind=bind) for path, numbers in wanted.items()]
    steps.append(tree.MakeLink("/dev/ptmx", "pts/ptmx", replace=True))
    steps += [tree.MakeLink(path, target) for path, target in tree.DEV_LINKS.items()]
    if around.has_kcore:
        steps.append(tree.MakeLink("/dev/core", "/proc/kcore"))
    steps.append(tree.ReopenNull())
    return steps


def _device_step(
    path: str, device: "Device", bind: bool, namespaces: "NamespacePlan", around: "Surroundings"
) -> "Step":
    mode = 0o666 if device.file_mode is None else device.file_mode & 0o7777
    uid, gid = device.uid or 0, device.gid or 0
    host = None if around.unprivileged else namespaces.outside(uid, gid)
    major, minor = device.major or 0, device.minor or 0
    return tree.MakeDevice(path, device.type, major, minor, mode, uid, gid, bind, host)


def view_steps(spec: "Spec", label: str) -> "list[Step]":
    """The steps that hide paths, or make them read-only."""
    linux = spec.linux
    if linux is None:
        return []
    return [
        *(tree.ReadonlyPath(path) for path in linux.readonly_paths),
        *(tree.MaskPath(path, label) for path in linux.masked_paths),
    ]
