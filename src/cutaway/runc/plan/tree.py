"""The steps that fill /dev and hide what a container should not see."""

import os
import stat

from cutaway.errors import FailedPrecondition
from cutaway.linux import mounts, paths
from cutaway.runc.plan.step import Here, Step

_ENOENT, _ENOTDIR = 2, 20

# runtime-spec config-linux.md, "Default Devices": name -> (major, minor)
DEFAULT_DEVICES = {
    "null": (1, 3), "random": (1, 8), "full": (1, 7), "tty": (5, 0), "zero": (1, 5), "urandom": (1, 9),
}  # fmt: skip
_NULL = os.makedev(1, 3)

DEV_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}

TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


class MakeDevice(Step):
    """Make a device node; where that is forbidden (user namespaces), bind the host's."""

    __slots__ = ("bind", "gid", "kind", "major", "minor", "mode", "path", "uid")
    group = "devices"

    def __init__(
        self, path: str, kind: str, major: int, minor: int, mode: int = 0o666, uid: int = 0, gid: int = 0,
        bind: bool = False,
    ) -> None:  # fmt: skip
        self.path = path
        self.kind = kind
        self.major = major
        self.minor = minor
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.bind = bind

    def describe(self) -> str:
        return f"make device {self.path} ({self.kind} {self.major}:{self.minor})"

    def command(self) -> str:
        if self.bind:
            return f"mount --bind {self.path} $ROOT{self.path}"
        return f"mknod -m {self.mode:o} $ROOT{self.path} {self.kind} {self.major} {self.minor}"

    def failure(self, reason: str) -> str:
        return f"error creating device nodes: {self.path}: {reason}"

    def execute(self, here: Here) -> None:
        head, name = os.path.split(os.path.normpath(self.path))
        parent = paths.make_directories(here.root, head)
        try:
            if self.bind or not self._make(parent, name):
                self._bind(here)
        finally:
            os.close(parent)

    def _make(self, parent: int, name: str) -> bool:
        """False when the kernel does not let us."""
        number = os.makedev(self.major, self.minor)
        try:
            os.mknod(name, TYPES[self.kind] | self.mode, number, dir_fd=parent)
        except FileExistsError:
            self._must_be_same(os.stat(name, dir_fd=parent, follow_symlinks=False), number)
            return True
        except PermissionError:
            return False
        os.chown(name, self.uid, self.gid, dir_fd=parent, follow_symlinks=False)
        return True

    def _must_be_same(self, found: os.stat_result, number: int) -> None:
        same = stat.S_IFMT(found.st_mode) == TYPES[self.kind]
        if not same or (self.kind != "p" and found.st_rdev != number):
            raise FailedPrecondition(
                f"something else is there already, not device {self.kind} {self.major}:{self.minor}"
            )

    def _bind(self, here: Here) -> None:
        tree = mounts.open_tree(mounts.AT_FDCWD, self.path)
        target = paths.make_file(here.root, self.path)
        try:
            mounts.move_mount(tree, target, shown=self.path)
        finally:
            os.close(target)
            os.close(tree)


class MakeLink(Step):
    """Make a symbolic link in /dev; a wrong one is replaced only where `replace` says so."""

    __slots__ = ("path", "replace", "target")
    group = "devices"

    def __init__(self, path: str, target: str, replace: bool = False) -> None:
        self.path = path
        self.target = target
        self.replace = replace

    def describe(self) -> str:
        return f"link {self.path} to {self.target}"

    def command(self) -> str:
        return f"ln -s {self.target} $ROOT{self.path}"

    def failure(self, reason: str) -> str:
        return f"error setting up /dev symlinks: {self.path}: {reason}"

    def execute(self, here: Here) -> None:
        head, name = os.path.split(self.path)
        parent = paths.make_directories(here.root, head)
        try:
            if self.replace:
                _unlink(parent, name)
            os.symlink(self.target, name, dir_fd=parent)
        except FileExistsError:
            pass
        finally:
            os.close(parent)


def _unlink(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return


def proven_null(here: Here) -> int:
    """The container's /dev/null, proven to be the null device; a descriptor kept in `here`.

    What is bound over a masked path must be nothing else: with a link in its place, the runtime would
    bind any file of the host's there, writable (CVE-2025-31133). Raises `FailedPrecondition`.
    """
    if here.null < 0:
        try:
            here.null = paths.open_in_root(here.root, "/dev/null", paths.O_PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            here.null = os.open("/dev/null", paths.O_PATH | os.O_CLOEXEC)
    found = os.fstat(here.null)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _NULL:
        raise FailedPrecondition("/dev/null in the container is not the null device")
    return here.null


class MaskPath(Step):
    """Hide a file behind /dev/null, a directory behind an empty read-only tmpfs; what is absent stays so."""

    __slots__ = ("path",)
    group = "masks"

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"mask {self.path}"

    def command(self) -> str:
        return f"mount --bind /dev/null $ROOT{self.path}"

    def failure(self, reason: str) -> str:
        return f"can't mask path {self.path}: {reason}"

    def execute(self, here: Here) -> None:
        place = open_present(here, self.path)
        if place < 0:
            return
        tree = -1
        try:
            if stat.S_ISDIR(os.fstat(place).st_mode):
                tree = mounts.filesystem("tmpfs", "tmpfs", mounts.MS_RDONLY, [], shown=self.path)
            else:
                tree = mounts.open_tree(proven_null(here))
            mounts.move_mount(tree, place, shown=self.path)
        finally:
            os.close(place)
            if tree >= 0:
                os.close(tree)


class ReadonlyPath(Step):
    """Put a read-only copy of a subtree over itself; what is absent stays so."""

    __slots__ = ("path",)
    group = "masks"

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"make {self.path} read-only"

    def command(self) -> str:
        return f"mount --rbind $ROOT{self.path} $ROOT{self.path} && mount -o remount,bind,ro $ROOT{self.path}"

    def failure(self, reason: str) -> str:
        return f'can\'t make "{self.path}" read-only: {reason}'

    def execute(self, here: Here) -> None:
        place = open_present(here, self.path)
        if place < 0:
            return
        tree = -1
        try:
            tree = mounts.open_tree(place, recursive=True)
            mounts.change(tree, mounts.MS_RDONLY)
            mounts.move_mount(tree, place, shown=self.path)
        finally:
            os.close(place)
            if tree >= 0:
                os.close(tree)


def open_present(here: Here, path: str) -> int:
    """A descriptor for a path inside the root, or -1 when nothing is there."""
    try:
        return paths.open_in_root(here.root, path)
    except OSError as error:
        if error.errno in (_ENOENT, _ENOTDIR):
            return -1
        raise
