"""A container's streams on our own: stdin out to it, stdout and stderr back.

    our stdin  ──▶ (detach keys) ──▶ hijacked connection ──▶ container
    our stdout ◀── stream 1 ─┐
    our stderr ◀── stream 2 ─┴── 8-byte frames ◀── (a terminal has one stream and no frames)

Frame: byte 0 the stream (0 stdin echo, 1 stdout, 2 stderr, 3 an error of the daemon's), bytes 1-3
zero, bytes 4-7 the length, big-endian. Source: Engine API, "Attach to a container".
"""

import os

from cutaway.cli.loop import READ, WRITE, Loop
from cutaway.errors import Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.cli.http import Connection
    from cutaway.cli.terminal import DetachKeys

CHUNK = 64 * 1024
HEADER = 8


class Frames:
    """Takes the framed stream apart and writes each piece where it belongs."""

    def __init__(self, stdout: int = 1, stderr: int = 2) -> None:
        self._targets = {0: stdout, 1: stdout, 2: stderr}
        self._header = b""
        self._left = 0
        self._stream = 1
        self._error = b""

    def feed(self, data: bytes) -> None:
        """Write what `data` holds. Raises `Unknown` for a stream that is none, and for the daemon's error."""
        while data:
            if self._left == 0:
                take = HEADER - len(self._header)
                self._header += data[:take]
                data = data[take:]
                if len(self._header) < HEADER:
                    return
                self._open(self._header)
                self._header = b""
                continue
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            self._deliver(piece)

    def _open(self, header: bytes) -> None:
        self._stream = header[0]
        self._left = int.from_bytes(header[4:8], "big")
        if self._stream > 3 or header[1:4] != b"\0\0\0":
            raise Unknown(f"Unrecognized input header: {self._stream}")

    def _deliver(self, piece: bytes) -> None:
        if self._stream != 3:
            write(self._targets[self._stream], piece)
            return
        self._error += piece
        if self._left == 0:
            raise Unknown(f"error from daemon in stream: {self._error.decode(errors='replace')}")


def write(fd: int, data: bytes) -> None:
    """Write everything, also to a descriptor that somebody made non-blocking."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            import select

            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


class Attachment:
    """A hijacked connection in a loop; `finished` once the daemon has closed it, or we have detached."""

    def __init__(
        self, loop: Loop, connection: "Connection", *, tty: bool, stdin: int | None, keys: "DetachKeys | None"
    ) -> None:
        self.finished = False
        self.detached = False
        self._loop = loop
        self._connection = connection
        self._frames = None if tty else Frames()
        self._stdin = stdin
        self._keys = keys
        self._outgoing = b""
        self._input_open = stdin is not None
        self._start()

    def _start(self) -> None:
        self._loop.watch(self._connection.fileno(), READ, self._ready)
        if self._stdin is None:
            self._connection.half_close()
        else:
            self._loop.watch(self._stdin, READ, self._typed)
        if self._connection.buffer:
            self._received(self._connection.receive())

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._send()
        if events & ~WRITE and not self.finished:
            self._received(self._connection.receive(CHUNK))

    def _received(self, data: bytes) -> None:
        if not data:
            self._finish()
        elif self._frames is None:
            write(1, data)
        else:
            self._frames.feed(data)

    def _finish(self) -> None:
        self.finished = True
        self._loop.forget(self._connection.fileno())
        self._stop_input()
        self._connection.close()

    def _stop_input(self) -> None:
        if self._stdin is not None and self._input_open:
            self._input_open = False
            self._loop.forget(self._stdin)

    def _typed(self, events: int) -> None:
        assert self._stdin is not None
        try:
            data = os.read(self._stdin, CHUNK)
        except OSError:
            data = b""  # the terminal is gone
        if not data:
            self._stop_input()
        elif self._keys is None:
            self._outgoing += data
        else:
            kept, self.detached = self._keys.filter(data)
            self._outgoing += kept
            if self.detached:
                self._send()
                self._finish()
                return
        self._send()

    def _send(self) -> None:
        """Send what fits; while some is left, wait for room and read no more input."""
        if self._outgoing:
            self._connection.sock.setblocking(False)
            sent = self._connection.send_some(self._outgoing)
            self._connection.sock.setblocking(True)
            self._outgoing = b"" if sent < 0 else self._outgoing[sent:]
            if sent < 0:
                self._stop_input()
        if self.finished:
            return
        self._loop.watch(self._connection.fileno(), READ | WRITE if self._outgoing else READ, self._ready)
        if self._stdin is None:
            return
        if self._input_open:
            if self._outgoing:
                self._loop.forget(self._stdin)
            else:
                self._loop.watch(self._stdin, READ, self._typed)
        elif not self._outgoing:
            self._connection.half_close()


def copy_frames(response: "object", tty: bool) -> None:
    """A log's body to our stdout and stderr."""
    from cutaway.cli.http import Response

    assert isinstance(response, Response)
    frames = None if tty else Frames()
    while data := response.read(CHUNK):
        if frames is None:
            write(1, data)
        else:
            frames.feed(data)
