"""Which cgroup a container gets, and what must be known of it before the container is made."""

import os

from cutaway.errors import FailedPrecondition
from cutaway.runc import rootless
from cutaway.runc.plan.rootfs import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.base import Manager
    from cutaway.oci.runtime_spec import Spec
    from cutaway.runc.context import Context
    from cutaway.runc.plan.build import Surroundings
    from cutaway.runc.plan.cgroup_mounts import CgroupView
    from cutaway.runc.plan.namespaces import NamespacePlan
    from cutaway.runc.state import Container


def choose(context: "Context", spec: "Spec", container: "Container") -> "Manager":
    """The container's cgroup, by path or through systemd; written down, checked, nothing made yet.

    Raises the classes of `cutaway.errors` for what the configuration asks for in vain.
    """
    from cutaway.linux import cgroups

    path = spec.linux.cgroups_path if spec.linux else None
    manager: Manager
    if context.systemd_cgroup:
        from cutaway.linux.cgroups import systemd, systemd_properties

        properties = systemd_properties.of_annotations(spec.annotations)
        unit = systemd.manager(path, container.id, properties, user=context.may_lack_cgroups())
        container.record.cgroup_unit, container.record.cgroup_user = unit.unit, unit.user
        manager = unit
    else:
        manager = cgroups.manager(path, container.id)
    resources = spec.linux.resources if spec.linux else None
    manager.check(resources)
    if not manager.made_by_entry and context.may_lack_cgroups():
        manager = rootless.permitted(manager, resources, asked=bool(path))
    container.record.cgroup_paths = manager.paths()
    return manager


def check_unused(context: "Context", manager: "Manager") -> None:
    """A cgroup that is there already: frozen, it would hold init for ever; with processes, delete fails.

    Raises `FailedPrecondition`.
    """
    if manager.exists() and (count := len(manager.pids())):
        context.log.warning(f"container's cgroup is not empty: {count} process(es) found")
        context.log.warning(
            "DEPRECATED: running container in a non-empty cgroup won't be supported; "
            "it cannot be deleted while others are in it"
        )
    if manager.frozen():
        raise FailedPrecondition("container's cgroup unexpectedly frozen")


def owner(spec: "Spec", namespaces: "NamespacePlan") -> int | None:
    """Whom the cgroup is delegated to: the process's user, if it sees nothing but its own cgroup, writable.

    runtime-spec 1.1, config-linux, "Cgroup ownership".
    """
    writable = any(
        mount.type in ("cgroup", "cgroup2") and "ro" not in mount.options
        for mount in spec.mounts
        if clean(mount.destination) == "/sys/fs/cgroup"
    )
    if not (writable and namespaces.is_new("cgroup") and spec.process) or rootless.unprivileged():
        return None
    return namespaces.host_uid(spec.process.user.uid)


def look_at_views(around: "Surroundings", manager: "Manager") -> None:
    """What a mount of type cgroup is going to show."""
    from cutaway.linux.cgroups import detect

    if detect.layout().mode == detect.UNIFIED:
        around.cgroup2 = detect.ROOT
    around.cgroup_views = views(manager)


def views(manager: "Manager") -> "list[CgroupView]":
    """The v1 hierarchies as a container sees them; none on v2."""
    from cutaway.linux.cgroups import detect
    from cutaway.runc.plan.cgroup_mounts import CgroupView

    layout = detect.layout()
    if layout.mode == detect.UNIFIED:
        return []
    by_mount: dict[str, CgroupView] = {}
    made = manager.paths()
    own = None
    for controller, mount in layout.mounts.items():
        if not controller:
            continue
        path = made.get(controller)
        if not path:  # where the container has none, it is in the runtime's
            own = own or detect.own_cgroups()
            if controller not in own:
                continue
            path = detect.below(layout, controller, own[controller])
        view = by_mount.setdefault(mount, CgroupView(os.path.basename(mount), path, []))
        view.controllers.append(controller)
    return list(by_mount.values())
