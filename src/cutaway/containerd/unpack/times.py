"""Times of directories, kept until nothing changes them any more.

A layer may have millions of directories, also millions of times the same one, so they are kept in a file:
in memory as long as it is small.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from struct import Struct

_IN_MEMORY = 1 << 20

_RECORD = Struct("=qqH")  # access, modification, bytes of the path: PATH_MAX fits


class DirectoryTimes:
    """Paths with their times, in the order they came."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed by close

    def close(self) -> None:
        self._file.close()

    def add(self, path: bytes, atime: int, mtime: int) -> None:
        """Times are in nanoseconds since the epoch."""
        self._file.write(_RECORD.pack(atime, mtime, len(path)) + path)

    def all(self) -> Iterator[tuple[bytes, int, int]]:
        """Everything that was added."""
        self._file.seek(0)
        while head := self._file.read(_RECORD.size):
            atime, mtime, length = _RECORD.unpack(head)
            yield self._file.read(length), atime, mtime
