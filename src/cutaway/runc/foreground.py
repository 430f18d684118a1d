"""`run` and `exec` in the foreground: signals go to the program, its terminal is ours, its exit code too."""

import _signal  # type: ignore[import-not-found]  # the C part: signal itself imports enum
import os

from cutaway.linux import processes
from cutaway.runc import creation
from cutaway.runc.commands import delete, start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed
    from cutaway.runc.terminal_relay import Relay

# Not passed on: what cannot be caught, what is about us (CHLD, the terminal's stops) and faults.
_OURS = frozenset({9, 19, 17, 13, 11, 7, 8, 4, 5, 6, 20, 21, 22, 23, 28})
_SIGWINCH = 28


def run(context: "Context", parsed: "Parsed") -> int:
    """Create, start, wait, delete (unless --keep); the program's exit code."""
    if not parsed.flag("no-subreaper"):
        processes.set_subreaper()
    from cutaway.runc import terminal_relay

    relay = terminal_relay.Relay()
    try:
        making = creation.create(context, parsed, detach=False, relay=relay)
        container = making.container
        try:
            relay.begin()
            start.start(container)
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


def wait(pid: int, relay: "Relay") -> int:
    """Wait for a child, passing signals on and, with a terminal, its input and output."""
    previous = _forward_signals(pid, relay)
    try:
        relay.pump(pid)
        while True:
            ended, status = os.waitpid(-1, 0)  # orphans of the container too: we are their reaper
            if ended == pid:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
    finally:
        for number, handler in previous:
            _signal.signal(number, handler)


def _forward_signals(pid: int, relay: "Relay") -> "list[tuple[int, Callable[..., object] | int]]":
    def forward(number: int, _frame: object) -> None:
        if number == _SIGWINCH:
            relay.resize()
            return
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return

    previous = []
    for number in range(1, 32):
        if number not in _OURS or (number == _SIGWINCH and relay.active):
            previous.append((number, _signal.signal(number, forward)))
    return [(number, handler if handler is not None else _signal.SIG_DFL) for number, handler in previous]
