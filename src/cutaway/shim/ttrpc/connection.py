"""A connected socket in the loop: frames in, frames out, never blocking."""

import os

from cutaway.shim.loop import BROKEN, READ, WRITE
from cutaway.shim.ttrpc.frame import Decoder, Frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cutaway.shim.loop import Loop

_CHUNK = 64 << 10
# A peer that sends requests and never reads the replies gets this far and no further.
_MAX_UNSENT = 16 << 20


class Connection:
    """Owns the descriptor. `on_frame` gets what arrives; `on_close` is called once, at the end."""

    def __init__(
        self, loop: "Loop", fd: int, on_frame: "Callable[[Frame], None]", on_close: "Callable[[], None]"
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._on_frame = on_frame
        self._on_close = on_close
        self._decoder = Decoder()
        self._unsent = bytearray()
        os.set_blocking(fd, False)
        loop.watch(fd, READ, self._ready)

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def send(self, frame: Frame) -> None:
        """Send now what the socket takes and the rest when it takes more."""
        if not self.is_open:
            return
        idle = not self._unsent
        self._unsent += frame.encode()
        if len(self._unsent) > _MAX_UNSENT:
            self.close()
        elif idle:
            self._flush()

    def close(self) -> None:
        if not self.is_open:
            return
        self._loop.forget(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._on_close()

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if self.is_open and events & (READ | BROKEN):
            self._read()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for frame in self._decoder.feed(data):
            if self.is_open:
                self._on_frame(frame)

    def _flush(self) -> None:
        try:
            sent = os.write(self._fd, self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._unsent[:sent]
        self._loop.change(self._fd, READ | WRITE if self._unsent else READ)
