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


class Frame(NamedTuple):
    stream: int
    kind: int
    payload: bytes


def pack(frame: Frame) -> bytes:
    """Raises `InvalidArgument` for a payload over ttrpc's 4 MiB."""
    if len(frame.payload) > MAX_PAYLOAD:
        raise InvalidArgument(
            f"message of {len(frame.payload)} bytes exceeds ttrpc's maximum of {MAX_PAYLOAD}"
        )
    return HEADER.pack(len(frame.payload), frame.stream, frame.kind, 0) + frame.payload


async def read(reader: asyncio.StreamReader) -> Frame | None:
    """The next message, None at the end. Raises `InvalidArgument` for one that is too large."""
    try:
        length, stream, kind, _ = HEADER.unpack(await reader.readexactly(HEADER.size))
        if length > MAX_PAYLOAD:
            raise InvalidArgument(f"peer announces {length} bytes; ttrpc's maximum is {MAX_PAYLOAD}")
        return Frame(stream, kind, await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
