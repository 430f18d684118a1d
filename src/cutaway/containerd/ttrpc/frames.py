"""One ttrpc message: ten bytes of header (length, stream, type, flags; big-endian), then the payload."""

from __future__ import annotations

import asyncio
import struct
from typing import NamedTuple

from cutaway.errors import InvalidArgument

HEADER = struct.Struct(">IIBB")
MAX_PAYLOAD = 4 << 20

REQUEST = 1
RESPONSE = 2

_CHUNK = 1 << 16


class Frame(NamedTuple):
    stream: int
    kind: int
    payload: bytes
    oversize: int = 0
    """Of a received message that is too large and was skipped: its length. The payload is then empty."""

    @property
    def complaint(self) -> str:
        """What is wrong with an oversized message, as ttrpc says it."""
        return f"message length {self.oversize} exceed maximum message size of {MAX_PAYLOAD}"


def pack(frame: Frame) -> bytes:
    """Raises `InvalidArgument` for a payload over ttrpc's 4 MiB."""
    if len(frame.payload) > MAX_PAYLOAD:
        raise InvalidArgument(
            f"message of {len(frame.payload)} bytes exceeds ttrpc's maximum of {MAX_PAYLOAD}"
        )
    return HEADER.pack(len(frame.payload), frame.stream, frame.kind, 0) + frame.payload


async def read(reader: asyncio.StreamReader) -> Frame | None:
    """The next message, None at the end, even in the middle of one.

    A message over 4 MiB costs the one call it belongs to, not the connection.
    """
    try:
        length, stream, kind, _ = HEADER.unpack(await reader.readexactly(HEADER.size))
        if length > MAX_PAYLOAD:
            await _skip(reader, length)
            return Frame(stream, kind, b"", oversize=length)
        return Frame(stream, kind, await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def _skip(reader: asyncio.StreamReader, length: int) -> None:
    while length:
        length -= len(await reader.readexactly(min(length, _CHUNK)))
