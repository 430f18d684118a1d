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

    __slots__ = ("bind", "gid", "host", "kind", "major", "minor", "mode", "path", "tree", "uid")
    group = "devices"

    def __init__(
        self, path: str, kind: str, major: int, minor: int, mode: int = 0o666, uid: int = 0, gid: int = 0,
        bind: bool = False, host: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        self.path = path
        self.kind = kind
        self.major = major
        self.minor = minor
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.bind = bind and kind != "p"  # a fifo can be made everywhere
        # The owner in the host's ids, where the runtime can make what the container cannot.
        self.host = host
        self.tree = -1

    def describe(self) -> str:
        return f"make device {self.path} ({self.kind} {self.major}:{self.minor})"

    def command(self) -> str:
        if self.bind:
            return f"mount --bind {self.path} $ROOT{self.path}"
        return f"mknod -m {self.mode:o} $ROOT{self.path} {self.kind} {self.major} {self.minor}"

    def failure(self, reason: str) -> str:
        return f"error creating device nodes: {self.path}: {reason}"

    def prepare(self) -> None:
        """In the parent: what the host does not have at this path is made apart, to be bound."""
        if self.bind and self.host is not None and not self._on_host():
            top = mounts.filesystem("tmpfs", "tmpfs", 0, ["mode=700"], shown=self.path)
            mask = os.umask(0)
            try:
                self._node(top, "device", *self.host)
                self.tree = mounts.open_tree(top, "device")
            finally:
                os.umask(mask)
                os.close(top)

    def _on_host(self) -> bool:
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        return stat.S_IFMT(found.st_mode) == TYPES[self.kind] and found.st_rdev == self.number

    @property
    def number(self) -> int:
        return os.makedev(self.major, self.minor)

    def execute(self, here: Here) -> None:
        head, name = os.path.split(os.path.normpath(self.path))
        parent = _parent(here, head)
        if self.bind or not self._make(parent, name):
            self._bind(parent, name)

    def _make(self, parent: int, name: str) -> bool:
        """False when the kernel does not let us."""
        try:
            self._node(parent, name, self.uid, self.gid)
        except FileExistsError:
            self._must_be_same(os.stat(name, dir_fd=parent, follow_symlinks=False))
        except PermissionError:
            return False
        return True

    def _node(self, parent: int, name: str, uid: int, gid: int) -> None:
        """`mode` is meant as it is: init's umask is 0, see `mounts.PrepareRoot`."""
        os.mknod(name, TYPES[self.kind] | self.mode, self.number, dir_fd=parent)
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)

    def _must_be_same(self, found: os.stat_result) -> None:
        same = stat.S_IFMT(found.st_mode) == TYPES[self.kind]
        if not same or (self.kind != "p" and found.st_rdev != self.number):
            raise FailedPrecondition(
                f"something else is there already, not device {self.kind} {self.major}:{self.minor}"
            )

    def _bind(self, parent: int, name: str) -> None:
        tree = self.tree if self.tree >= 0 else mounts.open_tree(mounts.AT_FDCWD, self.path)
        place = -1
        try:
            place = self._place(parent, name)
            mounts.move_mount(tree, place, shown=self.path)
        finally:
            os.close(tree)
            if place >= 0:
                os.close(place)

    def _place(self, parent: int, name: str) -> int:
        """An empty file, or whatever is there to be covered: not through a link, which leads elsewhere."""
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(name, flags, 0, dir_fd=parent))
        except FileExistsError:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            if stat.S_ISLNK(found) or stat.S_ISDIR(found):
                kind = "symbolic link" if stat.S_ISLNK(found) else "directory"
                raise FailedPrecondition(f"a {kind} is there already") from None
        return os.open(name, paths.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


class ReopenNull(Step):
    """Have stdin, stdout and stderr that are the host's null device be the container's: what a descriptor
    names can be changed through it (fchmod(2)), and the host's is everybody's."""

    __slots__ = ()
    group = "devices"

    def describe(self) -> str:
        return "reopen /dev/null where stdin, stdout or stderr is that"

    def command(self) -> str:
        return "exec </dev/null"

    def failure(self, reason: str) -> str:
        return f"error reopening /dev/null inside container: {reason}"

    def execute(self, here: Here) -> None:
        _leave_parent(here)
        fresh = -1
        for fd in (0, 1, 2):
            try:
                found = os.fstat(fd)
            except OSError:
                continue
            if stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL:
                if fresh < 0:
                    fresh = os.open(str(proven_null(here)), os.O_RDWR | os.O_CLOEXEC, dir_fd=here.host_fds)
                os.dup2(fresh, fd)
        if fresh >= 0:
            os.close(fresh)


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
        parent = _parent(here, head)
        try:
            if self.replace:
                _unlink(parent, name)
            os.symlink(self.target, name, dir_fd=parent)
        except FileExistsError:
            pass


def _parent(here: Here, path: str) -> int:
    """A directory inside the root to make something in: resolved once for all steps in a row that want it."""
    if here.parent < 0 or here.parent_path != path:
        _leave_parent(here)
        here.parent, here.parent_path = paths.make_directories(here.root, path), path
    return here.parent


def _leave_parent(here: Here) -> None:
    if here.parent >= 0:
        os.close(here.parent)
        here.parent = -1


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

    __slots__ = ("data", "path")
    group = "masks"

    def __init__(self, path: str, label: str = "") -> None:
        self.path = path
        self.data = [f"context={label}"] if label else []

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
            tree = self._cover(here, stat.S_ISDIR(os.fstat(place).st_mode))
            mounts.move_mount(tree, place, shown=self.path)
        finally:
            os.close(place)
            if tree >= 0 and tree != here.mask:
                os.close(tree)

    def _cover(self, here: Here, directory: bool) -> int:
        """A mount of the null device, or of the one tmpfs that all directories are hidden behind."""
        if not directory:
            return mounts.open_tree(proven_null(here))
        if here.mask >= 0:
            return mounts.open_tree(here.mask)
        here.mask = mounts.filesystem("tmpfs", "tmpfs", mounts.MS_RDONLY, self.data, shown=self.path)
        return here.mask


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
