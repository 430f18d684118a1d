"""A container without any cgroup, as a user may have it who may make none: the answers are runc's."""

from cutaway.errors import FailedPrecondition, NotFound
from cutaway.linux.cgroups.base import Manager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.oom import OomWatch
    from cutaway.linux.cgroups.stats import Stats
    from cutaway.oci.runtime_spec import Resources

_NO_FREEZER = "cannot toggle freezer: cgroups not configured for container"
_NO_PIDS = "unable to get all container pids: lstat : no such file or directory"


class NoCgroup(Manager):
    """`base.Manager` with no directory at all."""

    def __init__(self) -> None:
        super().__init__({})

    def main_path(self) -> str:
        return ""

    def exists(self) -> bool:
        return False

    def apply(self, resources: "Resources | None", *, devices: bool = True) -> None:
        """Raises `FailedPrecondition` for the first limit that is asked for."""
        from cutaway.linux.cgroups import v1_limits

        if resources is not None:
            v1_limits.apply({}, resources)

    def apply_devices(self, resources: "Resources | None") -> None:
        raise FailedPrecondition("cannot set devices limit: container could not join or create cgroup")

    def pids(self) -> list[int]:
        raise FailedPrecondition(_NO_PIDS)

    def freeze(self) -> None:
        raise FailedPrecondition(_NO_FREEZER)

    def thaw(self) -> None:
        raise FailedPrecondition(_NO_FREEZER)

    def frozen(self) -> bool:
        return False

    def kill_all(self, signal: int) -> None:
        raise FailedPrecondition(_NO_PIDS)

    def stats(self) -> "Stats":
        """Zeros throughout."""
        from cutaway.linux.cgroups import stats

        return stats.Stats(1)

    def oom_kills(self) -> int:
        return 0

    def oom_events(self) -> "OomWatch":
        raise NotFound("cgroup: the container has no cgroup, and so no memory controller")
