"""Bind mounts: files and directories of the host, shown at a place in the container."""

import os
import stat

from cutaway.errors import FailedPrecondition, PermissionDenied
from cutaway.linux import libc, mounts, paths
from cutaway.runc.plan import mount_options, mount_places
from cutaway.runc.plan.mounts import MountStep
from cutaway.runc.plan.step import Here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from cutaway.linux.userns import Map
    from cutaway.runc.plan.mount_options import MountOptions

_EINVAL = 22


class IdMap:
    """How the owners of a mount's files are shown: by maps given, or by those of a user namespace."""

    __slots__ = ("_fd", "gid_map", "path", "uid_map")

    def __init__(self, uid_map: "Map", gid_map: "Map", path: str = "") -> None:
        self.uid_map = uid_map
        self.gid_map = gid_map
        self.path = path
        self._fd = -1

    def descriptor(self) -> int:
        """A user namespace with these maps, made once for all mounts that share them. For the parent."""
        if self._fd < 0:
            if self.path:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            else:
                from cutaway.linux import userns

                self._fd = userns.make(self.uid_map, self.gid_map)
        return self._fd


class BindMount(MountStep):
    """Show a file or directory of the host at a place in the container."""

    __slots__ = ("id_map", "outside", "tree")

    def __init__(
        self,
        source: str,
        destination: str,
        options: "MountOptions",
        id_map: IdMap | None = None,
        outside: int | None = None,
    ) -> None:
        super().__init__(source, destination, options)
        self.id_map = id_map
        # Where init may lack the right to reach the source, or no longer sees it, the runtime opens it;
        # then this is the propagation that the container's mounts have when they are taken over.
        self.outside = outside
        self.tree = -1

    def describe(self) -> str:
        mapped = " with mapped ids" if self.id_map else ""
        return f"bind {self.source} at {self.destination}{mapped}"

    def command(self) -> str:
        verb = "--rbind" if self.options.recursive else "--bind"
        names = ["ro"] if self.options.readonly else []
        if self.id_map:
            names.append("X-mount.idmap=" + (self.id_map.path or "..."))
        options = f" -o {','.join(names)}" if names else ""
        return f"mount {verb}{options} {self.source} $ROOT{self.destination}"

    def prepare(self) -> None:
        if self.id_map is not None:
            self._map_descriptor(self.id_map)
        if self.outside is not None:
            try:
                self.tree = self._open_source()
            except PermissionError:  # root in a user namespace among another's mounts: init may in its own
                return
            kind, recursive = self.outside & ~mounts.MS_REC, bool(self.outside & mounts.MS_REC)
            mounts.mount_setattr(self.tree, 0, 0, propagation=kind, recursive=recursive)

    def _map_descriptor(self, id_map: IdMap) -> int:
        try:
            return id_map.descriptor()
        except OSError as error:
            raise FailedPrecondition(
                f"failed to create userns for {self.source} id-mapping: {libc.reason(error)}"
            ) from None

    def _open_source(self) -> int:
        try:
            tree = mounts.open_tree(mounts.AT_FDCWD, self.source, recursive=self.options.recursive)
        except FileNotFoundError as error:
            raise FileNotFoundError(error.errno, f"stat {self.source}: no such file or directory") from None
        if self.id_map is not None:
            self._map(tree, self.id_map)
        return tree

    def _map(self, tree: int, id_map: IdMap) -> None:
        recursive = self.options.id_map == "ridmap"
        try:
            mounts.map_ids(tree, self._map_descriptor(id_map), recursive=recursive)
        except OSError as error:
            os.close(tree)
            hint = " (maybe the filesystem used doesn't support idmap mounts on this kernel?)"
            raise FailedPrecondition(
                f"failed to set MOUNT_ATTR_IDMAP on {self.source}: {libc.words(error.errno or 0)}"
                + (hint if error.errno == _EINVAL else "")
            ) from None

    def execute(self, here: Here) -> None:
        tree = self.tree if self.tree >= 0 else self._open_source()
        target = -1
        try:
            directory = stat.S_ISDIR(os.fstat(tree).st_mode)
            target = self._target(here, directory)
            self._check(here, tree, target)
            self._change(tree)
            self._attach(tree, target)
        finally:
            os.close(tree)
            if target >= 0:
                os.close(target)

    def _change(self, tree: int) -> None:
        """Set the mount's flags as asked for. What is not spoken of is cleared, as mount(8) and runc do;
        in a user namespace it is kept, for there the kernel locks what protects the host."""
        set_, clear = mount_options.bind_attributes(self.options)
        if self.outside is not None:
            clear &= ~self._locked(tree)
        if not (set_ or clear):
            return
        try:
            mounts.mount_setattr(tree, set_, clear)
        except PermissionError:  # the runtime was in a user namespace itself
            clear &= ~self._locked(tree)
            if not set_ & mounts.MOUNT_ATTR_ATIME:
                clear &= ~(mounts.MOUNT_ATTR_ATIME | mounts.MOUNT_ATTR_NODIRATIME)
            mounts.mount_setattr(tree, set_, clear)

    def _locked(self, tree: int) -> int:
        """What may not be cleared. Raises `PermissionDenied` when that is asked for."""
        locked = mounts.attributes(paths.mount_flags(tree)) & mounts.LOCKABLE
        if refused := locked & mounts.attributes(self.options.clear):
            raise PermissionDenied(
                f"cannot clear locked flags {mounts.attribute_names(refused)}: operation not permitted"
            )
        return locked

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

    def _check(self, here: Here, tree: int, target: int) -> None:
        kind = "proc" if paths.filesystem(tree) == paths.PROC_MAGIC else "bind"
        mount_places.check(here, target, self.destination, kind)
