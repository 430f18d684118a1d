"""Starting the runtime anew from a sealed copy of the interpreter, where a container could get at the file.

Until its exec a container's process is a fork of our interpreter. It cannot be looked into, but by those who
have CAP_SYS_PTRACE over the user namespace that the runtime is in: for them `/proc/PID/exe` leads to the
host's file (CVE-2019-5736). Such a container, and one whose pid namespace has others' processes in it, gets
its processes from a copy that nobody can write to, as all get from runc. What is forked by the zygote of the
container service has such a copy from the start, and is never started anew.

A second start of Python is most of what a call costs: so it is only done where it counts, and before
anything has been made.
"""

import os
import sys

from cutaway.errors import FailedPrecondition
from cutaway.linux import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from cutaway.oci.runtime_spec import Linux, Process
    from cutaway.runc.logs import Log

_MARK = "_CUTAWAY_RUNC_COPY"
_PTRACE = "CAP_SYS_PTRACE"
_ORIGIN = b"$ORIGIN"  # ld.so(8): an interpreter that finds its library beside its own file
_F_GET_SEALS, _SEAL_WRITE = 1034, 0x8


class Restart:
    """How a runtime that was executed can be so again. Made before it changes directory or environment."""

    def __init__(self, log: "Log") -> None:
        self.log = log
        self.done = os.environ.pop(_MARK, "") != ""
        self._environment = dict(os.environ)
        self._directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def before(self, process: "Process", linux: "Linux | None") -> None:
        """Restart if a container with this first process calls for it. Raises as `execute`."""
        if needed_for(process, linux):
            self.execute()

    def execute(self) -> None:
        """Become the same call from a sealed copy; returns where we are that already, or cannot be.

        Raises OSError, and `FailedPrecondition` when the copy was executed and is not what runs.
        """
        if _is_sealed():
            processes.set_name("cutaway-runc")  # the kernel calls a program without a name by a number
            return
        if self.done:
            raise FailedPrecondition(
                "/proc/self/exe is not the sealed copy that was executed: is /proc procfs?"
            )
        image = _read("/proc/self/exe")
        if _ORIGIN in image:
            self.log.warning(
                "the interpreter cannot be run from a sealed copy, as it finds its library by its own place "
                "($ORIGIN): with CAP_SYS_PTRACE the container can reach its file"
            )
            return
        self._become(image)

    def _become(self, image: bytes) -> "NoReturn":
        from cutaway.linux import trampoline

        copy = trampoline.sealed("cutaway-python", image, len(image))
        os.fchdir(self._directory)
        os.execve(copy, sys.orig_argv, {**self._environment, _MARK: "1"})


def _is_sealed() -> bool:
    """Whether we run from a file that nobody can write to."""
    import fcntl

    fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return bool(fcntl.fcntl(fd, _F_GET_SEALS) & _SEAL_WRITE)
    except OSError:
        return False  # a file like any other has no seals
    finally:
        os.close(fd)


def _read(path: str) -> bytes:
    from cutaway.linux import smallfile

    return smallfile.read(path)


def needed_for(process: "Process", linux: "Linux | None", *, traced: bool = False) -> bool:
    """Whether whoever is in the container with a new process of ours could look into it.

    `traced`: processes with CAP_SYS_PTRACE are there already. In a pid namespace that was there before,
    others' may be, whatever this one may do.
    """
    kinds = {namespace.type: namespace.path for namespace in linux.namespaces} if linux else {}
    return bool(kinds.get("pid")) or ("user" not in kinds and (traced or may_trace(process)))


def may_trace(process: "Process | None") -> bool:
    """Whether a configuration gives CAP_SYS_PTRACE, in any set: what is bounding may be gained by an exec."""
    caps = process.capabilities if process is not None else None
    if caps is None:
        return False
    sets = (caps.bounding, caps.permitted, caps.effective, caps.inheritable, caps.ambient)
    return any(_PTRACE in names for names in sets if names)
