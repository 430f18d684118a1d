"""Named places where a process can be made to die, so that tests can see what a crash there leaves.

    point("containerd.content.renamed")

    CUTAWAY_FAULT=NAME[:COUNT]    a process that passes NAME for the COUNT-th time (1) dies there by SIGKILL
    CUTAWAY_FAULT_LOG=FILE        every name that is passed is appended to FILE, with the pid

Both are read once, when this module is imported. Without them `point` is an empty function, which costs as
much as any call of one. A name is written out at exactly one place, so that the list of all is in the source;
it begins with the part whose process it is. Before a step it says `before-...`, after one what has been done.

This module is on the cold path of shim and runtime: it imports nothing but `os`.
"""

import os

FAULT = "CUTAWAY_FAULT"
LOG = "CUTAWAY_FAULT_LOG"

_SIGKILL = 9


class _Fault:
    """What the environment asks for."""

    def __init__(self, asked: str, log: str) -> None:
        self._name, _, count = asked.partition(":")
        self._left = int(count or 1)
        self._log = log

    def point(self, name: str, /) -> None:
        """Note that a place is passed, and die there if it is the one."""
        if self._log:
            self._note(name)
        if name == self._name:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), _SIGKILL)

    def _note(self, name: str) -> None:
        fd = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{name} {os.getpid()}\n".encode())
        finally:
            os.close(fd)


def _nothing(_name: str, /) -> None:
    """What a place costs when nothing is asked for."""


_asked = os.environ.get(FAULT, "")
_log = os.environ.get(LOG, "")
point = _Fault(_asked, _log).point if _asked or _log else _nothing
