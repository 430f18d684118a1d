"""Terminals: the runtime makes a pseudo-terminal inside the container and sends its master.

The way is a socket in a folder of our own, given as `--console-socket`; the runtime connects and
sends one message with one descriptor (runc's docs/terminals.md).
"""

import os
import socket

from cutaway.errors import Unknown
from cutaway.linux import terminals
from cutaway.shim.pump import Pump
from cutaway.shim.stdio import ProcessIo, Sink, Source, Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.shim.loop import Loop

_RECEIVE_SECONDS = 10.0


class ConsoleIo(ProcessIo):
    """A terminal and its pumps. stderr has no stream of its own."""

    def __init__(self, loop: "Loop", stdio: Stdio) -> None:
        super().__init__()
        self._loop = loop
        self._stdio = stdio
        self._master = -1
        self._output: Pump | None = None
        self._sink: Sink | None = None
        self._input: Pump | None = None
        self._source: Source | None = None
        folder = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("TMPDIR") or "/tmp"
        self._folder = f"{folder}/pty{os.urandom(6).hex()}"
        os.mkdir(self._folder, 0o700)
        self.console_socket = f"{self._folder}/pty.sock"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.bind(self.console_socket)
        self._listener.listen(1)

    def started(self) -> None:
        """The runtime has ended, so the master is in the socket already."""
        self._master = self._receive()
        self._close_socket()
        os.set_blocking(self._master, False)
        if self._stdio.stdout:
            self._sink = Sink(self._stdio.stdout)
            self._output = Pump(self._loop, os.dup(self._master), self._sink.fd)
            self._output.ended.call(self._output_ended)
        else:
            self.drained.set()
        if self._stdio.stdin:
            self._source = Source(self._stdio.stdin)
            self._input = Pump(self._loop, self._source.reader, self._master)
            self._input.ended.call(self.close_stdin)

    def _receive(self) -> int:
        self._listener.settimeout(_RECEIVE_SECONDS)
        try:
            peer, _ = self._listener.accept()
        except TimeoutError:
            raise Unknown("failed to retrieve console master: the runtime has sent none") from None
        with peer:
            peer.settimeout(_RECEIVE_SECONDS)
            _, descriptors, _, _ = socket.recv_fds(peer, 4096, 1)
        if not descriptors:
            raise Unknown("failed to retrieve console master: the runtime's message holds no descriptor")
        os.set_inheritable(descriptors[0], False)
        return descriptors[0]

    def _output_ended(self) -> None:
        if self._sink is not None:
            self._sink.finish()
        self.drained.set()

    def ended(self) -> None:
        if self._input is not None:
            self._input.stop()
        if self._output is not None:
            self._output.drain()

    def close_stdin(self) -> None:
        if self._source is not None:
            self._source.close_writer()

    def resize(self, width: int, height: int) -> None:
        if self._master >= 0:
            terminals.resize(self._master, height, width)

    def close(self) -> None:
        self._close_socket()
        for pump in (self._input, self._output):
            if pump is not None:
                pump.stop()
        if self._sink is not None:
            self._sink.close()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _close_socket(self) -> None:
        if self._folder:
            self._listener.close()
            os.unlink(self.console_socket)
            os.rmdir(self._folder)
            self._folder = ""
