"""Children and orphans: every process that ends below the shim is waited for here, and only here.

The shim is a child subreaper (prctl(2), Linux 3.4): a container's init and everything an exec
leaves behind become its children when the runtime that made them exits.
"""

import _signal  # type: ignore[import-not-found]  # the C part: signal's functions convert to and from enums
import os
import time

from cutaway.shim.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cutaway.shim.loop import Loop


class Exit:
    """How and when a process ended. `status` is 0..255, 128 + N for signal N; `at_ns` since the epoch."""

    __slots__ = ("at_ns", "pid", "status")

    def __init__(self, pid: int, status: int, at_ns: int) -> None:
        self.pid = pid
        self.status = status
        self.at_ns = at_ns


class Reaper:
    """Hands each exit to whoever expects it.

    A container may end before anybody has read its pid from the runtime's pid file. While somebody
    holds `keep()`, exits of unknown processes are therefore kept; `expect()` finds them.
    """

    def __init__(self, loop: "Loop") -> None:
        self.loop = loop
        self._expected: dict[int, Callable[[Exit], None]] = {}
        self._early: dict[int, Exit] = {}
        self._keepers = 0
        self._pipe, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)  # a handler at all makes the wake-up byte
        loop.watch(self._pipe, READ, self._woken)

    def close(self) -> None:
        """Wait for nobody any more, and close the loop."""
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        self.loop.close()
        os.close(self._pipe)
        os.close(self._wake)

    def expect(self, pid: int, callback: "Callable[[Exit], None]") -> None:
        """Call back, once, when `pid` has ended; at once if it already has."""
        early = self._early.pop(pid, None)
        if early is not None:
            callback(early)
        else:
            self._expected[pid] = callback

    def keep(self) -> None:
        self._keepers += 1

    def release(self) -> None:
        self._keepers -= 1
        if not self._keepers:
            self._early.clear()

    def _woken(self, _: int) -> None:
        os.read(self._pipe, 4096)
        self.reap()

    def reap(self) -> None:
        """Collect everything that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._ended(Exit(pid, exit_status(status), time.time_ns()))

    def _ended(self, exit: Exit) -> None:
        callback = self._expected.pop(exit.pid, None)
        if callback is not None:
            callback(exit)
        elif self._keepers:
            self._early[exit.pid] = exit


def exit_status(status: int) -> int:
    """What a shell makes of waitpid's status."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
