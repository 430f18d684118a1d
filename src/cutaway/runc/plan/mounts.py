"""The steps that build the container's file system tree, mount by mount.

No step here names a place in the container by path twice. A target is resolved once, inside the root,
to a descriptor (`linux.paths`); what goes there is made as a mount that hangs nowhere, with all its
attributes set, and is then moved onto that descriptor (`linux.mounts`). So there is no moment at which
a link exchanged by another process could lead a mount elsewhere (CVE-2021-30465), and no moment at which
a read-only bind is writable. The price: Linux 5.12.
"""

import os
import stat

from cutaway.linux import libc, mounts, paths
from cutaway.runc.plan import mount_options, mount_places
from cutaway.runc.plan.step import Here, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.plan.mount_options import MountOptions


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
        # Not private by default: a host's unmount should still reach us, or its file systems stay busy.
        mounts.mount(None, "/", None, self.propagation)
        # pivot_root(2) refuses a root whose parent mount is shared.
        mounts.make_private_above(self.path)
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


class MountStep(Step):
    """What every mount of a configuration has: source, destination, options."""

    __slots__ = ("destination", "options", "source")
    group = "rootfs"

    def __init__(self, source: str, destination: str, options: "MountOptions") -> None:
        self.source = source
        self.destination = destination
        self.options = options

    def failure(self, reason: str) -> str:
        return f'error mounting "{self.source}" to rootfs at "{self.destination}": {reason}'

    def _flags_at_first(self, kind: str) -> int:
        """The mount's flags while it is still to be filled: `RemountReadonly` follows, when it is."""
        filled = kind == "tmpfs" or os.path.normpath(self.destination) == "/dev"
        return self.options.flags & ~(mounts.MS_RDONLY if filled else 0)

    def _attach(self, tree: int, target: int) -> None:
        """Propagation and recursive attributes, then onto its place."""
        options = self.options
        if options.recursive_set or options.recursive_clear:
            mounts.mount_setattr(tree, options.recursive_set, options.recursive_clear, recursive=True)
        for propagation in options.propagation:
            kind, recursive = propagation & ~mounts.MS_REC, bool(propagation & mounts.MS_REC)
            mounts.mount_setattr(tree, 0, 0, propagation=kind, recursive=recursive)
        mounts.move_mount(tree, target, shown=f"{self.source}:{self.destination}")


class MountFilesystem(MountStep):
    """Mount a new file system."""

    __slots__ = ("kind", "label")
    modules = ("cutaway.runc.plan.copy_up",)

    def __init__(
        self, kind: str, source: str, destination: str, options: "MountOptions", label: str = ""
    ) -> None:
        super().__init__(source, destination, options)
        self.kind = kind
        self.label = label  # of SELinux

    @property
    def data(self) -> list[str]:
        """The file system's own options. Three take no label: two of the kernel's, and mqueue, whose
        root is labelled when it is there."""
        labelled = self.label and self.kind not in ("proc", "sysfs", "mqueue")
        return [*self.options.data, *([f"context={self.label}"] if labelled else [])]

    def describe(self) -> str:
        return f"mount {self.kind} at {self.destination}"

    def command(self) -> str:
        data = f" -o {','.join(self.data)}" if self.data else ""
        return f"mount -t {self.kind}{data} {self.source} $ROOT{self.destination}"

    def execute(self, here: Here) -> None:
        target, present = self._target(here)
        try:
            mount_places.check(here, target, self.destination, self.kind)
            # A tmpfs takes over the mode of the directory that it covers, if that was there already.
            covers = self.kind == "tmpfs" and present
            self._mount_on(target, stat.S_IMODE(os.fstat(target).st_mode) if covers else None)
        finally:
            os.close(target)

    def _target(self, here: Here) -> tuple[int, bool]:
        """The directory to mount on, and whether it was there."""
        if self.kind in ("proc", "sysfs"):
            return mount_places.ordinary_directory(here, self.kind, self.destination), True
        try:
            return paths.open_in_root(here.root, self.destination, paths.O_PATH | os.O_DIRECTORY), True
        except FileNotFoundError:
            return paths.make_directories(here.root, self.destination), False
        except OSError as error:
            libc.fail(error.errno or 0, f"mkdir {self.destination}")

    def _mount_on(self, target: int, mode: int | None) -> None:
        flags, data = self._flags_at_first(self.kind), self.data
        if mode is not None and not any(option.startswith("mode=") for option in data):
            data.append(f"mode={mode:o}")
        tree = mounts.filesystem(self.kind, self.source, flags, data, shown=self.destination)
        try:
            if self.options.copy_up:
                from cutaway.runc.plan import copy_up

                copy_up.copy(target, tree)
            if self.label and self.kind == "mqueue":
                from cutaway.linux import selinux  # loaded by the parent, which asked whether it is enabled

                selinux.set_label(tree, self.label)
            self._attach(tree, target)
        finally:
            os.close(tree)


class Remount(MountStep):
    """Change the flags of a mount that is there already and, but for a bind, its file system's options."""

    __slots__ = ("kind",)

    def __init__(self, kind: str, source: str, destination: str, options: "MountOptions") -> None:
        super().__init__(source, destination, options)
        self.kind = kind

    def describe(self) -> str:
        return f"remount {self.destination}"

    def command(self) -> str:
        words = ["remount", *(["bind"] if self.options.bind else []), *self.options.data]
        return f"mount -o {','.join(words)} $ROOT{self.destination}"

    def execute(self, here: Here) -> None:
        bind, data = self.options.bind, self.options.data
        flags = self.options.flags if bind else self._flags_at_first(self.kind)
        place = paths.open_in_root(here.root, self.destination)
        try:
            if not bind:
                mounts.reconfigure(place, self.kind, flags, data, shown=self.destination)
            mounts.mount_setattr(place, *mount_options.exact_attributes(flags))
        finally:
            os.close(place)


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
