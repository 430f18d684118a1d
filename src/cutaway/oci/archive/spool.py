"""A stream of unknown length put into a file without a name, decompressed if it was compressed.

The file is gone with its descriptor, so nothing stays behind, however we end. What comes out of a
compressed stream is bounded: by what it may grow to, and by the room that is left on the disk.
"""

from __future__ import annotations

import asyncio
import bz2
import gzip
import lzma
import os
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import zstandard

from cutaway import errors

PIECE: Final = 1 << 20  # bytes
FREE_FLOOR: Final = 256 << 20  # bytes of the disk that are left to others
FREE_GROWTH: Final = 4 << 30  # bytes that any stream may grow to
RATIO: Final = 250  # beyond that, no real layers are packed so densely
MAGIC_SIZE: Final = 6

_DAMAGE: Final = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
_MAGIC: Final = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


def compression_of(head: bytes) -> str:
    """How a stream that begins so is compressed: gzip, bzip2, xz, zstd, or "" for not at all."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "")


async def spooled(pieces: AsyncIterator[bytes], folder: Path | None) -> BinaryIO:
    """All of a stream in a file at its beginning, to be closed by the caller; decompressed.

    `folder` says on which file system; None for the system's own for such things. Raises
    `ResourceExhausted` for a full disk or a bomb, `InvalidArgument` for a damaged stream.
    """
    raw = await spooled_raw(pieces, folder)
    try:
        return await asyncio.to_thread(expanded, raw, folder)
    except BaseException:
        raw.close()
        raise


async def spooled_raw(pieces: AsyncIterator[bytes], folder: Path | None) -> BinaryIO:
    """All of a stream in a file at its beginning, as it is."""
    file: BinaryIO = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (the caller's)
    try:
        gathered = bytearray()
        async for piece in pieces:
            gathered += piece
            if len(gathered) >= PIECE:
                await asyncio.to_thread(_write, file, bytes(gathered))
                gathered.clear()
        await asyncio.to_thread(_write, file, bytes(gathered))
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def expanded(raw: BinaryIO, folder: Path | None) -> BinaryIO:
    """The decompressed content of a file, which is closed; the file itself if it is not compressed."""
    raw.seek(0)
    kind = compression_of(raw.read(MAGIC_SIZE))
    raw.seek(0)
    if not kind:
        return raw
    file: BinaryIO = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (the caller's)
    try:
        for piece in decompressed(raw, kind):
            _write(file, piece)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    raw.close()
    return file


def decompressed(raw: BinaryIO, kind: str, limit: int = 0) -> Any:
    """Iterate over what a compressed file holds. Raises `InvalidArgument` and `ResourceExhausted`."""
    most = limit or max(FREE_GROWTH, RATIO * os.fstat(raw.fileno()).st_size)
    total = 0
    try:
        reader = _OPENERS[kind](raw)
        while piece := reader.read(PIECE):
            total += len(piece)
            if total > most:
                raise errors.ResourceExhausted(f"{kind} stream grows beyond {most} bytes: refused")
            yield piece
    except _DAMAGE as error:
        raise errors.InvalidArgument(f"damaged {kind} stream: {error}") from None


class Decompressed:
    """What a compressed stream holds, read as it comes in, without bounds."""

    def __init__(self, raw: Readable, kind: str) -> None:
        self._kind = kind
        self._reader = _OPENERS[kind](raw)

    def read(self, size: int = -1, /) -> bytes:
        """Raises `InvalidArgument` for a damaged stream."""
        try:
            return self._reader.read(size)
        except _DAMAGE as error:
            raise errors.InvalidArgument(f"damaged {self._kind} stream: {error}") from None


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def _zstd(raw: Any) -> Readable:
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    return decompressor.stream_reader(raw, read_across_frames=True, closefd=False)


def _gzip(raw: Any) -> Readable:
    return gzip.GzipFile(fileobj=raw, mode="rb")


_OPENERS: Final[dict[str, Callable[[Any], Readable]]] = {
    "gzip": _gzip,
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zstd": _zstd,
}


def _write(file: BinaryIO, data: bytes) -> None:
    """Write all of it, as long as there is room for others, too."""
    if not data:
        return
    room = os.fstatvfs(file.fileno())
    if room.f_bavail * room.f_frsize < FREE_FLOOR + len(data):
        raise errors.ResourceExhausted("no space left on the disk for the archive")
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
