"""`kill`: send a signal to a container."""

from cutaway.errors import FailedPrecondition, InvalidArgument
from cutaway.linux import libc, processes
from cutaway.runc import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed

_SIGKILL = 9

# signal(7), x86-64 and arm64
_NAMES = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP "
    "TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
_MORE = {"IOT": 6, "CLD": 17, "POLL": 29, "UNUSED": 31}


def run(context: "Context", parsed: "Parsed") -> int:
    """Send the signal; 0."""
    container = state.load(context.root, parsed.arguments[0])
    number = parse_signal("".join(parsed.arguments[1:]) or "SIGTERM")
    if parsed.flag("all") and not _ends_all(container, number):
        container.cgroup().kill_all(number)
        return 0
    paused = number == _SIGKILL and container.status() == state.PAUSED
    send(container, number)
    if paused:
        container.cgroup().thaw()  # a frozen process of cgroup v1 only dies when it goes on
    return 0


def _ends_all(container: state.Container, number: int) -> bool:
    """Whether signalling init alone reaches every process: there is no other way without a cgroup."""
    return not container.record.cgroup_paths and container.record.own_pids and number == _SIGKILL


def parse_signal(text: str) -> int:
    """A signal by number or name, with or without SIG. Raises `InvalidArgument`."""
    if text.isdecimal():
        return int(text)
    name = text.upper().removeprefix("SIG")
    names = _NAMES.split()
    if name in names:
        return names.index(name) + 1
    if name in _MORE:
        return _MORE[name]
    if name.startswith("RTMIN+") and name[6:].isdecimal() and int(name[6:]) <= 30:
        return 34 + int(name[6:])
    raise InvalidArgument(f'unknown signal "{text}"')


def send(container: state.Container, number: int) -> None:
    """Signal the container's init, and no process that may have got its pid since.

    Raises `FailedPrecondition` when it does not run.
    """
    try:
        pidfd = processes.pidfd_open(container.record.pid)
    except (OSError, ValueError):
        raise FailedPrecondition("container not running") from None
    import os

    try:
        if not container.alive():  # asked after the pidfd is held: from here on it is this process or none
            raise FailedPrecondition("container not running")
        processes.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        raise FailedPrecondition("container not running") from None
    except OSError as error:
        raise FailedPrecondition(f"unable to signal init: {libc.words(error.errno or 0)}") from None
    finally:
        os.close(pidfd)
