"""The way from the container's init, a fork of our interpreter, to the program: never from our file directly.

The last exec goes through a trampoline (`cutaway.linux.trampoline`), so that `/proc/self/exe`, which a
hostile image may give as the program or behind a `#!`, names a sealed memfd and not the interpreter of the
host (CVE-2019-5736). Two execs must leave what one would have left, and three things would not survive:

filter    One that Python has loaded must allow the trampoline's own exec. Where it forbids execveat(2):
          with no_new_privileges the trampoline loads it, just before the program. Without, which needs
          CAP_SYS_ADMIN and so comes early, and with a seccomp agent, the trampoline is executed by
          execve(2), under its name in the host's /proc/self/fd, which must be the working directory for
          that moment: fchdir(2) there and back. (The container's own /proc may be anything.) A filter that
          forbids all of this is refused.
label     What AppArmor or SELinux are told counts for the next exec only. The trampoline tells them, through
          a new procfs of the container's pid namespace. In a user namespace that cannot be mounted
          for certain: there the label counts from the trampoline on, and the profile must let it execute.
rights    A user other than root loses by any exec the capabilities that are not ambient, but for that
          very exec may need them to reach its program: they are made ambient, and the trampoline undoes it.

Everything is made by the parent: init has neither the modules nor, under its filter, the system calls.
"""

import os
import struct

from cutaway.errors import FailedPrecondition, InvalidArgument
from cutaway.linux import capabilities, libc, seccomp, trampoline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from cutaway.oci.runtime_spec import Process, Seccomp
    from cutaway.runc.plan.step import Here

_AT_WRONLY_CLOEXEC = os.O_WRONLY | os.O_CLOEXEC
_NEEDED_BY_NAME = ("execve", "fchdir", "close")


class Way:
    """How a process gets to its program: decided and opened by `prepare`, gone by `execute`."""

    __slots__ = ("attributes", "by_name", "cwd", "fd", "filter_late", "lent")

    def __init__(self) -> None:
        self.fd = -1  # the trampoline
        self.filter_late = False  # the trampoline loads the filter
        self.by_name = False  # execute the trampoline by execve(2)
        self.cwd = -1  # a number kept for the working directory, if by name
        self.attributes = -1  # a number kept for a procfs, if labels are the trampoline's task
        self.lent = 0  # capabilities made ambient for the trampoline

    def execute(self, here: "Here", path: str, program: list[str], environment: dict[str, str]) -> "NoReturn":
        """Become the program. Raises OSError; what fails later, the trampoline says on stderr."""
        if not self.by_name:
            trampoline.execute(self.fd, path, program, environment)
        os.dup2(os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), self.cwd, inheritable=True)
        fds = os.open("self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here.host_proc)
        trampoline.execute_by_name(self.fd, fds, path, program, environment)

    def close(self) -> None:
        """In the parent, when the process has its copies."""
        for fd in (self.fd, self.cwd, self.attributes):
            if fd >= 0:
                os.close(fd)


def prepare(
    process: "Process",
    sets: capabilities.Sets,
    wanted: "Seccomp | None",
    compiled: tuple[bytes, int] | None,
    *,
    own_users: bool,
) -> Way:
    """Make the trampoline for a process; `own_users` says that it is in a user namespace of its own.

    Raises `FailedPrecondition` for a filter that leaves no way, `InvalidArgument` for unknown flags, OSError.
    """
    way = Way()
    if wanted is not None and compiled is not None:
        _choose(way, wanted, process.no_new_privileges)
    made = trampoline.Trampoline()
    if way.by_name:
        way.cwd = _keep_number()
        made.call(libc.NUMBERS["fchdir"], way.cwd, failure="unable to return to the working directory")
        made.call(libc.NUMBERS["close"], way.cwd, failure="unable to close the working directory")
    labels = [("apparmor", process.apparmor_profile), ("selinux", process.selinux_label)]
    if not own_users and any(label for _, label in labels):
        way.attributes = _keep_number()
        for module, label in labels:
            if label:
                _tell_label(made, way.attributes, module, label)
        made.call(libc.NUMBERS["close"], way.attributes, failure="unable to close procfs")
    way.lent = capabilities.lendable(sets, process.user.uid)
    if way.lent:
        _take_back(made, sets, way.lent)
    if way.filter_late and compiled is not None:
        _load_filter(made, *compiled)
    way.fd = made.seal()
    return way


def _choose(way: Way, wanted: "Seccomp", no_new_privileges: bool | None) -> None:
    if seccomp.allows(wanted, "execveat"):
        return
    if no_new_privileges and not seccomp.notifies(wanted):
        way.filter_late = True
    elif all(seccomp.allows(wanted, name) for name in _NEEDED_BY_NAME):
        way.by_name = True
    else:
        raise FailedPrecondition(
            "linux.seccomp allows neither execveat(2) nor fchdir(2) with close(2): without one of them the "
            "program cannot be executed safely; allow execveat, or set process.noNewPrivileges"
        )


def _keep_number() -> int:
    return os.open("/", os.O_PATH | os.O_CLOEXEC)


def label_files(module: str, name: str) -> tuple[str, str]:
    """The files below /proc/self that a security module may read, best first; `name`: "exec" or "current".

    Both modules have had files of their own below attr/ since 4.20 (AppArmor) and 6.x; the shared one
    belongs to whichever was first.
    """
    return f"attr/{module}/{name}", f"attr/{name}"


def label_text(module: str, label: str) -> str:
    """What is written there to change at the next exec."""
    return f"exec {label}" if module == "apparmor" else label


def _tell_label(made: trampoline.Trampoline, procfs: int, module: str, label: str) -> None:
    failure = f"unable to apply {module} label {label}"
    own, shared = label_files(module, "exec")
    path = made.place(f"self/{own if os.path.exists(f'/proc/self/{own}') else shared}\0".encode())
    text = label_text(module, label).encode()
    made.call(libc.NUMBERS["openat"], procfs, path, _AT_WRONLY_CLOEXEC, failure=failure)
    made.call(libc.NUMBERS["write"], trampoline.PREVIOUS, made.place(text), len(text), failure=failure)


def _take_back(made: trampoline.Trampoline, sets: capabilities.Sets, lent: int) -> None:
    failure = "unable to restore capabilities"
    for number in range(lent.bit_length()):
        if lent >> number & 1:
            made.call(libc.NUMBERS["prctl"], *capabilities.lower_ambient(number), failure=failure)
    kept = sets.ambient & sets.inheritable & sets.permitted | lent
    header, data = capabilities.capset_arguments(kept, kept, sets.inheritable)
    made.call(libc.NUMBERS["capset"], made.place(bytes(header)), made.place(bytes(data)), failure=failure)


def _load_filter(made: trampoline.Trampoline, program: bytes, bits: int) -> None:
    if not seccomp.knows_flags(bits):
        raise InvalidArgument("linux.seccomp.flags: this kernel does not know one of them")
    count = len(program) // seccomp.INSTRUCTION
    fprog = made.place(struct.pack("<HxxxxxxQ", count, made.place(program)))
    made.call(
        libc.NUMBERS["seccomp"], seccomp.SET_MODE_FILTER, bits, fprog,
        failure=f"unable to init seccomp: error loading seccomp filter into kernel ({count} instructions)",
    )  # fmt: skip
