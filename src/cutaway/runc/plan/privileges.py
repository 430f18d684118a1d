"""The last steps before exec: who the process is and what it may do.

They run inside the container's root, where nothing can be imported any more: whatever they need is
imported at the top, by the parent.
"""

import os
import stat

from cutaway.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from cutaway.linux import capabilities, libc, mounts, processes, seccomp
from cutaway.runc.plan.step import Here, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Scheduler, User

_ENOENT, _ENOTDIR, _ELOOP, _EACCES, _EPERM, _EINVAL, _EROFS = 2, 20, 40, 13, 1, 22, 30
_PASSWD_LIMIT = 1 << 20  # an honest /etc/passwd is smaller

POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}  # fmt: skip
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}


class PivotRoot(Step):
    """Make the prepared root the only one: the old is stacked below it and let go.

    The old root is made a slave first, not private: its unmounting must not reach the host, but the
    host's must reach it, or its file systems would stay in use.
    """

    __slots__ = ("pivot",)
    group = "pivot_root"

    def __init__(self, pivot: bool = True) -> None:
        self.pivot = pivot

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


class SetUmask(Step):
    __slots__ = ("umask",)
    group = "privileges"

    def __init__(self, umask: int) -> None:
        self.umask = umask

    def describe(self) -> str:
        return f"set umask {self.umask:04o}"

    def command(self) -> str:
        return f"umask {self.umask:04o}"

    def execute(self, here: Here) -> None:
        os.umask(self.umask)


class SetScheduling(Step):
    """Scheduler, I/O priority and personality, where the configuration names them."""

    __slots__ = ("io", "personality", "scheduler")
    group = "privileges"

    def __init__(
        self, scheduler: "Scheduler | None", io: tuple[int, int] | None, personality: int | None
    ) -> None:
        self.scheduler = scheduler
        self.io = io
        self.personality = personality

    def describe(self) -> str:
        return "set scheduler, I/O priority and personality"

    def command(self) -> str:
        return "chrt ...; ionice ...; setarch ..."

    def execute(self, here: Here) -> None:
        if self.scheduler is not None:
            wanted = self.scheduler
            bits = sum(SCHEDULER_FLAGS[name] for name in wanted.flags)
            times = (wanted.runtime or 0, wanted.deadline or 0, wanted.period or 0)
            processes.set_scheduler(
                POLICIES[wanted.policy], bits, wanted.nice or 0, wanted.priority or 0, times
            )
        if self.io is not None:
            processes.set_io_priority(*self.io)
        if self.personality is not None:
            processes.personality(self.personality)


class ForbidNewPrivileges(Step):
    __slots__ = ()
    group = "privileges"

    def describe(self) -> str:
        return "forbid new privileges"

    def command(self) -> str:
        return "setpriv --no-new-privs"

    def execute(self, here: Here) -> None:
        processes.no_new_privileges()


class InstallSeccomp(Step):
    """Put the compiled system call filter on the process."""

    __slots__ = ("bits", "program")
    group = "seccomp"

    def __init__(self, program: bytes, bits: int) -> None:
        self.program = program
        self.bits = bits

    def describe(self) -> str:
        return f"install a seccomp filter of {len(self.program) // seccomp.INSTRUCTION} instructions"

    def command(self) -> str:
        return "# seccomp(2)"

    def failure(self, reason: str) -> str:
        return f"unable to init seccomp: {reason}"

    def execute(self, here: Here) -> None:
        seccomp.install(self.program, self.bits)

    def values(self) -> dict[str, str | int | float | bool]:
        return {"instructions": len(self.program) // seccomp.INSTRUCTION}


class BecomeUser(Step):
    """Drop the bounding set, change user and groups, enter the working directory, set the other sets."""

    __slots__ = ("cwd", "set_groups", "sets", "user")
    group = "privileges"

    def __init__(self, user: "User", sets: capabilities.Sets, cwd: str, set_groups: bool = True) -> None:
        self.user = user
        self.sets = sets
        self.cwd = cwd
        self.set_groups = set_groups

    def describe(self) -> str:
        user = self.user
        return f"become uid {user.uid} gid {user.gid} groups {user.additional_gids or 'none'} in {self.cwd}"

    def command(self) -> str:
        user = self.user
        groups = ",".join(map(str, user.additional_gids)) or "--clear-groups"
        caps = ",".join(f"+{name[4:].lower()}" for name in capabilities.names(self.sets.bounding))
        who = f"--reuid {user.uid} --regid {user.gid} --groups {groups}"
        return f"cd {self.cwd} && setpriv {who} --bounding-set -all,{caps}"

    def failure(self, reason: str) -> str:
        return reason

    def execute(self, here: Here) -> None:
        capabilities.drop_bounding(self.sets)
        capabilities.keep(True)
        for fd in (0, 1, 2):
            _hand_over(fd, self.user.uid)
        self._change_groups()
        # As root first: the directory may be closed to the user, and as the user if root may not (NFS).
        entered = _enter(self.cwd)
        os.setresgid(self.user.gid, self.user.gid, self.user.gid)
        os.setresuid(self.user.uid, self.user.uid, self.user.uid)
        if entered is not None and _enter(self.cwd) is not None:
            raise FailedPrecondition(f'chdir to cwd ("{self.cwd}") set in config.json failed: {entered}')
        _must_be_inside(self.cwd)
        capabilities.keep(False)
        here.warnings += capabilities.set_sets(self.sets)

    def _change_groups(self) -> None:
        if self.set_groups:
            os.setgroups(self.user.additional_gids)
        elif self.user.additional_gids:
            raise FailedPrecondition("cannot set any additional groups in a rootless container")

    def values(self) -> dict[str, str | int | float | bool]:
        return {"uid": self.user.uid, "gid": self.user.gid, "capabilities": f"{self.sets.permitted:016x}"}


def _hand_over(fd: int, uid: int) -> None:
    """Let the user reopen its own stdin, stdout or stderr (/dev/stdout) if it is not its already."""
    try:
        found = os.fstat(fd)
        null = stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3)
        if found.st_uid != uid and not null:
            os.fchown(fd, uid, found.st_gid)
    except OSError as error:
        # 9: not open. The others: an owner that this namespace or file system does not know; the
        # process can still use the descriptor it has.
        if error.errno not in (9, _EINVAL, _EPERM, _EROFS):
            raise


def _enter(path: str) -> str | None:
    """chdir; the reason in words when it failed."""
    try:
        os.chdir(path)
    except OSError as error:
        return f"chdir {path}: {libc.words(error.errno or 0)}"
    return None


def _must_be_inside(path: str) -> None:
    """Refuse a working directory that is not below the root (CVE-2024-21626: /proc/self/fd/N of the host)."""
    try:
        inside = os.getcwd().startswith("/")
    except FileNotFoundError:
        inside = False
    if not inside:
        raise PermissionDenied(
            "current working directory is outside of container mount namespace root "
            f"-- possible container breakout detected (cwd {path})"
        )


class FindProgram(Step):
    """Look for the program while an error can still be the create's own."""

    __slots__ = ("name",)
    group = "privileges"

    def __init__(self, name: str) -> None:
        self.name = name

    def describe(self) -> str:
        return f"find {self.name}"

    def command(self) -> str:
        return f"command -v {self.name}"

    def failure(self, reason: str) -> str:
        return reason

    def execute(self, here: Here) -> None:
        here.program = find_program(self.name, here.environment)


class SetEnvironment(Step):
    """Take the configuration's environment, and HOME from the container's own user list."""

    __slots__ = ("entries", "uid")
    group = "privileges"

    def __init__(self, entries: list[str], uid: int) -> None:
        self.entries = entries
        self.uid = uid

    def describe(self) -> str:
        return f"set {len(self.entries)} environment variables"

    def command(self) -> str:
        return "env -i ..."

    def failure(self, reason: str) -> str:
        return reason

    def execute(self, here: Here) -> None:
        here.environment = environment(self.entries)
        if not here.environment.get("HOME"):
            here.environment["HOME"] = home_of(self.uid)


def find_program(name: str, environment: dict[str, str]) -> str:
    """The file to execute, as the process's own PATH and rights find it.

    Raises `NotFound` and `PermissionDenied` in the words that callers of runc look for.
    """
    if "/" in name:
        _must_be_executable(name, name)
        return name
    for directory in environment.get("PATH", "").split(":"):
        path = f"{directory or '.'}/{name}"
        try:
            _must_be_executable(name, path)
        except (NotFound, PermissionDenied):
            continue
        return path
    raise NotFound(f'exec: "{name}": executable file not found in $PATH')


def _must_be_executable(name: str, path: str) -> None:
    try:
        found = os.stat(path)
    except OSError as error:
        kind = PermissionDenied if error.errno == _EACCES else NotFound
        raise kind(f'exec: "{name}": stat {path}: {libc.words(error.errno or 0)}') from None
    if stat.S_ISDIR(found.st_mode) or not os.access(path, os.X_OK, effective_ids=True):
        raise PermissionDenied(f'exec: "{name}": permission denied')


def environment(entries: list[str]) -> dict[str, str]:
    """The configuration's environment; a later entry wins. Raises `InvalidArgument`."""
    found = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name:
            raise InvalidArgument(f'invalid environment variable: "{entry}"')
        found[name] = value
    return found


def home_of(uid: int) -> str:
    """The user's home from the container's /etc/passwd, "/" without one.

    The file is the image's: it may be anything, so only a regular file is read, and not endlessly.
    """
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return "/"
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "/"
        text = os.read(fd, _PASSWD_LIMIT)
    except OSError:
        return "/"
    finally:
        os.close(fd)
    for line in text.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == str(uid).encode():
            return os.fsdecode(fields[5]) or "/"
    return "/"
