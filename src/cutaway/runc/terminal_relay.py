"""What a foreground program reads and writes: between us and its terminal's master, or its pipes.

The master arrives on a console socket as it would for any caller, only that the caller is us.
"""

import _socket
import os
import select

from cutaway.errors import FailedPrecondition
from cutaway.linux import libc, terminals
from cutaway.oci.runtime_spec import Box
from cutaway.runc import console
from cutaway.runc.streams import Pipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Process

_CHUNK = 1 << 16


class Relay:
    """Does nothing until `open_socket` or `open_pipes` was called."""

    def __init__(self) -> None:
        self.active = False
        self._ours: _socket.socket | None = None
        self._theirs: _socket.socket | None = None
        self._master = -1
        self._host = -1  # our own terminal
        self._pipes: Pipes | None = None
        self._saved: list[object] | None = None

    def open_socket(self, process: "Process") -> int:
        """Prepare for a process's terminal, of our size; a descriptor of the socket that takes its master.

        Raises `FailedPrecondition` when we have no terminal ourselves.
        """
        self._host = _own_terminal()
        if process.console_size is None:
            height, width = terminals.size(self._host)
            process.console_size = Box(height=height, width=width)
        self._ours, self._theirs = _socket.socketpair(
            _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC
        )
        self.active = True
        return os.dup(self._theirs.fileno())

    def open_pipes(self, owner: tuple[int, int]) -> list[int]:
        """Prepare for a process without a terminal, in a container whose root is the host's `owner`.

        The descriptors for its stdin, stdout and stderr.
        """
        self._pipes = Pipes(owner)
        return self._pipes.theirs

    def begin(self) -> None:
        """Take the master and make our own terminal raw: what is typed goes to the container as it is.

        Ends of lines are made by our terminal alone, so output that goes to a file has none doubled.
        """
        if self._pipes is not None:
            self._pipes.begin()
        if self._ours is None or self._theirs is None:
            return
        self._theirs.close()
        self._master = console.receive_master(self._ours)
        self._ours.close()
        self.resize()
        self._saved = terminals.make_raw(self._host)

    def resize(self) -> None:
        """Give the container's terminal the size of ours."""
        if self._master < 0:
            return
        try:
            terminals.resize(self._master, *terminals.size(self._host))
        except OSError:
            return  # ours was hung up

    def pump(self, pidfd: int) -> None:
        """Carry bytes both ways until the process ends, and a terminal's output is drained."""
        if self._pipes is not None:
            self._pipes.pump(pidfd)
        if self._master < 0:
            return
        poller = select.poll()
        for fd in (0, self._master, pidfd):
            poller.register(fd, select.POLLIN)
        ended = False
        while True:
            ready = {fd for fd, _ in poller.poll(0 if ended else None)}
            if 0 in ready and not self._carry(0, self._master):
                poller.unregister(0)
            if self._master in ready:
                if not self._carry(self._master, 1):
                    return
            elif ended:
                return
            if pidfd in ready:
                ended = True
                poller.unregister(pidfd)

    def _carry(self, source: int, target: int) -> bool:
        try:
            data = os.read(source, _CHUNK)
        except OSError:
            return False  # EIO: the last slave was closed
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
        return bool(data)

    def end(self) -> None:
        """Restore our terminal and close the container's; carry what is left in pipes."""
        if self._pipes is not None:
            self._pipes.end()
        if self._saved is not None:
            terminals.restore(self._host, self._saved)
            self._saved = None
        if self._host >= 0:
            os.close(self._host)
            self._host = -1
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


def _own_terminal() -> int:
    """A descriptor of our terminal: whichever of our streams is one, else the controlling one.

    Raises `FailedPrecondition`.
    """
    for fd in (2, 1, 0):
        if os.isatty(fd):
            return os.dup(fd)
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise FailedPrecondition(f"open /dev/tty: {libc.words(error.errno or 0)}") from None
