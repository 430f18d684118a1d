"""Which parts of a sparse entry are stored: GNU tar's manual, "Storing Sparse Files".

A map is a list of (offset, length) in rising order; what it leaves out are zeros.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping
from typing import Final

from cutaway.errors import InvalidArgument

Segments = list[tuple[int, int]]
Read = Callable[[int], bytes]
"""Reads just as many bytes of the stream, or raises."""

MAX_SEGMENTS: Final = 1 << 16
_BLOCK: Final = tarfile.BLOCKSIZE
_REFUSED: Final = "archive/tar: invalid sparse map"


def old_gnu(block: bytes, read: Read) -> tuple[Segments, int]:
    """Type S: four segments in the header, more in blocks that follow it. Also the file's real size."""
    segments, more = _fields(block, 386, 4), block[482] != 0
    while more:
        extension = read(_BLOCK)
        segments += _fields(extension, 0, 21)
        more = extension[504] != 0
        if len(segments) > MAX_SEGMENTS:
            raise InvalidArgument(_REFUSED)
    return segments, _octal(block[483:495])


def _fields(block: bytes, start: int, count: int) -> Segments:
    found = []
    for at in range(start, start + 24 * count, 24):
        if not block[at]:
            break
        found.append((_octal(block[at : at + 12]), _octal(block[at + 12 : at + 24])))
    return found


def _octal(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return int(field.split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        raise InvalidArgument(_REFUSED) from None


def is_pax(records: Mapping[str, str]) -> bool:
    """Whether an entry's records make it a sparse file."""
    return "GNU.sparse.map" in records or records.get("GNU.sparse.major") == "1"


def of_pax(records: Mapping[str, str], read: Read) -> tuple[Segments, int, int]:
    """Formats 0.1 and 1.0: segments, the file's real size, and how many bytes of data the map took."""
    size = _number(records.get("GNU.sparse.realsize") or records.get("GNU.sparse.size") or "0")
    if "GNU.sparse.map" in records:
        words = records["GNU.sparse.map"].split(",")
        return _pairs([_number(word) for word in words if word]), size, 0
    text, taken = b"", 0
    wanted = 1
    while text.count(b"\n") < wanted:
        text += read(_BLOCK)
        taken += _BLOCK
        if wanted == 1 and b"\n" in text:
            count = _number(text.split(b"\n", 1)[0].decode("ascii", "replace"))
            if count > MAX_SEGMENTS:
                raise InvalidArgument(_REFUSED)
            wanted = 1 + 2 * count
        if taken > 64 * (wanted + _BLOCK):
            raise InvalidArgument(_REFUSED)
    lines = text.decode("ascii", "replace").split("\n")[1:wanted]
    return _pairs([_number(line) for line in lines]), size, taken


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise InvalidArgument(_REFUSED)
    return int(text)


def _pairs(numbers: list[int]) -> Segments:
    if len(numbers) % 2 or len(numbers) > 2 * MAX_SEGMENTS:
        raise InvalidArgument(_REFUSED)
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def check(segments: Segments, size: int, stored: int) -> None:
    """Raise `InvalidArgument` unless a map lies within the file, rises, and needs just what is stored."""
    at = total = 0
    for offset, length in segments:
        if offset < at or offset + length > size:
            raise InvalidArgument(_REFUSED)
        at = offset + length
        total += length
    if total != stored:
        raise InvalidArgument(_REFUSED)
