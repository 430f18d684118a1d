"""A layer's bytes: decompressed, counted and hashed on their way to the tar reader.

How a layer is compressed is seen from its first bytes, as containerd does; media types lie.

Decompressing and hashing are done by a thread of their own, some chunks ahead of the reader: both leave
the interpreter's lock alone, so the reader makes its files meanwhile on another processor.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import cast

import zstandard
from isal import isal_zlib
from isal.igzip_lib import IsalError

from cutaway.containerd.unpack.ahead import Ahead
from cutaway.errors import DataLoss, InvalidArgument

_GzipError = cast(type[Exception], IsalError)

# What is decompressed at a time stays in a processor's cache until it is hashed and written.
_CHUNK = 256 << 10
_SMALL = 64 << 10
_GZIP = b"\x1f\x8b\x08"
_ZSTD = b"\x28\xb5\x2f\xfd"
# At most 16 MiB come of so many bytes.
_ZSTD_STEP = 1 << 9
_GZIP_WBITS = 31  # zlib's sum of 15 bits of window and 16 for a gzip header


class Stream:
    """Reads a layer once from front to back."""

    def __init__(self, fd: int, check: Callable[[int, int], None] = lambda _out, _in: None) -> None:
        """`fd` is the blob's; `check` is told uncompressed and compressed bytes so far and may raise."""
        self._hash = hashlib.sha256()
        self._ahead = Ahead(_digested(_Source(fd), self._hash, check))
        self._buffer = b""
        self._at = 0
        self.count = 0

    def close(self) -> None:
        """End the thread, whatever is left to read. After this the descriptor may be closed."""
        self._ahead.close()

    def read(self, size: int) -> bytes:
        """Exactly so many bytes, or fewer at the end."""
        if self._at + size <= len(self._buffer):
            self._at += size
            return self._buffer[self._at - size : self._at]
        parts, wanted = [], size
        while wanted and (part := self.some(wanted)):
            parts.append(bytes(part))
            wanted -= len(part)
        return b"".join(parts)

    @property
    def position(self) -> int:
        """How many bytes have been read so far."""
        return self.count - len(self._buffer) + self._at

    def skip(self, size: int) -> bool:
        """Pass over so many bytes; False if there are not so many."""
        while size:
            found = len(self.some(size))
            if not found:
                return False
            size -= found
        return True

    def some(self, limit: int) -> memoryview:
        """The next bytes, at most so many, without copying them; empty at the end."""
        if self._at == len(self._buffer) and not self._fill():
            return memoryview(b"")
        end = min(len(self._buffer), self._at + limit)
        found = memoryview(self._buffer)[self._at : end]
        self._at = end
        return found

    def finish(self) -> str:
        """Read what is left and return the digest of all bytes, which is the layer's DiffID."""
        self._at = len(self._buffer)
        while self._fill():
            self._at = len(self._buffer)
        return f"sha256:{self._hash.hexdigest()}"

    def _fill(self) -> bool:
        self._buffer, self._at = self._ahead.next(), 0
        self.count += len(self._buffer)
        return bool(self._buffer)


class _Source:
    """The blob as it lies on the disk, read with a position of its own."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.at = 0

    def peek(self, size: int) -> bytes:
        return os.pread(self._fd, size, self.at)

    def read(self, size: int = _CHUNK) -> bytes:
        data = os.pread(self._fd, size, self.at)
        self.at += len(data)
        return data


def _digested(source: _Source, digest: hashlib._Hash, check: Callable[[int, int], None]) -> Iterator[bytes]:
    """What a layer is, in chunks that are not small."""
    count = 0
    parts: list[bytes] = []
    size = 0
    for part in _decompressed(source):
        count += len(part)
        check(count, source.at)
        digest.update(part)
        parts.append(part)
        size += len(part)
        if size >= _SMALL:
            yield parts[0] if len(parts) == 1 else b"".join(parts)
            parts, size = [], 0
    yield b"".join(parts)


def _decompressed(source: _Source) -> Iterator[bytes]:
    start = source.peek(8)
    if start.startswith(_GZIP):
        return _gunzip(source)
    # RFC 8878, 3.1.2: a skippable frame may come first.
    if start.startswith(_ZSTD) or (len(start) == 8 and start[1:4] == b"\x2a\x4d\x18" and start[0] >> 4 == 5):
        return _unzstd(source)
    if start.startswith((b"BZh", b"\xfd7zXZ\0")):
        raise InvalidArgument("layer is compressed with bzip2 or xz, which image layers may not be")
    return iter(source.read, b"")


def _gunzip(source: _Source) -> Iterator[bytes]:
    """All members, one after the other (RFC 1952, 2.2). Zeros at the end are padding."""
    data = source.read()
    while data.strip(b"\0"):
        member, out = isal_zlib.decompressobj(wbits=_GZIP_WBITS), b""
        while not member.eof:
            # After a full chunk there may be more to come of what was put in before.
            if not data and len(out) < _CHUNK:
                data = source.read()
                if not data:
                    raise DataLoss("layer is truncated: its gzip stream ends before its end")
            try:
                out = member.decompress(data, _CHUNK)
            except _GzipError as error:
                raise DataLoss(f"layer is damaged: gzip: {error}") from None
            data = member.unconsumed_tail
            if out:
                yield out
        data = member.unused_data or source.read()


def _unzstd(source: _Source) -> Iterator[bytes]:
    """All frames, one after the other (RFC 8878, 3.1).

    Fed with little at a time, because a few bytes can stand for a block of 128 KiB and what comes out of
    one step cannot be bounded. The library's own reader can, but takes a stream that ends early for whole.
    """
    data = b""
    while data or (data := source.read(_ZSTD_STEP)):
        frame = zstandard.ZstdDecompressor().decompressobj()
        while not frame.eof:
            if not data and not (data := source.read(_ZSTD_STEP)):
                raise DataLoss("layer is truncated: its zstd stream ends before its end")
            try:
                out = frame.decompress(data)
            except zstandard.ZstdError as error:
                raise DataLoss(f"layer is damaged: {error}") from None
            data = frame.unused_data
            if out:
                yield out
