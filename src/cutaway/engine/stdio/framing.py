"""Docker's framing of two streams in one: an 8-byte header before every piece.

byte 0: stream (0 stdin, 1 stdout, 2 stderr)   bytes 1-3: zero   bytes 4-7: length, big-endian
"""

from __future__ import annotations

import struct
from typing import Final

STDOUT: Final = 1
STDERR: Final = 2
NAMES: Final = {STDOUT: "stdout", STDERR: "stderr"}

_HEADER: Final = struct.Struct(">BxxxI")


def frame(stream: int, data: bytes) -> bytes:
    """One piece of output with its header."""
    return _HEADER.pack(stream, len(data)) + data
