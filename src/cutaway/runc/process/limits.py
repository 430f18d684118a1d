"""What the runtime sets on the container's process: resource limits and its OOM score.

The score is written through /proc, where a process that may not be looked into belongs to root: without
root, the bridge writes its own before it becomes such, and init inherits it.
"""

import os

from cutaway.errors import FailedPrecondition
from cutaway.linux import libc, processes, procfs
from cutaway.runc.validate import RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Process, Rlimit

_UNLIMITED = (1 << 64) - 1


def set_oom_score(process: "Process") -> None:
    """The caller's own OOM score, for its children. Raises OSError: lowering needs CAP_SYS_RESOURCE."""
    if process.oom_score_adj is not None:
        _write_oom_score("self", process.oom_score_adj)


def set_limits(pid: int, process: "Process") -> None:
    """Resource limits and, as root, OOM score of another process. Raises OSError, `FailedPrecondition`."""
    if process.oom_score_adj is not None and not os.geteuid():
        _write_oom_score(pid, process.oom_score_adj)
    for limit in process.rlimits or ():
        number = RLIMITS[limit.type]
        try:
            processes.set_limit(pid, number, *_limit_values(limit))
        except OSError as error:
            raise FailedPrecondition(
                "error during container init: error setting rlimits for ready process: "
                f"error setting rlimit type {number}: {libc.words(error.errno or 0)}"
            ) from None


def _limit_values(limit: "Rlimit") -> tuple[int, int]:
    """Soft and hard as the kernel wants them: all ones for without limit."""
    soft, hard = (_UNLIMITED if value >= _UNLIMITED >> 1 else value for value in (limit.soft, limit.hard))
    return soft, hard


def _write_oom_score(pid: int | str, score: int) -> None:
    path = f"/proc/{pid}/oom_score_adj"
    fd = procfs.open_file(path, os.O_RDWR)
    try:
        if int(os.read(fd, 16)) == score:
            return  # lowering needs CAP_SYS_RESOURCE; leaving it as it is does not
        os.write(fd, str(score).encode())
    except OSError as error:
        libc.fail(error.errno or 0, f"failed to update {path}")
    finally:
        os.close(fd)
