"""What the cgroup of a container can do, whichever version of cgroups the machine has."""

from cutaway.linux.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.oom import OomWatch
    from cutaway.linux.cgroups.stats import Stats
    from cutaway.oci.runtime_spec import Resources


class Manager:
    """The cgroup of one container: a directory in each hierarchy.

    The order of use: `create`, `apply`, `add`; at the end `kill_all`, `delete`. Every method raises the
    classes of `cutaway.errors` with operation, path and data in the message.
    """

    version = 0
    made_by_entry = False  # `create` makes nothing: the cgroup comes with the first process that is added
    started = False  # and whether it has

    def __init__(self, paths: dict[str, str]) -> None:
        self._paths = paths

    def paths(self) -> dict[str, str]:
        """Controller -> directory; v2 is the key "" alone. As runc keeps it in its state file."""
        return dict(self._paths)

    def main_path(self) -> str:
        """The directory that stands for the container: where its processes are counted."""
        raise NotImplementedError

    def exists(self) -> bool:
        return files.exists(self.main_path())

    def check(self, resources: "Resources | None") -> None:
        """Refuse what can never be written, before anything is made. Raises `InvalidArgument`."""
        from cutaway.linux.cgroups import devices

        devices.table(resources.devices if resources else None)

    def create(self, resources: "Resources | None" = None) -> list[str]:
        """Make the directories; existing ones are used. Returns those made, parents first.

        What a process must find there when it enters is set from `resources`.
        On failure everything made here is removed again.
        """
        made: list[str] = []
        try:
            for key in self._paths:
                made += self._make(key, resources)
        except BaseException:
            for directory in reversed(made):
                files.remove(directory)
            raise
        return made

    def _make(self, key: str, resources: "Resources | None") -> list[str]:
        return files.make(self._paths[key])

    def delegate(self, uid: int) -> None:
        """Give the cgroup to a user who may then divide it further: on v2 alone, nothing is done on v1."""

    def apply(self, resources: "Resources | None", *, devices: bool = True) -> None:
        """Write the limits. Fields that are None are left as they are; so are 0 for shares and weights.

        With `devices` (at creation) the device rules are set too, also when the configuration has none:
        everything but the default devices is then denied. Without (`update`) they stay untouched, and a
        failure takes back what was written before it.
        """
        raise NotImplementedError

    def apply_devices(self, resources: "Resources | None") -> None:
        """Write the device rules alone; everything but the default devices is denied without any."""
        raise NotImplementedError

    def add(self, pid: int) -> None:
        """Move a process into every directory; 0 is the caller."""
        for directory in self._paths.values():
            files.write_pid(directory, pid)

    def pids(self) -> list[int]:
        """The container's processes, those in cgroups below its own included."""
        return files.read_all_pids(self.main_path())

    def freeze(self) -> None:
        """Stop every process, and return when all have stopped."""
        raise NotImplementedError

    def thaw(self) -> None:
        """Let the processes go on."""
        raise NotImplementedError

    def frozen(self) -> bool:
        """Whether this cgroup itself was frozen; one above it does not count."""
        raise NotImplementedError

    def kill_all(self, signal: int) -> None:
        """Send a signal to every process; none escapes by forking meanwhile."""
        raise NotImplementedError

    def delete(self) -> None:
        """Remove the directories and those below; missing ones are no error.

        Raises `FailedPrecondition` when processes are still in one, after trying for about a second.
        """
        for directory in self._paths.values():
            files.remove(directory)

    def stats(self) -> "Stats":
        """Usage and limits now; `.to_json()` has the shape of `runc events --stats`."""
        raise NotImplementedError

    def oom_kills(self) -> int:
        """How many of the container's processes the kernel has killed for lack of memory."""
        raise NotImplementedError

    def oom_events(self) -> "OomWatch":
        """Something to poll for such kills. Raises `NotFound` without a memory controller."""
        raise NotImplementedError
