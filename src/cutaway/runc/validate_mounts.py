"""What the entries of `mounts` must hold to make sense, in the wording of runc where it has one."""

import os

from cutaway.errors import InvalidArgument
from cutaway.runc.checks import mapping, texts
from cutaway.runc.plan import mount_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Mount, Spec
    from cutaway.runc.plan.mount_options import MountOptions


def check(found: "Spec") -> None:
    """Check every mount. Raises `InvalidArgument`."""
    linux = found.linux
    in_user_namespace = any(namespace.type == "user" for namespace in linux.namespaces) if linux else False
    for index, mount in enumerate(found.mounts):
        path = f"mounts[{index}]"
        texts(path, [mount.destination, mount.source or "", mount.type or "", *mount.options])
        options = mount_options.parse(mount.options)
        if not mount.destination:
            raise InvalidArgument(f"{path}.destination: must not be empty")
        if not options.bind and not mount.type:
            raise InvalidArgument(f"{path}.type: expected a file system, or the option bind or rbind")
        _id_maps(path, mount, options, in_user_namespace)


def _id_maps(path: str, mount: "Mount", options: "MountOptions", in_user_namespace: bool) -> None:
    given = bool(mount.uid_mappings), bool(mount.gid_mappings)
    if not options.id_map and not any(given):
        return
    if not options.bind:
        _refuse(path, mount, "id-mapped mounts are only supported for bind-mounts")
    if os.geteuid() != 0:
        _refuse(path, mount, "id-mapped mounts are not supported for rootless containers")
    if not all(given) and (any(given) or not in_user_namespace):
        _refuse(path, mount, "id-mapped mounts must have both uid and gid mappings specified")
    for name, mappings in (("uid", mount.uid_mappings), ("gid", mount.gid_mappings)):
        for index, each in enumerate(mappings or ()):
            mapping(f"{path}.{name}Mappings[{index}]", each)


def _refuse(path: str, mount: "Mount", why: str) -> None:
    raise InvalidArgument(f"invalid mount {path} ({mount.destination}): {why}")
