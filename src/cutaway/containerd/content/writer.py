"""One blob being written: a file and its running digest. Blocks; used from one thread at a time."""

from __future__ import annotations

import ctypes
import hashlib
import os
import time

from cutaway.containerd.content.files import Files
from cutaway.containerd.metadata.blobs import Ingest
from cutaway.faults import point

_CHUNK = 1 << 20

# How much is left to the kernel before it is told to begin writing.
_WINDOW = 8 << 20
_SYNC_FILE_RANGE_WRITE = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

EMPTY = "sha256:" + hashlib.sha256().hexdigest()


class Writer:
    """Bytes are only ever appended, or all thrown away."""

    def __init__(self, files: Files, ingest: Ingest) -> None:
        """Open an ingest and, if a part of it is there, take it into the digest."""
        self.ingest = ingest
        self._written = False
        self._files = files
        self._fd = files.open_ingest(ingest.folder, ingest.namespace, ingest.ref)
        try:
            self._hash, self.offset = _hash_of(self._fd)
            self._handed_over = self.offset
            self.updated = os.fstat(self._fd).st_mtime_ns
            """When the last byte came, in nanoseconds since the epoch."""
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def digest(self) -> str:
        """Of the bytes so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes) -> None:
        self.updated, self._written = time.time_ns(), True
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, self.offset)
            point("containerd.content.written")
            self._hash.update(view[:written])
            self.offset += written
            view = view[written:]
        if self.offset - self._handed_over >= _WINDOW:
            self._begin_writing()

    def _begin_writing(self) -> None:
        """Have the kernel write out what it has, so that the sync at the end finds little left to do.

        No more than a hint: it may fail, and the sync is what counts (sync_file_range(2), Linux 2.6.17).
        """
        length = self.offset - self._handed_over
        _libc.sync_file_range(self._fd, self._handed_over, length, _SYNC_FILE_RANGE_WRITE)
        self._handed_over = self.offset

    def copy_from(self, source: int, size: int) -> None:
        """Take over bytes from another file."""
        while self.offset < size and (data := os.pread(source, min(_CHUNK, size - self.offset), self.offset)):
            self.write(data)

    def truncate(self) -> None:
        point("containerd.content.before-truncate")
        os.ftruncate(self._fd, 0)
        self._hash, self.offset, self._handed_over = hashlib.sha256(), 0, 0

    def sync(self) -> None:
        """Put the bytes on the disk."""
        point("containerd.content.before-sync")
        os.fsync(self._fd)
        point("containerd.content.synced")

    def close(self) -> None:
        if self._fd >= 0:
            if self._written:
                # The kernel stamps files with the time of its last tick; clients find that too early.
                os.utime(self._fd, ns=(self.updated, self.updated))
            os.close(self._fd)
            self._fd = -1


def _hash_of(fd: int) -> tuple[hashlib._Hash, int]:
    found, offset = hashlib.sha256(), 0
    while data := os.pread(fd, _CHUNK, offset):
        found.update(data)
        offset += len(data)
    return found, offset
