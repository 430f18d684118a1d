"""A child forked in advance, which waits to be told what to run.

A shim knows that a runtime call will come before it comes: it is made for a `create`, and between the
request that describes an exec and the one that starts it lies a round trip. A child that is forked meanwhile
is there when the call comes. It belongs to one shim, has
seen nothing but that shim's start, and runs one call.

    shim → child    {"cwd": "...", "environment": {...}, "expected": [...]}, to one that was forked before
                    its shim knew these
    shim → child    {"argv": [...], "traceparent": "..."} and the descriptors, one packet; or the end
    child → shim    the exit code, one byte, when the call is through: its end takes a millisecond more

The child ends unused when the shim hangs up or dies.
"""

import os
import socket

from cutaway.oci import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_MAX_REQUEST = 1 << 17
_MAX_DESCRIPTORS = 8


class Call:
    """What a spare child is told."""

    __slots__ = ("argv", "descriptors", "traceparent")

    def __init__(self, argv: list[str], descriptors: tuple[int, ...], traceparent: str) -> None:
        self.argv = argv
        self.descriptors = descriptors
        self.traceparent = traceparent


class Place:
    """Where a spare child's call will be made: its folder, what differs of the environment (None: is not
    there), and the command line that is expected, if one is."""

    __slots__ = ("cwd", "environment", "expected")

    def __init__(self, cwd: str, environment: "dict[str, str | None]", expected: list[str]) -> None:
        self.cwd = cwd
        self.environment = environment
        self.expected = expected

    def take(self) -> None:
        """In the child. Raises OSError."""
        os.chdir(self.cwd)
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def fork_to_wait(main: "Callable[[socket.socket], NoReturn]") -> tuple[int, socket.socket]:
    """Fork; the child enters `main` with its end of a socket. Its pid and our end. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
        if pid == 0:
            main(theirs)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return pid, ours


class Spare:
    """The shim's end."""

    __slots__ = ("_socket", "pid")

    def __init__(self, main: "Callable[[socket.socket], NoReturn]") -> None:
        """Fork; the child enters `main` with its end of the socket. Raises OSError."""
        self.pid, self._socket = fork_to_wait(main)

    def tell(self, call: Call) -> bool:
        """Have it run; False when it is gone, or the call is too large to be told."""
        return self._send({"argv": call.argv, "traceparent": call.traceparent}, call.descriptors)

    def settle(self, place: Place) -> bool:
        """Tell it where it is; False when it is gone, or that is too much to be told."""
        fields = {"cwd": place.cwd, "environment": place.environment, "expected": place.expected}
        return self._send(fields, ())

    def _send(self, fields: "dict[str, Any]", descriptors: tuple[int, ...]) -> bool:
        packet = jsontext.dumps(fields).encode()
        if len(packet) > _MAX_REQUEST or len(descriptors) > _MAX_DESCRIPTORS:
            return False
        try:
            socket.send_fds(self._socket, [packet], descriptors, socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def fileno(self) -> int:
        return self._socket.fileno()

    def exit_code(self) -> int | None:
        """The exit code, once it can be read; None when the child has ended without one."""
        try:
            code = self._socket.recv(1)
        except OSError:
            return None
        return code[0] if code else None

    def dismiss(self) -> None:
        """Let it end, or hear no more of it."""
        self._socket.close()


def find_place(end: socket.socket) -> Place | None:
    """In a child that was forked ahead of its shim's start: where it is; None when it is not needed."""
    packet = end.recv(_MAX_REQUEST)
    if not packet:
        return None
    fields = jsontext.loads(packet)
    return Place(fields["cwd"], fields["environment"], fields["expected"])


def wait(end: socket.socket) -> Call | None:
    """In the child: the call, or None when none will come."""
    packet, descriptors, _, _ = socket.recv_fds(end, _MAX_REQUEST, _MAX_DESCRIPTORS)
    if not packet:
        return None
    fields = jsontext.loads(packet)
    return Call(fields["argv"], tuple(descriptors), fields["traceparent"])
