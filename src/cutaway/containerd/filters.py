"""containerd's filter language.

    filter    := selector ("," selector)*                 all must match
    selector  := fieldpath (operator value)?              without operator: the field is present
    fieldpath := field ("." field)*
    field     := quoted | [A-Za-z0-9_]+
    operator  := "==" | "!=" | "~="                       the last is a regular expression, unanchored
    value     := quoted | [^\\s,]+
    quoted    := Go's string syntax between "..", and for the value of ~= also between |..| or /../

A list of filters matches what any of its members matches; an empty list matches everything. Space may
stand before a token but for "," and "." and the end, where containerd's reader looks ahead.
Source: package filters of containerd (its documentation and observed behaviour).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cutaway.containerd.filter_pattern import compiled
from cutaway.errors import InvalidArgument

Field = Callable[[Sequence[str]], str | None]
"""The adaptor of an object: the value of a field by its path, or None where it has none."""

_FIELD = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR = re.compile(r"[=!~]+")
_OPERATORS = ("==", "!=", "~=")
_QUOTES = '"|/'
_SPACE = re.compile("[\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*")
_DIGITS = {8: re.compile("[0-7]*"), 16: re.compile("[0-9a-fA-F]*")}
_LENGTH = {"x": 2, "u": 4, "U": 8}
_PLAIN = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}


@dataclass(frozen=True, slots=True)
class Selector:
    """One condition."""

    path: tuple[str, ...]
    operator: str = ""
    value: str = ""
    pattern: re.Pattern[str] | None = None
    """Of ~=; None for one that is no regular expression, which matches nothing."""

    def matches(self, field: Field) -> bool:
        found = field(self.path)
        if not self.operator:
            return found is not None
        if self.operator == "==":
            return found == self.value
        if self.operator == "!=":
            return (found or "") != self.value
        return self.pattern is not None and self.pattern.search(found or "") is not None


class Filter:
    """A list of filters, parsed."""

    def __init__(self, alternatives: Sequence[Sequence[Selector]]) -> None:
        self._alternatives = alternatives

    def matches(self, field: Field) -> bool:
        if not self._alternatives:
            return True
        return any(all(one.matches(field) for one in selectors) for selectors in self._alternatives)


def parse_all(filters: Iterable[str]) -> Filter:
    """The filter of a request. Raises `InvalidArgument` that shows where the text goes wrong."""
    return Filter([_Parser(text).parse() if text else () for text in filters])


def in_map(path: Sequence[str], values: Mapping[str, str]) -> str | None:
    """A field of a map such as labels, whose keys hold dots: `labels."a.b"` and `labels.a.b` are the same."""
    return values.get(".".join(path))


class _Parser:
    """Reads from `at` on. What follows the grammar's letters is `next`, which does not pass over space."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    @property
    def next(self) -> str:
        return self.text[self.at : self.at + 1]

    def parse(self) -> list[Selector]:
        selectors = [self.selector()]
        while self.next == ",":
            self.at += 1
            selectors.append(self.selector())
        if self.next:
            shown = "\ufffd" if self.next == "\0" else self.next
            raise self.error(f"unexpected input: {shown}", self.at)
        return selectors

    def selector(self) -> Selector:
        path = [self.field()]
        while self.next == ".":
            self.at += 1
            path.append(self.field())
        if self.next in ("", ","):
            return Selector(tuple(path))
        operator = self.operator()
        value = self.value(_QUOTES if operator == "~=" else '"')
        return Selector(tuple(path), operator, value, compiled(value) if operator == "~=" else None)

    def field(self) -> str:
        at = self.skip()
        if self.next and self.next in _QUOTES:
            return self.quoted('"')
        if found := _FIELD.match(self.text, at):
            self.at = found.end()
            return found[0]
        raise self.unexpected("expected field or quoted")

    def operator(self) -> str:
        at = self.skip()
        if self.next and self.next in _QUOTES:
            self.scan()  # to say what is wrong inside of it, if anything
            self.at = at
        found = _OPERATOR.match(self.text, at)
        if not found:
            raise self.unexpected('expected an operator ("=="|"!="|"~=")')
        if found[0] not in _OPERATORS:
            raise self.error(f'unsupported operator "{found[0]}"', at)
        self.at = found.end()
        return found[0]

    def value(self, quotes: str) -> str:
        at = self.skip()
        if self.next and self.next in _QUOTES:
            return self.quoted(quotes)
        if self.next in ("", ",", ".", "=", "!", "~", "\0"):
            raise self.unexpected("expected value or quoted")
        self.at += 1  # the first may be of any kind
        while _is_of_value(self.next):
            self.at += 1
        return self.text[at : self.at]

    def quoted(self, allowed: str) -> str:
        at, quote = self.at, self.next
        parts = self.scan()
        if quote not in allowed:
            raise self.error("invalid quote encountered", at)
        if None in parts:
            raise self.error("unquoting failed: quote syntax error", at)
        return b"".join(part or b"" for part in parts).decode("utf-8", "surrogateescape")

    def scan(self) -> list[bytes | None]:
        """The parts of a quoted text; None for an escape that is well formed and means no character.

        Of the things that are wrong with it the first is told, and where it begins.
        """
        start, quote = self.at, self.next
        parts: list[bytes | None] = []
        wrong = ""
        self.at += 1
        while self.next != quote:
            if self.next in ("", "\n", "\0"):
                end = "unexpected null" if self.next == "\0" else "quoted literal not terminated"
                raise self.error(wrong or end, start)
            if self.next == "\\":
                self.at += 1
                try:
                    parts.append(self.escape(quote))
                except _BadEscape as error:
                    wrong = wrong or str(error)
            else:
                parts.append(self.next.encode())
                self.at += 1
        self.at += 1
        if wrong:
            raise self.error(wrong, start)
        return parts

    def escape(self, quote: str) -> bytes | None:
        kind = self.next
        if kind == quote or kind in _PLAIN:
            self.at += 1
            return _PLAIN.get(kind, kind).encode()
        octal = kind in tuple("01234567")
        if not octal and kind not in _LENGTH:
            raise _BadEscape("illegal escape sequence")
        self.at += not octal
        length, base = (3, 8) if octal else (_LENGTH[kind], 16)
        digits = _DIGITS[base].match(self.text, self.at, self.at + length)
        found = digits[0] if digits else ""
        self.at += len(found)
        if len(found) < length:
            raise _BadEscape("illegal numeric escape sequence")
        code = int(found, base)
        if octal or kind == "x":
            return bytes([code]) if code <= 0xFF else None
        if code > 0x10FFFF:
            return None
        return ("\ufffd" if 0xD800 <= code <= 0xDFFF else chr(code)).encode()

    def skip(self) -> int:
        """Pass over space."""
        space = _SPACE.match(self.text, self.at)
        self.at = space.end() if space else self.at
        return self.at

    def unexpected(self, expected: str) -> InvalidArgument:
        return self.error("unexpected null" if self.next == "\0" else expected, self.at)

    def error(self, what: str, at: int) -> InvalidArgument:
        """Shown is the byte, as containerd's reader counts."""
        text = self.text.encode()
        at = len(self.text[:at].encode())
        before, here, after = (
            part.decode("utf-8", "replace") for part in (text[:at], text[at : at + 1], text[at + 1 :])
        )
        where = f"[{before} >|{here}|< {after}]" if here else f"[{self.text}]"
        return InvalidArgument(f"filters: parse error: {where}: {what}: invalid argument")


class _BadEscape(Exception):
    """What is wrong with an escape."""


def _is_of_value(char: str) -> bool:
    """Go's unicode.IsGraphic without spaces."""
    return char != "" and char != "," and unicodedata.category(char)[0] in "LMNPS"
