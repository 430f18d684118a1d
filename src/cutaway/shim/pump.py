"""Copying from one descriptor to another, in the loop.

A pump reads when there is something to read and the last piece has been taken; it waits for the
reader as long as it likes. It ends at the source's end, or when nobody can take what it has.
"""

import os

from cutaway.shim.loop import READ, WRITE, Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.shim.loop import Loop

_CHUNK = 64 << 10  # a pipe's capacity


class Pump:
    """Copies from `source`, which it closes at the end, to `sink`, which it leaves to its owner.

    Both must be non-blocking if they can be polled; a sink that cannot (a regular file) never blocks.
    """

    def __init__(self, loop: "Loop", source: int, sink: int) -> None:
        self._loop = loop
        self._source = source
        self._sink = sink
        self._piece = b""
        self.ended = Event()
        loop.watch(source, READ, self._readable)

    def stop(self) -> None:
        """End now; what has been read and not written is lost."""
        if self.ended.is_set:
            return
        self._loop.forget(self._source)
        self._loop.forget(self._sink)
        os.close(self._source)
        self.ended.set()

    def drain(self) -> None:
        """Read what is there now, without waiting for readiness to be reported."""
        if not self.ended.is_set and not self._piece:
            self._readable(READ)

    def _readable(self, _: int) -> None:
        try:
            self._piece = os.read(self._source, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: the terminal's other side is closed, its kind of end
            self._piece = b""
        if self._piece:
            self._write()
        else:
            self.stop()

    def _writable(self, _: int) -> None:
        self._loop.forget(self._sink)
        self._write()
        if not self._piece and not self.ended.is_set:
            self._loop.watch(self._source, READ, self._readable)

    def _write(self) -> None:
        while self._piece:
            try:
                written = os.write(self._sink, self._piece)
            except BlockingIOError:
                self._loop.forget(self._source)
                self._loop.watch(self._sink, WRITE, self._writable)
                return
            except OSError:  # EPIPE: the container has closed its stdin; ENOSPC: the log's disk is full
                self.stop()
                return
            self._piece = self._piece[written:]
