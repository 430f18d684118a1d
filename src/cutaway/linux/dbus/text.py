"""D-Bus values as people write them: GVariant's text format, as far as unit properties need it.

    'text' or "text"       true, false       42, -1, 0x10, 1.5
    uint64 42              a number with its type
    ['a', 'b'], [1, 2]     arrays; @as [] for an empty one

https://docs.gtk.org/glib/gvariant-text-format.html
"""

from cutaway.errors import InvalidArgument
from cutaway.linux.dbus import wire
from cutaway.linux.dbus.wire import Variant

_NAMED = {
    "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x", "uint64": "t",
    "double": "d", "boolean": "b", "string": "s", "objectpath": "o", "signature": "g",
}  # fmt: skip
_MAX_DEPTH = 32
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v"}


def parse(text: str) -> Variant:
    """The value that a text stands for. Raises `InvalidArgument`."""
    parser = _Parser(text)
    found = parser.value("")
    parser.blank()
    if parser.at != len(text):
        raise parser.error()
    wire.pack("v", [found])  # whether it fits its type
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def error(self) -> InvalidArgument:
        return InvalidArgument(f"cannot understand {self.text!r} from character {self.at + 1}")

    def blank(self) -> None:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1

    def value(self, wanted: str) -> Variant:
        """A value; `wanted` is the type that was named before it."""
        self.depth += 1
        try:
            if self.depth > _MAX_DEPTH:
                raise self.error()
            return self._value(wanted)
        finally:
            self.depth -= 1

    def _value(self, wanted: str) -> Variant:
        self.blank()
        letter = self.text[self.at : self.at + 1]
        if letter in ("'", '"'):
            return Variant(wanted or "s", self._string(letter))
        if letter == "[":
            return self._array(wanted)
        word = self._word()
        if word.startswith("@"):
            wire.split(word[1:])
            return self.value(word[1:])
        if word in _NAMED:
            return self.value(_NAMED[word])
        if word in ("true", "false"):
            return Variant(wanted or "b", word == "true")
        return self._number(word, wanted)

    def _word(self) -> str:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in " \t\n,]":
            self.at += 1
        if start == self.at:
            raise self.error()
        return self.text[start : self.at]

    def _number(self, word: str, wanted: str) -> Variant:
        try:
            if wanted == "d":
                return Variant("d", float(word))
            try:
                return Variant(wanted or "i", int(word, 0))
            except ValueError:
                if wanted:
                    raise
                return Variant("d", float(word))
        except ValueError:
            self.at -= len(word)
            raise self.error() from None

    def _string(self, quote: str) -> str:
        self.at += 1
        found = ""
        while (letter := self.text[self.at : self.at + 1]) != quote:
            if letter == "\\":
                self.at += 1
                letter = self.text[self.at : self.at + 1]
                letter = _ESCAPES.get(letter, letter)
            if not letter:
                raise self.error()
            found += letter
            self.at += 1
        self.at += 1
        return found

    def _array(self, wanted: str) -> Variant:
        if wanted and not wanted.startswith("a"):
            raise self.error()
        element = wanted[1:]
        self.at += 1
        found: list[object] = []
        self.blank()
        while self.text[self.at : self.at + 1] != "]":
            value = self.value(element)
            element = element or value.signature
            if value.signature != element:
                raise self.error()
            found.append(value.value)
            self.blank()
            if self.text[self.at : self.at + 1] == ",":
                self.at += 1
                self.blank()
            elif self.text[self.at : self.at + 1] != "]":
                raise self.error()
        self.at += 1
        if not element:
            raise self.error()  # of nothing, and of no type
        return Variant(f"a{element}", found)
