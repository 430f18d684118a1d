"""Frames: a ten-byte header and a payload.

    0        4            8      9       10
    | length | stream id  | type | flags | payload ...     all big-endian

Streams of a client are odd and ascend by two. Types: 1 request, 2 response, 3 data (streams only).
"""

import struct

MAX_PAYLOAD = 4 << 20

REQUEST = 1
RESPONSE = 2
DATA = 3

_HEADER = struct.Struct(">IIBB")


class Frame:
    """One message. `dropped` is the length of a payload over the limit, which was skipped."""

    __slots__ = ("dropped", "flags", "kind", "payload", "stream")

    def __init__(self, stream: int, kind: int, payload: bytes, flags: int = 0, dropped: int = 0) -> None:
        self.stream = stream
        self.kind = kind
        self.flags = flags
        self.payload = payload
        self.dropped = dropped

    def encode(self) -> bytes:
        return _HEADER.pack(len(self.payload), self.stream, self.kind, self.flags) + self.payload


class Decoder:
    """Bytes in, frames out. Never holds more than one payload of the largest size."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes.

        A frame over the limit comes out as soon as its header is known, with an empty payload; its
        payload is skipped as it arrives, so that the connection stays usable, as ttrpc's is.
        """
        frames: list[Frame] = []
        self._buffer += data
        while self._discard() and len(self._buffer) >= _HEADER.size:
            length, stream, kind, flags = _HEADER.unpack_from(self._buffer)
            if length > MAX_PAYLOAD:
                frames.append(Frame(stream, kind, b"", flags, length))
                self._skip = _HEADER.size + length
                continue
            end = _HEADER.size + length
            if len(self._buffer) < end:
                break
            frames.append(Frame(stream, kind, bytes(self._buffer[_HEADER.size : end]), flags))
            del self._buffer[:end]
        return frames

    def _discard(self) -> bool:
        """Drop what is to be skipped; True when nothing more is."""
        part = min(self._skip, len(self._buffer))
        if part:
            del self._buffer[:part]
            self._skip -= part
        return not self._skip
