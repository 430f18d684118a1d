"""Bind mounts: files and directories of the host, shown at a place in the container."""

import os
import stat

from cutaway.errors import FailedPrecondition, PermissionDenied
from cutaway.linux import mounts, paths
from cutaway.runc.plan.mounts import MountStep, refuse_over_proc
from cutaway.runc.plan.step import Here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from cutaway.runc.plan.mount_options import MountOptions


class BindMount(MountStep):
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
