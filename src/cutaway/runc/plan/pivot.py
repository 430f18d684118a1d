"""Into the container's root: its working directory made, and the old root left behind."""

import os

from cutaway.linux import mounts
from cutaway.runc.plan.step import Here, Step

_EPERM, _EINVAL = 1, 22


class PivotRoot(Step):
    """Make the prepared root the only one: the old is stacked below it and let go.

    The old root is made a slave first, not private: its unmounting must not reach the host, but the
    host's must reach it, or its file systems would stay in use.
    """

    __slots__ = ("pivot", "propagation")
    group = "pivot_root"

    def __init__(self, pivot: bool = True, propagation: int = 0) -> None:
        self.pivot = pivot
        self.propagation = propagation  # of the new root, if the configuration has one

    def describe(self) -> str:
        return "change to the container's root by " + (
            "pivot_root" if self.pivot else "moving its mount to /"
        )

    def command(self) -> str:
        return "cd $ROOT && " + (
            "pivot_root . . && umount -l ." if self.pivot else "mount --move . / && chroot ."
        )

    def failure(self, reason: str) -> str:
        return f"error jailing process inside rootfs: {reason}"

    def execute(self, here: Here) -> None:
        if self.pivot:
            _pivot(here.root)
        else:
            os.fchdir(here.root)
            _move_to_top()
        os.chdir("/")
        if self.propagation:  # not before: pivot_root(2) refuses a shared root
            mounts.mount(None, "/", None, self.propagation)
        os.close(here.root)
        here.root = -1


def _pivot(root: int) -> None:
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(root)
    mounts.pivot_root(".", ".")
    os.fchdir(old)  # "." would still be the new root for mount(2), and for umount2(2) the old one
    os.close(old)
    mounts.mount(None, ".", None, mounts.MS_SLAVE | mounts.MS_REC)
    mounts.umount(".", mounts.MNT_DETACH)


def _move_to_top() -> None:
    """For a root on a ramdisk, which cannot be pivoted from. The host's mounts stay below, so what would
    show the host's kernel is unmounted or covered first, as in runc."""
    for point in ("/proc", "/sys"):
        try:
            mounts.umount(point, mounts.MNT_DETACH)
        except OSError as error:
            if error.errno not in (_EINVAL, _EPERM):
                raise
            if error.errno == _EPERM:
                mounts.mount("tmpfs", point, "tmpfs", 0)
    mounts.mount(".", "/", None, mounts.MS_MOVE)
    os.chroot(".")


class BindRoot(Step):
    """Make the root a mount of its own in the runtime's mount namespace, where the container has none."""

    __slots__ = ("path",)
    group = "rootfs"

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"bind the root {self.path} on itself"

    def command(self) -> str:
        return f"mount --rbind {self.path} {self.path} && mount --make-rprivate {self.path}"

    def failure(self, reason: str) -> str:
        return f"error preparing rootfs: {reason}"

    def execute(self, here: Here) -> None:
        tree = mounts.open_tree(mounts.AT_FDCWD, self.path, recursive=True)
        target = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mounts.move_mount(tree, target, shown=self.path)
        finally:
            os.close(target)
        # What is attached below a shared mount becomes shared; what comes on it is nobody else's affair.
        mounts.mount_setattr(tree, 0, 0, propagation=mounts.MS_PRIVATE, recursive=True)
        here.root = tree
        here.old_umask = os.umask(0)


class ChangeRoot(Step):
    """Change the process's root alone: in a shared mount namespace there is nothing to pivot."""

    __slots__ = ()
    group = "pivot_root"

    def describe(self) -> str:
        return "change to the container's root by chroot"

    def command(self) -> str:
        return "chroot $ROOT"

    def failure(self, reason: str) -> str:
        return f"error jailing process inside rootfs: {reason}"

    def execute(self, here: Here) -> None:
        os.fchdir(here.root)
        os.chroot(".")
        os.close(here.root)
        here.root = -1


class MakeWorkingDirectory(Step):
    """Create the working directory if it is not there, as runc does. Runs before pivot_root."""

    __slots__ = ("path",)
    group = "rootfs"

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"make the working directory {self.path}"

    def command(self) -> str:
        return f"mkdir -p $ROOT{self.path}"

    def failure(self, reason: str) -> str:
        return reason

    def execute(self, here: Here) -> None:
        from cutaway.linux import paths

        os.close(paths.make_directories(here.root, self.path))
