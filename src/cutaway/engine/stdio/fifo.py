"""The engine's ends of the FIFOs through which a shim speaks.

The engine makes them (0700, in a folder of the container's), opens its ends without blocking and before
the shim opens its own. A FIFO's reader sees an end of file only after a writer has come and gone, and
containerd's shims hold a reading end as well, so a daemon that is restarted finds the pipe and what is
in it as they were (seams.md, trap 19).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cutaway.errors import Unavailable

_CHUNK: Final = 65536


def make(path: Path) -> None:
    """Make a FIFO; one that a crash left is replaced, since it may hold another process's bytes."""
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o700)


class Reader:
    """Reads one FIFO as it fills and hands the bytes on; `on_end` is called once, at its end of file."""

    def __init__(self, path: Path, on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._on_data = on_data
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._reading = False
        self.resume()

    def resume(self) -> None:
        if self._fd >= 0 and not self._reading:
            self._loop.add_reader(self._fd, self._ready)
            self._reading = True

    def pause(self) -> None:
        """Leave what comes in the pipe; once that is full, the writer waits."""
        if self._reading:
            self._loop.remove_reader(self._fd)
            self._reading = False

    def _ready(self) -> None:
        data = self._read()
        if data:
            self._on_data(data)
        elif data == b"":
            self.close()

    def _read(self) -> bytes | None:
        """What is there; b"" at the end, None if there is nothing now."""
        try:
            return os.read(self._fd, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return None

    def take(self) -> None:
        """Take out what is in the pipe now, without waiting for more; close it if there is no writer.

        For after the process's end only: before, the writer may be yet to come. No event tells of the
        end of a FIFO whose writers were gone before it was opened (fifo(7)), hence this look.
        """
        while self._fd >= 0 and (data := self._read()) is not None:
            if not data:
                self.close()
                return
            self._on_data(data)

    def drain(self) -> None:
        """Take out what is in the pipe now, and close it whether or not more would come."""
        self.take()
        self.close()

    def close(self) -> None:
        if self._fd < 0:
            return
        self.pause()
        os.close(self._fd)
        self._fd = -1
        self._on_end()


class Writer:
    """Writes into a process's stdin. It can be written to before it is open: the writer waits.

    The FIFO is opened for reading as well: that end keeps a write before the shim has opened its own
    from failing, and is why a full pipe of a dead shim is noticed by `close`, which the exit calls.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._opened = asyncio.Event()
        self._closed = False
        self.end_wanted = False
        """Whether a client has ended the input, which it may do before the process has begun."""

    def open(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._closed = False
        self._opened.set()

    async def write(self, data: bytes) -> None:
        """Write it all, waiting while the pipe is full. Raises `Unavailable` once it is closed."""
        view = memoryview(data)
        while view:
            await self._opened.wait()
            if self._closed:
                raise Unavailable("the process's standard input is closed")
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._writable()

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        descriptor = self._fd
        loop.add_writer(descriptor, _resolve, ready)
        self._waiting = ready
        try:
            await ready
        finally:
            if self._fd == descriptor:
                loop.remove_writer(descriptor)

    _waiting: asyncio.Future[None] | None = None

    def close(self) -> None:
        """Close our end; whoever waits in `write` is told."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._closed = True
        self._opened.set()
        if self._waiting is not None:
            _resolve(self._waiting)

    def renew(self) -> None:
        """Ready to be opened for another run of the container."""
        self.close()
        self._closed = False
        self.end_wanted = False
        self._opened.clear()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
