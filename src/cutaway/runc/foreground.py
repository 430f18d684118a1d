"""`run` and `exec` in the foreground: signals go to the program, its terminal is ours, its exit code too."""

import _signal  # type: ignore[import-not-found]  # the C part: signal itself imports enum
import os

from cutaway.errors import CutawayError
from cutaway.linux import processes
from cutaway.runc import creation
from cutaway.runc.commands import delete, start
from cutaway.runc.terminal_relay import Relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cutaway.runc.context import Context
    from cutaway.runc.notify import Proxy
    from cutaway.runc.options import Parsed

# Not passed on: what cannot be caught, what is about us (CHLD, the terminal's stops) and faults.
_OURS = frozenset({9, 19, 17, 13, 11, 7, 8, 4, 5, 6, 20, 21, 22, 23, 28})
_SIGCHLD, _SIGWINCH = 17, 28


class Forwarding:
    """While entered, signals to us go to the program; those that come before there is one wait for it."""

    def __init__(self, relay: "Relay") -> None:
        self._relay = relay
        self._pid = 0
        self._waiting: list[int] = []
        self._previous: list[tuple[int, Callable[..., object] | int]] = []

    def __enter__(self) -> "Forwarding":
        for number in range(1, 32):
            if number not in _OURS or number == _SIGWINCH:
                handler = _signal.signal(number, self._handle)
                self._previous.append((number, _signal.SIG_DFL if handler is None else handler))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous:
            _signal.signal(number, handler)

    def to(self, pid: int) -> None:
        """Say who gets them."""
        self._pid = pid
        for number in self._waiting:
            self._send(number)

    def _handle(self, number: int, _frame: object) -> None:
        if number == _SIGWINCH:
            self._relay.resize()
        elif self._pid:
            self._send(number)
        else:
            self._waiting.append(number)

    def _send(self, number: int) -> None:
        try:
            os.kill(self._pid, number)
        except ProcessLookupError:
            return


def run(context: "Context", parsed: "Parsed") -> int:
    """Create, start, wait, delete (unless --keep); the program's exit code."""
    if not parsed.flag("no-subreaper"):
        processes.set_subreaper()
    relay = Relay()
    try:
        making = creation.create(context, parsed, detach=False, relay=relay)
        container = making.container
        with Forwarding(relay) as forwarding:
            forwarding.to(making.pid)
            try:
                relay.begin()
                proxy = start.notify_proxy(container)
                start.start(container)
                if proxy is not None:
                    _forward_beside(context, proxy, making.pid)
            except Exception:
                start.kill(container)
                wait(making.pid, relay)
                delete.delete(context, container, force=True)
                raise
            code = wait(making.pid, relay)
    finally:
        relay.end()
    if not parsed.flag("keep"):
        delete.delete(context, container, force=True)
    return code


def _forward_beside(context: "Context", proxy: "Proxy", pid: int) -> None:
    """Pass the program's word on while we wait for it and carry its terminal. Its main process is we."""
    import _thread

    def forward() -> None:
        try:
            proxy.forward(pid, os.getpid())
        except CutawayError as error:
            context.log.warning(str(error))

    _thread.start_new_thread(forward, ())


def wait(pid: int, relay: "Relay") -> int:
    """Wait for a child, carrying its input and output; its exit code, 128 + n for a signal."""
    ends: dict[int, int] = {}

    def reap(*_: object) -> None:
        """Orphans of the container too: we are their reaper."""
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                ends.update([ended])
        except ChildProcessError:
            return

    pidfd = processes.pidfd_open(pid)
    previous = _signal.signal(_SIGCHLD, reap)
    try:
        relay.pump(pidfd)
    finally:
        _signal.signal(_SIGCHLD, previous or _signal.SIG_DFL)
        os.close(pidfd)
    while pid not in ends:
        ends.update([os.waitpid(-1, 0)])
    code = os.waitstatus_to_exitcode(ends[pid])
    return code if code >= 0 else 128 - code
