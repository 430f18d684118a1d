"""A layer's stream compressed, hashed on both sides, and put into a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import zstandard
from isal import isal_zlib

from cutaway.errors import Unimplemented

OCI = "application/vnd.oci.image.layer.v1.tar"
DOCKER = "application/vnd.docker.image.rootfs.diff.tar"

_GZIP_WBITS = 31  # zlib's sum of 15 bits of window and 16 for a gzip header
_LEVEL = 2


@dataclass(frozen=True, slots=True)
class Packed:
    """A layer as it lies in a file."""

    diff_id: str
    digest: str
    size: int


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(media_type: str) -> _Compressor:
    """Raises `Unimplemented` for a media type that is no layer's."""
    if media_type in (OCI, DOCKER):
        return _Plain()
    if media_type in (f"{OCI}+gzip", f"{DOCKER}.gzip"):
        gzip: _Compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP_WBITS)
        return gzip
    if media_type in (f"{OCI}+zstd", f"{DOCKER}.zstd"):
        zstd: _Compressor = zstandard.ZstdCompressor().compressobj()
        return zstd
    raise Unimplemented(f"unsupported diff media type: {media_type}: not implemented")


def pack(parts: Iterable[bytes], media_type: str, fd: int) -> Packed:
    """Write a stream to a file. Blocks. Raises `OSError`, `Unimplemented`."""
    squeeze = compressor(media_type)
    plain, packed, size = hashlib.sha256(), hashlib.sha256(), 0
    for part in parts:
        plain.update(part)
        size += _write(fd, squeeze.compress(part), packed)
    size += _write(fd, squeeze.flush(), packed)
    return Packed(f"sha256:{plain.hexdigest()}", f"sha256:{packed.hexdigest()}", size)


def _write(fd: int, data: bytes, digest: hashlib._Hash) -> int:
    digest.update(data)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return len(data)
