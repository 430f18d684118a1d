"""What a container sees of the cgroup hierarchies."""

import os

from cutaway.linux import mounts, paths
from cutaway.runc.plan import mount_places
from cutaway.runc.plan.mounts import MountStep
from cutaway.runc.plan.step import Here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.plan.mount_options import MountOptions


class CgroupView:
    """One v1 hierarchy as the container sees it."""

    __slots__ = ("controllers", "name", "source")

    def __init__(self, name: str, source: str, controllers: list[str]) -> None:
        self.name = name  # of the directory, e.g. "memory" or "cpu,cpuacct"
        self.source = source  # the container's own cgroup on the host
        self.controllers = controllers


class MountCgroupV1(MountStep):
    """A tmpfs with the container's own cgroup of each v1 hierarchy in it."""

    __slots__ = ("data", "namespaced", "views")

    def __init__(
        self,
        source: str,
        destination: str,
        options: "MountOptions",
        views: list[CgroupView],
        namespaced: bool,
        label: str = "",
    ) -> None:
        super().__init__(source, destination, options)
        self.views = views
        self.namespaced = namespaced
        self.data = ["mode=755", *([f"context={label}"] if label else [])]

    def describe(self) -> str:
        return f"show {len(self.views)} cgroup hierarchies at {self.destination}"

    def command(self) -> str:
        binds = (f"mount --bind {v.source} $ROOT{self.destination}/{v.name}" for v in self.views)
        return f"mount -t tmpfs tmpfs $ROOT{self.destination} && " + " && ".join(binds)

    def execute(self, here: Here) -> None:
        target = paths.make_directories(here.root, self.destination)
        flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
        tree = -1
        try:
            mount_places.check(here, target, self.destination, "cgroup")
            tree = mounts.filesystem("tmpfs", "tmpfs", flags, self.data, shown=self.destination)
            for view in self.views:
                os.mkdir(view.name, 0o755, dir_fd=tree)
                for controller in view.controllers if "," in view.name else ():
                    os.symlink(view.name, controller, dir_fd=tree)
            self._attach(tree, target)
            for view in self.views:
                self._show(tree, view)
        finally:
            os.close(target)
            if tree >= 0:
                os.close(tree)

    def _show(self, top: int, view: CgroupView) -> None:
        flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC | self.options.flags & mounts.MS_RDONLY
        if self.namespaced:
            source = view.name if view.controllers[0].startswith("name=") else "cgroup"
            tree = mounts.filesystem("cgroup", source, flags, view.controllers, shown=view.name)
        else:
            tree = mounts.open_tree(mounts.AT_FDCWD, view.source)
            mounts.change(tree, flags)
        try:
            mounts.move_mount(tree, top, view.name, shown=f"{view.source}:{self.destination}/{view.name}")
        finally:
            os.close(tree)


class MountCgroupV2(MountStep):
    """The unified hierarchy; where a new mount is refused, the host's own, bound."""

    __slots__ = ("own",)

    def __init__(self, source: str, destination: str, options: "MountOptions", own: str) -> None:
        super().__init__(source, destination, options)
        self.own = own  # what to bind: the container's cgroup, or the whole hierarchy

    def describe(self) -> str:
        return f"mount cgroup2 at {self.destination}"

    def command(self) -> str:
        return f"mount -t cgroup2 {self.source} $ROOT{self.destination}"

    def execute(self, here: Here) -> None:
        target = paths.make_directories(here.root, self.destination)
        tree = -1
        try:
            mount_places.check(here, target, self.destination, "cgroup")
            tree = self._tree()
            self._attach(tree, target)
        finally:
            os.close(target)
            if tree >= 0:
                os.close(tree)

    def _tree(self) -> int:
        options = self.options
        try:
            return mounts.filesystem(
                "cgroup2", self.source, options.flags, options.data, shown=self.destination
            )
        except OSError as error:
            # EPERM, EBUSY: in a user namespace without a cgroup namespace of its own
            if error.errno not in (1, 16):
                raise
        tree = mounts.open_tree(mounts.AT_FDCWD, self.own)
        mounts.change(tree, options.flags)
        return tree
