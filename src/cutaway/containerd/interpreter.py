"""A copy of our interpreter that nobody can write to, for the zygote to run from.

Shims, runtimes and a container's first process are forks of the zygote, and `/proc/PID/exe` of each leads to
the file it was started from. Whoever may look into such a process (CAP_SYS_PTRACE) while it is in a container
would have the host's interpreter in his hands (CVE-2019-5736); so it is a sealed memfd, memfd_create(2).
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys

log = logging.getLogger("containerd.zygote")

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MFD_EXEC = 0x10  # Linux 6.3, where a sysctl may otherwise take the right to execute away
_PROBE_SECONDS = 10


def sealed_copy() -> int | None:
    """A descriptor of a copy that has been seen to start.

    None where it does not: with vm.memfd_noexec=2, or for an interpreter that finds its library by its own
    file's place. The file itself must serve then.
    """
    try:
        copy = _copy(os.path.realpath(sys.executable))
    except OSError as error:
        log.warning("no sealed copy of the interpreter: %s", error)
        return None
    if _starts(copy):
        return copy
    log.warning("the interpreter does not start from a sealed copy; %s itself is used", sys.executable)
    os.close(copy)
    return None


def path_of(descriptor: int) -> str:
    """What to execute in a process that has the descriptor."""
    return f"/proc/self/fd/{descriptor}"


def _copy(path: str) -> int:
    copy = _memfd()
    try:
        with open(path, "rb") as file:
            left = os.fstat(file.fileno()).st_size
            while left > 0:
                sent = os.sendfile(copy, file.fileno(), None, left)
                if not sent:
                    break
                left -= sent
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(copy)
        raise
    return copy


def _memfd() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("cutaway-python", flags | _MFD_EXEC)
    except OSError:
        return os.memfd_create("cutaway-python", flags)


def _starts(copy: int) -> bool:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", "import cutaway"],
            executable=path_of(copy),
            pass_fds=[copy],
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
