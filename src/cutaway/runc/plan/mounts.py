"""The steps that build the container's file system tree, mount by mount.

No step here names a place in the container by path twice. A target is resolved once, inside the root,
to a descriptor (`linux.paths`); what goes there is made as a mount that hangs nowhere, with all its
attributes set, and is then moved onto that descriptor (`linux.mounts`). So there is no moment at which
a link exchanged by another process could lead a mount elsewhere (CVE-2021-30465), and no moment at which
a read-only bind is writable. The price: Linux 5.12.
"""

import os
import stat

from cutaway.errors import FailedPrecondition, PermissionDenied
from cutaway.linux import mounts, paths
from cutaway.runc.plan.step import Here, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from cutaway.runc.plan.mount_options import MountOptions

# Below /proc only these may be mounted over: what lxcfs makes up for a container.
PROC_ALLOWED = frozenset(
    "/proc/" + name
    for name in (
        "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev",
        "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
    )
)  # fmt: skip


class PrepareRoot(Step):
    """Take the mounts out of the host's reach and make the root a mount of its own."""

    __slots__ = ("path", "propagation")
    group = "rootfs"

    def __init__(self, path: str, propagation: int) -> None:
        self.path = path
        self.propagation = propagation

    def describe(self) -> str:
        return f"prepare the root at {self.path}"

    def command(self) -> str:
        return f"mount --make-rslave / && mount --rbind {self.path} {self.path}"

    def execute(self, here: Here) -> None:
        # Not private: a host's unmount should still reach us, or its file systems stay busy for ever.
        mounts.mount(None, "/", None, self.propagation or mounts.MS_SLAVE | mounts.MS_REC)
        # pivot_root(2) refuses a root whose parent mount is shared.
        mounts.mount(None, mounts.parent_mount(self.path), None, mounts.MS_PRIVATE)
        tree = mounts.open_tree(mounts.AT_FDCWD, self.path, recursive=True)
        target = os.open(self.path, paths.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mounts.move_mount(tree, target, shown=self.path)
        finally:
            os.close(target)
        here.root = tree
        here.old_umask = os.umask(0)

    def failure(self, reason: str) -> str:
        return f"error preparing rootfs: {reason}"

    def values(self) -> dict[str, str | int | float | bool]:
        return {"rootfs": self.path}


class _Mount(Step):
    """What every mount of a configuration has: source, destination, options."""

    __slots__ = ("destination", "options", "source")
    group = "rootfs"

    def __init__(self, source: str, destination: str, options: "MountOptions") -> None:
        self.source = source
        self.destination = destination
        self.options = options

    def failure(self, reason: str) -> str:
        return f'error mounting "{self.source}" to rootfs at "{self.destination}": {reason}'

    def _attach(self, tree: int, target: int) -> None:
        """Propagation and recursive attributes, then onto its place."""
        options = self.options
        if options.recursive_set or options.recursive_clear:
            mounts.mount_setattr(tree, options.recursive_set, options.recursive_clear, recursive=True)
        for propagation in options.propagation:
            kind, recursive = propagation & ~mounts.MS_REC, bool(propagation & mounts.MS_REC)
            mounts.mount_setattr(tree, 0, 0, propagation=kind, recursive=recursive)
        mounts.move_mount(tree, target, shown=f"{self.source}:{self.destination}")


def _ordinary_directory(here: Here, kind: str, destination: str) -> int:
    """The directory for a proc or sysfs: no link anywhere in its path (CVE-2019-16884, CVE-2023-28642)."""
    try:
        return paths.open_in_root(here.root, destination, paths.O_PATH | os.O_DIRECTORY, links=False)
    except FileNotFoundError:
        os.close(paths.make_directories(here.root, destination))
        return paths.open_in_root(here.root, destination, paths.O_PATH | os.O_DIRECTORY, links=False)
    except OSError:
        raise PermissionDenied(f'filesystem "{kind}" must be mounted on ordinary directory') from None


def refuse_over_proc(target: int, destination: str) -> None:
    """Raise `PermissionDenied` for a mount over the container's /proc, except where it is harmless."""
    clean = os.path.normpath(destination)
    if paths.filesystem(target) == paths.PROC_MAGIC and clean not in PROC_ALLOWED:
        raise PermissionDenied(f'"{clean}" cannot be mounted because it is inside /proc')


class MountFilesystem(_Mount):
    """Mount a new file system."""

    __slots__ = ("kind",)
    modules = ("cutaway.runc.plan.copy_up",)

    def __init__(self, kind: str, source: str, destination: str, options: "MountOptions") -> None:
        super().__init__(source, destination, options)
        self.kind = kind

    def describe(self) -> str:
        return f"mount {self.kind} at {self.destination}"

    def command(self) -> str:
        data = f" -o {','.join(self.options.data)}" if self.options.data else ""
        return f"mount -t {self.kind}{data} {self.source} $ROOT{self.destination}"

    def execute(self, here: Here) -> None:
        mode = self._present_mode(here) if self.kind == "tmpfs" else None
        target = self._target(here)
        try:
            self._mount_on(target, mode)
        finally:
            os.close(target)

    def _present_mode(self, here: Here) -> int | None:
        """The mode of the directory to be covered, if it is there already: a tmpfs takes it over."""
        try:
            present = paths.open_in_root(here.root, self.destination)
        except OSError:
            return None
        try:
            return stat.S_IMODE(os.fstat(present).st_mode)
        finally:
            os.close(present)

    def _target(self, here: Here) -> int:
        if self.kind in ("proc", "sysfs"):
            return _ordinary_directory(here, self.kind, self.destination)
        target = paths.make_directories(here.root, self.destination)
        try:
            refuse_over_proc(target, self.destination)
        except PermissionDenied:
            os.close(target)
            raise
        return target

    def _mount_on(self, target: int, mode: int | None) -> None:
        flags, data = self.options.flags, list(self.options.data)
        if self._filled_later():
            flags &= ~mounts.MS_RDONLY  # RemountReadonly follows
        if mode is not None and not any(option.startswith("mode=") for option in data):
            data.append(f"mode={mode:o}")
        tree = mounts.filesystem(self.kind, self.source, flags, data, shown=self.destination)
        try:
            if self.options.copy_up:
                from cutaway.runc.plan import copy_up

                copy_up.copy(target, tree)
            self._attach(tree, target)
        finally:
            os.close(tree)

    def _filled_later(self) -> bool:
        return self.kind == "tmpfs" or os.path.normpath(self.destination) == "/dev"


class BindMount(_Mount):
    """Show a file or directory of the host at a place in the container."""

    __slots__ = ("from_parent", "tree")

    def __init__(
        self, source: str, destination: str, options: "MountOptions", from_parent: bool = False
    ) -> None:
        super().__init__(source, destination, options)
        self.from_parent = from_parent  # a new user namespace may lack the right to reach the source
        self.tree = -1

    def describe(self) -> str:
        return f"bind {self.source} at {self.destination}"

    def command(self) -> str:
        verb = "--rbind" if self.options.recursive else "--bind"
        readonly = " -o ro" if self.options.readonly else ""
        return f"mount {verb}{readonly} {self.source} $ROOT{self.destination}"

    def prepare(self) -> None:
        if self.from_parent:
            self.tree = self._open_source()

    def _open_source(self) -> int:
        try:
            return mounts.open_tree(mounts.AT_FDCWD, self.source, recursive=self.options.recursive)
        except FileNotFoundError as error:
            raise FileNotFoundError(error.errno, f"stat {self.source}: no such file or directory") from None

    def execute(self, here: Here) -> None:
        tree = self.tree if self.from_parent else self._open_source()
        target = -1
        try:
            directory = stat.S_ISDIR(os.fstat(tree).st_mode)
            target = self._target(here, directory)
            self._check(tree, target)
            mounts.change(tree, self.options.flags & ~mounts.MS_REC, self.options.clear)
            self._attach(tree, target)
        finally:
            os.close(tree)
            if target >= 0:
                os.close(target)

    def _target(self, here: Here, directory: bool) -> int:
        try:
            make = paths.make_directories if directory else paths.make_file
            target = make(here.root, self.destination)
        except NotADirectoryError:
            self._refuse_kind()
        if stat.S_ISDIR(os.fstat(target).st_mode) != directory:
            os.close(target)
            self._refuse_kind()
        return target

    def _refuse_kind(self) -> "NoReturn":
        """A directory on a file or a file on a directory: dockerd knows the words and adds a hint."""
        flags = mounts.MS_BIND | self.options.flags & mounts.MS_REC
        raise FailedPrecondition(
            f"mount {self.source}:{self.destination}, flags: {flags:#x}: not a directory"
        )

    def _check(self, tree: int, target: int) -> None:
        if os.path.normpath(self.destination) != "/proc":
            refuse_over_proc(target, self.destination)
        elif paths.filesystem(tree) != paths.PROC_MAGIC:
            raise PermissionDenied('"/proc" cannot be mounted because it is not of type proc')


class CgroupView:
    """One v1 hierarchy as the container sees it."""

    __slots__ = ("controllers", "name", "source")

    def __init__(self, name: str, source: str, controllers: list[str]) -> None:
        self.name = name  # of the directory, e.g. "memory" or "cpu,cpuacct"
        self.source = source  # the container's own cgroup on the host
        self.controllers = controllers


class MountCgroupV1(_Mount):
    """A tmpfs with the container's own cgroup of each v1 hierarchy in it."""

    __slots__ = ("namespaced", "views")

    def __init__(
        self,
        source: str,
        destination: str,
        options: "MountOptions",
        views: list[CgroupView],
        namespaced: bool,
    ) -> None:
        super().__init__(source, destination, options)
        self.views = views
        self.namespaced = namespaced

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
            refuse_over_proc(target, self.destination)
            tree = mounts.filesystem("tmpfs", "tmpfs", flags, ["mode=755"], shown=self.destination)
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
            tree = mounts.filesystem("cgroup", "cgroup", flags, view.controllers, shown=view.name)
        else:
            tree = mounts.open_tree(mounts.AT_FDCWD, view.source)
            mounts.change(tree, flags)
        place = os.open(view.name, paths.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
        try:
            mounts.move_mount(tree, place, shown=f"{view.source}:{self.destination}/{view.name}")
        finally:
            os.close(place)
            os.close(tree)


class MountCgroupV2(_Mount):
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
            refuse_over_proc(target, self.destination)
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
        mounts.change(tree, options.flags, options.clear)
        return tree


class RemountReadonly(Step):
    """Make a mount read-only, when all that belongs in it is there."""

    __slots__ = ("destination",)
    group = "finish"

    def __init__(self, destination: str) -> None:
        self.destination = destination

    def describe(self) -> str:
        return f"make {self.destination} read-only"

    def command(self) -> str:
        return f"mount -o remount,bind,ro $ROOT{self.destination}"

    def execute(self, here: Here) -> None:
        if self.destination == "/":
            mounts.change(here.root, mounts.MS_RDONLY)
            return
        place = paths.open_in_root(here.root, self.destination)
        try:
            mounts.change(place, mounts.MS_RDONLY)
        finally:
            os.close(place)
