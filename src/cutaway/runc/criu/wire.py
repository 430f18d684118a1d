"""Protocol buffers' wire form, as far as criu's messages need it: varints and length-delimited fields."""

from cutaway.errors import DataLoss

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    """A number, seven bits a byte; a negative one as its 64-bit complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """A field that is a number, a truth or an enum's value."""
    return varint(field << 3 | _VARINT) + varint(value)


def data(field: int, value: bytes) -> bytes:
    """A field that is a string or a message."""
    return varint(field << 3 | _BYTES) + varint(len(value)) + value


def decode(text: bytes) -> dict[int, list[int | bytes]]:
    """A message's fields by number, each with all its values. Raises `DataLoss`."""
    found: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(text):
        key, at = _varint(text, at)
        kind = key & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = _varint(text, at)
        elif kind in (_BYTES, _FIXED64, _FIXED32):
            length, at = _varint(text, at) if kind == _BYTES else (8 if kind == _FIXED64 else 4, at)
            value = text[at : at + length]
            if len(value) < length:
                raise DataLoss("a message of criu ends in the middle of a field")
            at += length
        else:
            raise DataLoss(f"a message of criu has a field of unknown kind {kind}")
        found.setdefault(key >> 3, []).append(value)
    return found


def _varint(text: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(text) and shift < 64:
        byte = text[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise DataLoss("a message of criu ends in the middle of a number")
