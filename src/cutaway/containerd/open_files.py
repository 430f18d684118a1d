"""How many files may be open: as many as the daemon may have, and no more for what it starts.

The soft limit that a shell gives (1,024) is there for programs that use select(2); a task takes two or three
descriptors here. Shims and what they run get the limit that the daemon was started with, as they do from a
program in Go, which raises its own as well. Source: getrlimit(2), and the release notes of Go 1.19.
"""

from __future__ import annotations

import resource
from contextlib import suppress

_started_with = resource.getrlimit(resource.RLIMIT_NOFILE)


def raise_limit() -> None:
    """Raise the daemon's own soft limit to the hard one. The zygote is to be started before."""
    hard = _started_with[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def give_back(pid: int) -> None:
    """Give a process, which was just started, the limits that the daemon was started with."""
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, _started_with)
