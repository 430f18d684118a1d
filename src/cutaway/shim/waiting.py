"""A shim that is forked before it is asked for, and does what every shim does before it knows whose it is.

The zygote keeps one. A request for a `start` goes to it, packet and descriptors as they came: the fork, the
pages that a shim copies by writing to them, and the child for its runtime's `create` have been paid for by
then. It is a fork of the zygote like any other: it has seen no request but its own, and serves one.

    zygote → shim    {"id": ..., "argv": ..., "env": ..., "cwd": ...} and three descriptors; or the end
"""

import gc
import socket
from contextlib import suppress

from cutaway.linux import processes
from cutaway.shim import programs, rehearsal, start
from cutaway.shim.daemon import Parts
from cutaway.shim.spare import fork_to_wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

MAX_REQUEST = 1 << 20
STREAMS = 3

_NAME = "cutaway-waiting"


class WaitingShim:
    """The zygote's end of one."""

    __slots__ = ("_socket", "pid")

    def __init__(self, main: "Callable[[socket.socket], NoReturn]") -> None:
        """Fork; the child enters `main` with its end of the socket. Raises OSError."""
        self.pid, self._socket = fork_to_wait(main)

    def ask(self, packet: bytes, descriptors: list[int]) -> bool:
        """Pass a request on, the only one; False when it is gone, and another has to be forked."""
        try:
            socket.send_fds(self._socket, [packet], descriptors, socket.MSG_NOSIGNAL)
        except OSError:
            return False
        finally:
            self._socket.close()
        return True

    def dismiss(self) -> None:
        """Let it end."""
        self._socket.close()


def get_ready() -> Parts:
    """In the child: be a daemon as far as that is the same for all."""
    processes.set_name(_NAME)
    start.settle()
    parts = Parts()
    program = programs.only()
    if program is not None:
        parts.launcher.fork_ahead(program, lambda: rehearsal.call(program.main))
    # After the forks, which would have what has been copied by then copied again.
    with suppress(OSError):  # what is not done ahead is done when it is needed
        rehearsal.rehearse(Parts(parts.reaper))
    gc.collect()  # what has been made for it lies in pages of our own, and can be made again there
    return parts


def hear(end: socket.socket) -> tuple[bytes, list[int]]:
    """In the child: wait for the request; an empty packet when none will come."""
    with end:
        packet, descriptors, _, _ = socket.recv_fds(end, MAX_REQUEST, STREAMS)
        return packet, descriptors
