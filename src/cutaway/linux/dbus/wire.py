"""D-Bus values and messages as bytes ("Marshaling (Wire Format)", "Message Format").

    type                    in Python
    y n q i u x t d b       int, float, bool
    s o g                   str
    a(T)                    list; ay is bytes, a{K V} a dict
    (T...)                  tuple
    v                       Variant

Written in little-endian order, read in either. Reading is strict: padding that is not zero, a bool that
is not 0 or 1, text without its end, a length that leads out of the message, bytes left over: DataLoss.
"""

import struct

from cutaway.errors import DataLoss, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4

_NUMBERS = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}
_SIZES = {"y": 1, "n": 2, "q": 2, "i": 4, "u": 4, "x": 8, "t": 8, "d": 8}
_ALIGNMENT = {**_SIZES, "b": 4, "s": 4, "o": 4, "g": 1, "a": 4, "(": 8, "{": 8, "v": 1}
_BASIC = frozenset("ybnqiuxtdsog")

MAX_ARRAY = 1 << 26
MAX_MESSAGE = 1 << 27
_MAX_DEPTH = 32
_MAX_SIGNATURE = 255

HEAD = 16  # bytes of a message from which its length follows

# Header fields: code -> (name, type)
_FIELDS = {
    1: ("path", "o"), 2: ("interface", "s"), 3: ("member", "s"), 4: ("error_name", "s"),
    5: ("reply_serial", "u"), 6: ("destination", "s"), 7: ("sender", "s"), 8: ("signature", "g"),
    9: ("unix_fds", "u"),
}  # fmt: skip


class Variant:
    """A value that carries its type."""

    __slots__ = ("signature", "value")

    def __init__(self, signature: str, value: "Any") -> None:
        self.signature = signature
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variant) and (self.signature, self.value) == (other.signature, other.value)

    def __hash__(self) -> int:
        return hash(self.signature)

    def __repr__(self) -> str:
        return f"Variant({self.signature!r}, {self.value!r})"


class Message:
    """A message with its header fields by name, and its body as values."""

    __slots__ = ("body", "fields", "kind", "serial")

    def __init__(self, kind: int, serial: int, fields: "dict[str, Any]", body: "list[Any]") -> None:
        self.kind = kind
        self.serial = serial
        self.fields = fields
        self.body = body

    def text(self, field: str) -> str:
        return str(self.fields.get(field, ""))


def split(signature: str) -> list[str]:
    """A signature as complete types. Raises `InvalidArgument`."""
    if len(signature) > _MAX_SIGNATURE:
        raise InvalidArgument("D-Bus: a signature is longer than 255 characters")
    types = []
    at = 0
    while at < len(signature):
        end = _end(signature, at, 0)
        types.append(signature[at:end])
        at = end
    return types


def _end(signature: str, at: int, depth: int) -> int:
    """Where the complete type that begins at `at` ends."""
    letter = signature[at : at + 1]
    if depth > _MAX_DEPTH or not letter:
        raise InvalidArgument(f"D-Bus: bad signature {signature!r}")
    if letter in _BASIC or letter == "v":
        return at + 1
    if letter == "a":
        if signature[at + 1 : at + 2] == "{":
            return _entry_end(signature, at + 1, depth + 1)
        return _end(signature, at + 1, depth + 1)
    if letter != "(" or signature[at + 1 : at + 2] == ")":
        raise InvalidArgument(f"D-Bus: bad signature {signature!r}")
    at += 1
    while signature[at : at + 1] != ")":
        at = _end(signature, at, depth + 1)
    return at + 1


def _entry_end(signature: str, at: int, depth: int) -> int:
    """A dictionary's entry: a basic key and one value."""
    if signature[at + 1 : at + 2] not in _BASIC:
        raise InvalidArgument(f"D-Bus: bad signature {signature!r}")
    end = _end(signature, at + 2, depth + 1)
    if signature[end : end + 1] != "}":
        raise InvalidArgument(f"D-Bus: bad signature {signature!r}")
    return end + 1


def pack(signature: str, values: "list[Any]") -> bytes:
    """Values as a message's body. Raises `InvalidArgument` when they do not fit their types."""
    types = split(signature)
    if len(types) != len(values):
        raise InvalidArgument(f"D-Bus: {len(values)} values for the {len(types)} types of {signature!r}")
    out = bytearray()
    for kind, value in zip(types, values, strict=True):
        _put(out, kind, value)
    return bytes(out)


def _pad(out: bytearray, alignment: int) -> None:
    out.extend(bytes(-len(out) % alignment))


def _put(out: bytearray, kind: str, value: "Any") -> None:
    letter = kind[0]
    _pad(out, _ALIGNMENT[letter])
    if letter in _NUMBERS:
        try:
            out += struct.pack("<" + _NUMBERS[letter], value)
        except (struct.error, TypeError):
            raise InvalidArgument(f"D-Bus: {value!r} does not fit type {letter}") from None
    elif letter == "b":
        out += struct.pack("<I", bool(value))
    elif letter in "sog":
        _put_text(out, letter, value)
    elif letter == "v":
        if len(split(value.signature)) != 1:
            raise InvalidArgument(f"D-Bus: a variant has one type, not {value.signature!r}")
        _put(out, "g", value.signature)
        _put(out, value.signature, value.value)
    elif letter == "(":
        for inner, part in zip(split(kind[1:-1]), value, strict=True):
            _put(out, inner, part)
    else:
        _put_array(out, kind[1:], value)


def _put_text(out: bytearray, letter: str, value: "Any") -> None:
    if not isinstance(value, str) or "\0" in value:
        raise InvalidArgument(f"D-Bus: {value!r} is no text")
    try:
        data = value.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"D-Bus: {value!r} is not UTF-8") from None
    if letter == "g":
        split(value)
        out.append(len(data))
    else:
        out += struct.pack("<I", len(data))
    out += data + b"\0"


def _put_array(out: bytearray, kind: str, value: "Any") -> None:
    """The length does not count the padding before the first element, which is there without one, too."""
    at = len(out)
    out += bytes(4)
    _pad(out, _ALIGNMENT[kind[0]])
    start = len(out)
    if kind == "y" and isinstance(value, bytes):
        out += value
    elif kind[0] == "{":
        for key, entry in value.items():
            _pad(out, 8)
            _put(out, kind[1], key)
            _put(out, kind[2:-1], entry)
    else:
        for element in value:
            _put(out, kind, element)
    if len(out) - start > MAX_ARRAY:
        raise InvalidArgument("D-Bus: an array is longer than 64 MiB")
    struct.pack_into("<I", out, at, len(out) - start)


def encode(kind: int, serial: int, fields: "dict[str, Any]", body: bytes = b"", flags: int = 0) -> bytes:
    """A whole message; `fields` by name, empty ones left out."""
    present = [
        (code, Variant(type_, fields[name])) for code, (name, type_) in _FIELDS.items() if fields.get(name)
    ]
    out = bytearray(struct.pack("<BBBBII", ord("l"), kind, flags, 1, len(body), serial))
    _put(out, "a(yv)", present)
    _pad(out, 8)
    return bytes(out) + body


def length(head: bytes) -> int:
    """How long the message is that begins with these `HEAD` bytes. Raises `DataLoss`."""
    if head[0:1] not in (b"l", b"B") or head[3] != 1:
        raise DataLoss("D-Bus: what came is no message of protocol version 1")
    order = "<" if head[0:1] == b"l" else ">"
    body, _, fields = struct.unpack_from(order + "III", head, 4)
    total = int(HEAD + fields + -fields % 8 + body)
    if fields > MAX_ARRAY or total > MAX_MESSAGE:
        raise DataLoss("D-Bus: a message is longer than 128 MiB")
    return total


def decode(data: bytes) -> Message:
    """A whole message. Raises `DataLoss`."""
    if len(data) < HEAD or length(data[:HEAD]) != len(data):
        raise DataLoss("D-Bus: a message has not the length that it names")
    reader = _Reader(data, "<" if data[0:1] == b"l" else ">")
    _, kind, _, _, body, serial = (reader.take(letter, 0) for letter in "yyyyuu")
    fields = {}
    for code, variant in reader.take("a(yv)", 0):
        name, type_ = _FIELDS.get(code, ("", ""))
        if type_ and variant.signature != type_:
            raise DataLoss(f"D-Bus: the header field {name} has type {variant.signature}")
        fields[name] = variant.value
    reader.align(8)
    if serial == 0 or kind == 0 or len(data) - reader.at != body:
        raise DataLoss("D-Bus: a message's header is wrong")
    reader.rebase()
    values = [reader.take(type_, 0) for type_ in _types(fields.get("signature", ""))]
    if reader.at != len(reader.data):
        raise DataLoss("D-Bus: a message is longer than its values")
    return Message(kind, serial, fields, values)


def _types(signature: str) -> list[str]:
    try:
        return split(signature)
    except InvalidArgument as error:
        raise DataLoss(str(error)) from None


class _Reader:
    """Takes values out of bytes, from where it is."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data = data
        self.order = order
        self.at = 0

    def rebase(self) -> None:
        """Count alignment from here: the body begins."""
        self.data, self.at = self.data[self.at :], 0

    def align(self, alignment: int) -> None:
        if any(self.bytes(-self.at % alignment)):
            raise DataLoss("D-Bus: padding is not zero")

    def bytes(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise DataLoss("D-Bus: a value leads out of its message")
        self.at += count
        return self.data[self.at - count : self.at]

    def take(self, kind: str, depth: int) -> "Any":
        letter = kind[0]
        if depth > 2 * _MAX_DEPTH:
            raise DataLoss("D-Bus: values are nested too deeply")
        self.align(_ALIGNMENT[letter])
        if letter in _NUMBERS:
            return struct.unpack(self.order + _NUMBERS[letter], self.bytes(_SIZES[letter]))[0]
        if letter == "b":
            return self._bool()
        if letter in "sog":
            return self._text(letter)
        if letter == "v":
            return self._variant(depth)
        if letter == "(":
            return tuple(self.take(inner, depth + 1) for inner in _types(kind[1:-1]))
        return self._array(kind[1:], depth)

    def _bool(self) -> bool:
        number = self.take("u", 0)
        if number > 1:
            raise DataLoss(f"D-Bus: {number} is no bool")
        return bool(number)

    def _text(self, letter: str) -> str:
        size = self.take("y" if letter == "g" else "u", 0)
        data = self.bytes(size + 1)
        if data.find(b"\0") != size:
            raise DataLoss("D-Bus: a text has not the length that it names")
        try:
            return data[:-1].decode()
        except UnicodeDecodeError:
            raise DataLoss("D-Bus: a text is not UTF-8") from None

    def _variant(self, depth: int) -> Variant:
        types = _types(self.take("g", 0))
        if len(types) != 1:
            raise DataLoss("D-Bus: a variant has not one type")
        return Variant(types[0], self.take(types[0], depth + 1))

    def _array(self, kind: str, depth: int) -> "Any":
        size = self.take("u", 0)
        if size > MAX_ARRAY:
            raise DataLoss("D-Bus: an array is longer than 64 MiB")
        self.align(_ALIGNMENT[kind[0]])
        if kind == "y":
            return self.bytes(size)
        end = self.at + size
        if end > len(self.data):
            raise DataLoss("D-Bus: a value leads out of its message")
        found = []
        while self.at < end:
            if kind[0] == "{":
                self.align(8)
                found.append((self.take(kind[1], depth + 1), self.take(kind[2:-1], depth + 1)))
            else:
                found.append(self.take(kind, depth + 1))
        if self.at != end:
            raise DataLoss("D-Bus: an array has not the length that it names")
        return dict(found) if kind[0] == "{" else found
