"""One 512-byte block of a tar file as fields, and pax records as a table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from zlib import adler32

from cutaway.errors import InvalidArgument

BLOCK = 512
_MAX_NUMBER = 1 << 62
# Name, mode, owner, group, size, time, sum, type, link, magic, (version, names of owner and group,) device
# numbers, prefix.
_FIELDS = Struct("100s8s8s8s12s12s8s1s100s6s66x8s8s155s12x").unpack


@dataclass(slots=True)
class Header:
    """The block's fields; numbers are not yet checked for sense."""

    block: bytes
    name: bytes
    kind: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    major: int
    minor: int


def parse(block: bytes) -> Header:
    """Raises `InvalidArgument` for a wrong checksum or a field that is no number."""
    (name, mode, uid, gid, size, mtime, wanted, kind, link, magic, major, minor, prefix) = _FIELDS(block)
    _check_sum(block, number(wanted))
    name = text(name)
    if magic == b"ustar\0":
        # star keeps times in the last part of the prefix and says so at the end of the block.
        prefix = text(prefix[:131] if block[508:512] == b"tar\0" else prefix)
        name = prefix + b"/" + name if prefix else name
    known = magic[:5] == b"ustar"
    return Header(
        block=block,
        name=name,
        kind=kind,
        link=text(link),
        mode=number(mode),
        uid=number(uid),
        gid=number(gid),
        size=number(size),
        mtime=number(mtime),
        major=number(major) if known else 0,
        minor=number(minor) if known else 0,
    )


def _check_sum(block: bytes, wanted: int) -> None:
    """The sum of all bytes, with the sum's own field as spaces; old writers added signed bytes."""
    if block.isascii():
        # Adler's first sum begins with 1 and wraps at 65521, which 512 bytes below 128 do not reach.
        unsigned = (adler32(block) & 0xFFFF) - 1 - sum(block[148:156]) + 8 * 0x20
    else:
        unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    if wanted == unsigned:
        return
    rest = block[:148] + block[156:]
    if wanted != unsigned - 256 * sum(byte > 127 for byte in rest):
        raise InvalidArgument("layer is no tar file: a header's checksum is wrong")


def text(field: bytes) -> bytes:
    """A field up to its first zero."""
    end = field.find(b"\0")
    return field if end < 0 else field[:end]


@lru_cache(maxsize=4096)  # modes, owners and times are the same from one entry to the next
def number(field: bytes) -> int:
    """Octal digits, or GNU's base-256 with the first byte's high bit set. Raises `InvalidArgument`."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=True)
        # The first bit is only the mark: 0x80 begins a positive number, 0xff a negative one.
        if field[0] != 0xFF:
            value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if abs(value) > _MAX_NUMBER:
            raise InvalidArgument("layer is no tar file: a number in a header is out of range")
        return value
    digits = field.strip(b" \0")
    try:
        return int(text(digits), 8) if digits else 0
    except ValueError:
        raise InvalidArgument("layer is no tar file: a header field is no number") from None


def pax_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """`length key=value\\n`, length counting the whole record. Raises `InvalidArgument`."""
    records, at = [], 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space] if space > 0 else b""
        if not digits.isdigit():
            raise InvalidArgument("layer is no tar file: a pax record has no length")
        end = at + int(digits)
        if end <= space or end > len(data) or data[end - 1 : end] != b"\n":
            raise InvalidArgument("layer is no tar file: a pax record's length is wrong")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise InvalidArgument("layer is no tar file: a pax record has no key")
        records.append((key, value))
        at = end
    return records


def pax_time(value: bytes) -> int:
    """Seconds with a fraction as nanoseconds. Raises `InvalidArgument`."""
    seconds, _, fraction = value.partition(b".")
    sign = -1 if seconds.startswith(b"-") else 1
    whole = seconds.removeprefix(b"-")
    if not whole.isdigit() or len(whole) > 18 or (fraction and not fraction.isdigit()):
        raise InvalidArgument("layer is no tar file: a pax time is no number")
    return sign * (int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0") or b"0"))


def pax_number(value: bytes) -> int:
    """A decimal number. Raises `InvalidArgument`."""
    if not value.removeprefix(b"-").isdigit() or len(value) > 19:
        raise InvalidArgument("layer is no tar file: a pax number is none")
    return int(value)
