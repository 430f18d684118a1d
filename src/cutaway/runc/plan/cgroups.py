"""The steps by which a container's process gets into its cgroups.

The usual way, another process writing its pid to cgroup.procs, takes a lock over all processes of the
machine and waits for an RCU grace period, about 10 ms. Two ways take none: a single-threaded process that
moves itself through a v1 `tasks` file (Linux 5.6), and a process that is born in its v2 cgroup
(CLONE_INTO_CGROUP, Linux 5.7; `namespaces.clone_into`).
"""

import os

from cutaway.linux import processes
from cutaway.linux.cgroups import files
from cutaway.runc.plan.step import Here, Step


class EnterCgroups(Step):
    """Move the calling process into its v1 cgroups."""

    __slots__ = ("_fds", "directories")
    group = "cgroup"

    def __init__(self, directories: list[str]) -> None:
        self.directories = directories
        self._fds: list[int] = []

    def describe(self) -> str:
        return f"enter {len(self.directories)} cgroups"

    def command(self) -> str:
        return "; ".join(f"echo $$ > {directory}/tasks" for directory in self.directories) or "# none of v1"

    def failure(self, reason: str) -> str:
        return f"unable to apply cgroup configuration: {reason}"

    def open(self) -> None:
        """In the parent, when the cgroups exist: the kernel asks for the rights of who opened the file.

        Raises the classes of `cutaway.errors`.
        """
        for directory in self.directories:
            self._fds.append(files.open_tasks(directory))

    def close(self) -> None:
        """In the parent, when the process has its own descriptors."""
        processes.close(self._fds)
        self._fds = []

    def enter(self) -> None:
        """Move the caller, once: what it forks is there already."""
        for fd in self._fds:
            os.write(fd, b"0")
        self.close()

    def execute(self, here: Here) -> None:
        self.enter()


class UnshareCgroup(Step):
    """Make the cgroup that the process is in now the root of what it sees."""

    __slots__ = ()
    group = "namespaces"

    def describe(self) -> str:
        return "unshare the cgroup namespace"

    def command(self) -> str:
        return "unshare --cgroup"

    def execute(self, here: Here) -> None:
        from cutaway.linux import namespaces

        namespaces.unshare(namespaces.flag("cgroup"))
