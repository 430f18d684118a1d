"""Sparse files in tar: which parts of a file are stored. GNU tar's manual, "Storing Sparse Files".

A map is a list of (offset, length) in rising order; what it leaves out are zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

from cutaway.containerd.unpack.header import BLOCK, number, pax_number
from cutaway.containerd.unpack.streams import Stream
from cutaway.errors import DataLoss, InvalidArgument

Segments = list[tuple[int, int]]

# Of one file; each costs a seek and a write.
MAX_SEGMENTS = 1 << 20


def old_gnu(stream: Stream, block: bytes) -> tuple[Segments, int]:
    """Type S: four segments in the header, more in blocks that follow it. Also the file's real size."""
    segments = _fields(block, 386, 4)
    extended = block[482] != 0
    while extended:
        more = stream.read(BLOCK)
        if len(more) < BLOCK:
            raise DataLoss("layer is truncated in the map of a sparse file")
        segments += _fields(more, 0, 21)
        extended = more[504] != 0
        _bound(segments)
    return segments, number(block[483:495])


def _fields(block: bytes, start: int, count: int) -> Segments:
    found = []
    for at in range(start, start + 24 * count, 24):
        if not block[at]:
            break
        found.append((number(block[at : at + 12]), number(block[at + 12 : at + 24])))
    return found


def from_pairs(values: list[bytes]) -> Segments:
    """pax formats 0.0 and 0.1: offset, length, offset, length ... in records."""
    if len(values) % 2:
        raise InvalidArgument("layer is no tar file: the map of a sparse file is incomplete")
    numbers = [pax_number(value) for value in values]
    segments = list(zip(numbers[::2], numbers[1::2], strict=True))
    _bound(segments)
    return segments


def from_data(stream: Stream) -> tuple[Segments, int]:
    """pax format 1.0: lines of numbers before the data, filled up to a block. Also the bytes they take."""
    start, text = stream.position, b""
    count, need = -1, 1
    while text.count(b"\n") < need:
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise DataLoss("layer is truncated in the map of a sparse file")
        text += block
        if count < 0 and b"\n" in text:
            count = pax_number(text.split(b"\n", 1)[0])
            need = 1 + 2 * count
            if not 0 <= count <= MAX_SEGMENTS:
                raise InvalidArgument("layer is no tar file: the map of a sparse file is out of range")
        if len(text) > 40 * (need + BLOCK):
            raise InvalidArgument("layer is no tar file: the map of a sparse file is out of range")
    return from_pairs(text.split(b"\n")[1:need]), stream.position - start


def kind_of_pax(pax: Mapping[bytes, bytes]) -> str:
    """Which pax format describes this file: "", "0" or "1.0"."""
    if pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0":
        return "1.0"
    return "0" if b"GNU.sparse.map" in pax or b"GNU.sparse.numblocks" in pax else ""


def validate(segments: Segments, size: int, stored: int) -> None:
    """Raises `InvalidArgument` unless a map lies within the file, rises, and needs just what is stored."""
    at, total = 0, 0
    for offset, length in segments:
        if offset < at or length < 0 or offset + length > size:
            raise InvalidArgument("layer is no tar file: the map of a sparse file does not fit it")
        at = offset + length
        total += length
    if total != stored:
        raise InvalidArgument("layer is no tar file: the map of a sparse file does not fit its data")


def _bound(segments: Segments) -> None:
    if len(segments) > MAX_SEGMENTS:
        raise InvalidArgument(f"layer has a sparse file with more than {MAX_SEGMENTS} segments")
