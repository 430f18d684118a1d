"""What of a container criu does not keep, as it lies outside: bind mounts, cgroups, namespaces, pipes."""

import os

from cutaway.linux import namespaces, paths
from cutaway.runc.plan import mount_options
from cutaway.runc.plan.rootfs import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutaway.oci.runtime_spec import Mount, Spec
    from cutaway.runc.plan.cgroup_mounts import CgroupView
    from cutaway.runc.state import Record

DESCRIPTORS = "descriptors.json"
NULL = "/dev/null"
_BY_DESCRIPTOR = ("network", "pid")  # criu takes these open; others it joins by their paths


def mounts(spec: "Spec", record: "Record", views: "list[CgroupView]") -> "Iterator[tuple[str, str]]":
    """Each mount from outside: where it is inside, and what is shown there.

    Cgroup v1 hierarchies are such mounts unless the container has a cgroup namespace; v2 is not.
    """
    kinds = [namespace.type for namespace in spec.linux.namespaces] if spec.linux else []
    for mount in spec.mounts:
        if mount_options.parse(mount.options).bind:
            source = os.path.normpath(os.path.join(record.bundle, mount.source or ""))
            yield _inside(record.rootfs, mount), source
        elif mount.type == "cgroup" and "cgroup" not in kinds:
            for view in views:
                yield f"{_inside(record.rootfs, mount)}/{view.name}", view.source
    if "user" in kinds and spec.linux is not None:  # where nodes cannot be made, the host's are bound
        for device in spec.linux.devices:
            yield clean(device.path), clean(device.path)


def _inside(rootfs: str, mount: "Mount") -> str:
    """A mount's place without links, which criu compares with what the kernel lists."""
    wanted = clean(mount.destination)
    try:
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = paths.open_in_root(root, wanted)
        finally:
            os.close(root)
    except OSError:
        return wanted  # on a file system that is mounted inside
    try:
        found = os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return found.removeprefix(rootfs) if found.startswith(rootfs + "/") else wanted


def masked_files(spec: "Spec", pid: int) -> "Iterator[str]":
    """The masked paths that are files there: the null device is bound over them."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in spec.linux.masked_paths if spec.linux else ():
            try:
                fd = paths.open_in_root(root, clean(path))
            except OSError:
                continue
            try:
                if not os.path.isdir(f"/proc/self/fd/{fd}"):
                    yield clean(path)
            finally:
                os.close(fd)
    finally:
        os.close(root)


def joined(spec: "Spec", *, by_descriptor: bool) -> "Iterator[tuple[str, str]]":
    """The namespaces that the configuration has by path: criu's word for the kind, and the path."""
    for namespace in spec.linux.namespaces if spec.linux else ():
        if namespace.path and (namespace.type in _BY_DESCRIPTOR) is by_descriptor:
            yield namespaces.KINDS[namespace.type][1], namespace.path


def key(kind: str) -> str:
    """The name that criu knows such a namespace by, in images and on restoring."""
    return f"extRoot{kind.title()}NS"


def descriptors(pid: int) -> list[str]:
    """What stdin, stdout and stderr are."""
    found = []
    for fd in range(3):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            found.append("")
    return found
