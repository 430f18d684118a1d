"""Who the process is and what it may do: umask, user, groups, capabilities, working directory.

The steps run inside the container's root, where nothing can be imported any more: whatever they need is
imported at the top, by the parent.
"""

import os
import stat

from cutaway.errors import FailedPrecondition, PermissionDenied
from cutaway.linux import capabilities, libc, paths
from cutaway.runc.plan.step import Here, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import User

_EPERM, _EINVAL, _EROFS = 1, 22, 30


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


class BecomeUser(Step):
    """Drop the bounding set, change user and groups, enter the working directory, set the other sets."""

    __slots__ = ("cwd", "lent", "set_groups", "sets", "user")
    group = "privileges"

    def __init__(
        self, user: "User", sets: capabilities.Sets, cwd: str, set_groups: bool = True, lent: int = 0
    ) -> None:
        self.lent = lent  # capabilities for the trampoline (process.sealed)
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
        self._change_groups(here)
        # As root first: the directory may be closed to the user, and as the user if root may not (NFS).
        entered = _enter(self.cwd)
        os.setresgid(self.user.gid, self.user.gid, self.user.gid)
        os.setresuid(self.user.uid, self.user.uid, self.user.uid)
        if entered is not None and _enter(self.cwd) is not None:
            raise FailedPrecondition(f'chdir to cwd ("{self.cwd}") set in config.json failed: {entered}')
        _must_be_inside(self.cwd)
        capabilities.keep(False)
        here.warnings += capabilities.set_sets(self.sets)
        if self.lent:
            capabilities.lend(self.sets, self.lent)

    def _change_groups(self, here: Here) -> None:
        """Where setgroups(2) is given up, as in users' own user namespaces, the groups stay as they are."""
        if not self.set_groups:
            return
        try:
            os.setgroups(self.user.additional_gids)
        except PermissionError:
            if not _groups_given_up(here):
                raise

    def values(self) -> dict[str, str | int | float | bool]:
        return {"uid": self.user.uid, "gid": self.user.gid, "capabilities": f"{self.sets.permitted:016x}"}


def _groups_given_up(here: Here) -> bool:
    fd = os.open("self/setgroups", os.O_RDONLY | os.O_CLOEXEC, dir_fd=here.host_proc)
    try:
        return os.read(fd, 16).strip() == b"deny"
    finally:
        os.close(fd)


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
        return libc.words(error.errno or 0)
    return None


def _must_be_inside(path: str) -> None:
    """Refuse a working directory that is not below the root (CVE-2024-21626: /proc/self/fd/N of the host)."""
    if not paths.is_inside_root():
        raise PermissionDenied(
            "current working directory is outside of container mount namespace root "
            f"-- possible container breakout detected (cwd {path})"
        )
