"""Bytes over a stream: data one way, and leave to send more of it (a window) the other way.

Source: containerd's docs/transfer.md ("Streaming") and core/transfer/streaming.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from cutaway.containerd.transfer.streams import Stream, unpacked
from cutaway.errors import Cancelled
from cutaway.pb.transfer_types_pb2 import Data, WindowUpdate

MAX_DATA: Final = 32 << 10  # bytes in one message
WINDOW: Final = 2 * MAX_DATA


async def received(stream: Stream) -> AsyncIterator[bytes]:
    """All bytes that the client sends. Raises `Cancelled` when it goes away in between."""
    window = 0
    while True:
        if window < WINDOW:
            await stream.send(WindowUpdate(update=WINDOW))
            window += WINDOW
        message = await stream.receive()
        if message is None:
            return
        # Whatever else there may be in newer versions is passed over, as containerd does.
        data = unpacked(message, Data)
        if data is not None:
            window -= len(data.data)
            yield data.data


class Sender:
    """Sends bytes as fast as the client gives leave to."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._window = 0

    async def write(self, data: bytes) -> None:
        """Raises `Cancelled` when the client goes away, or ends its side before it has all."""
        view = memoryview(data)
        while view:
            while self._window <= 0:
                await self._widen()
            part = view[: min(MAX_DATA, self._window)]
            await self._stream.send(Data(data=bytes(part)))
            self._window -= len(part)
            view = view[len(part) :]

    async def _widen(self) -> None:
        message = await self._stream.receive()
        if message is None:
            raise Cancelled("stream was closed by the client")
        update = unpacked(message, WindowUpdate)
        if update is not None:
            self._window += max(0, update.update)
