"""Why a process ended that was to become a container."""

import os

from cutaway.errors import Aborted, CutawayError, FailedPrecondition
from cutaway.linux import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.base import Manager

GRACE_MS = 100


def ended(pid: int, milliseconds: int) -> bool:
    """Whether a process ends in time: it closes its descriptors a moment before it can be waited for."""
    import select

    try:
        pidfd = processes.pidfd_open(pid)
    except OSError:
        return True
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(milliseconds))
    finally:
        os.close(pidfd)


def autopsy(pid: int, manager: "Manager | None") -> CutawayError:
    """Why a process ended that said nothing."""
    if manager is not None and manager.oom_kills() > 0:
        return FailedPrecondition("container init was OOM-killed (memory limit too low?)")
    try:
        ended(pid, GRACE_MS)
        reaped, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        reaped, status = 0, 0
    if not reaped:
        return Aborted("the container's init closed its end without a word")
    code = os.waitstatus_to_exitcode(status)
    return Aborted(
        f"the container's init ended unexpectedly ({f'signal {-code}' if code < 0 else f'exit code {code}'})"
    )
