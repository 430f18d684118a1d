"""containerd's filter language.

    filter    := selector ("," selector)*                 all must match
    selector  := fieldpath (operator value)?              without operator: the field is present
    fieldpath := field ("." field)*
    field     := quoted | [A-Za-z0-9_]+
    operator  := "==" | "!=" | "~="                       the last is a regular expression, unanchored
    value     := quoted | [^\\s,]+
    quoted    := Go's string syntax between "..", and for the value of ~= also between |..| or /../

A list of filters matches what any of its members matches; an empty list matches everything.
Source: package filters of containerd (its documentation and observed behaviour).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cutaway.errors import InvalidArgument

Field = Callable[[Sequence[str]], str | None]
"""The adaptor of an object: the value of a field by its path, or None where it has none."""

_FIELD = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR = re.compile(r"[=!~]+")
_VALUE = re.compile(r"[^\s,]+")
_SPACE = re.compile(r"\s*")
_OPERATORS = ("==", "!=", "~=")
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\])|([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.S
)
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
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def parse(self) -> list[Selector]:
        selectors = [self.selector()]
        while self.peek() == ",":
            self.at += 1
            selectors.append(self.selector())
        if self.at < len(self.text):
            raise self.error(f"unexpected input: {self.text[self.at]}")
        return selectors

    def selector(self) -> Selector:
        path = [self.field()]
        while self.peek() == ".":
            self.at += 1
            path.append(self.field())
        if self.peek() in ("", ","):
            return Selector(tuple(path))
        operator = self.operator()
        value = self.value('"|/' if operator == "~=" else '"')
        return Selector(tuple(path), operator, value, _compile(value) if operator == "~=" else None)

    def field(self) -> str:
        if self.peek() == '"':
            return self.quoted()
        return self.token(_FIELD, "expected field or quoted")

    def operator(self) -> str:
        at = self.at
        operator = self.token(_OPERATOR, 'expected an operator ("=="|"!="|"~=")')
        if operator not in _OPERATORS:
            self.at = at
            raise self.error(f'unsupported operator "{operator}"')
        return operator

    def value(self, quotes: str) -> str:
        if self.peek() in ('"', "|", "/"):
            if self.peek() not in quotes:
                raise self.error("invalid quote encountered")
            return self.quoted()
        return self.token(_VALUE, "expected value or quoted")

    def quoted(self) -> str:
        quote = self.text[self.at]
        found = re.compile(
            rf"{re.escape(quote)}((?:[^\\{re.escape(quote)}\n]|\\.)*){re.escape(quote)}", re.S
        ).match(self.text, self.at)
        if not found:
            raise self.error("quoted literal not terminated")
        value = _ESCAPE.sub(lambda escape: self.unescape(escape, quote), found[1])
        self.at = found.end()
        return value

    def unescape(self, escape: re.Match[str], quote: str) -> str:
        plain, octal, hexadecimal, short, long, other = escape.groups()
        if plain:
            return _PLAIN[plain]
        if other == quote:
            return quote
        if other:
            numeric = other in "01234567xuU"
            raise self.error(f"illegal {'numeric ' if numeric else ''}escape sequence")
        code = int(octal, 8) if octal else int(hexadecimal or short or long, 16)
        if code > (0xFF if octal else 0x10FFFF):
            raise self.error("unquoting failed: quote syntax error")
        return chr(code)

    def token(self, pattern: re.Pattern[str], expected: str) -> str:
        found = pattern.match(self.text, self.skip())
        if not found:
            raise self.error(expected)
        self.at = found.end()
        return found[0]

    def peek(self) -> str:
        """The next character that is no space, or "" at the end."""
        return self.text[self.skip() : self.at + 1]

    def skip(self) -> int:
        space = _SPACE.match(self.text, self.at)
        self.at = space.end() if space else self.at
        return self.at

    def error(self, what: str) -> InvalidArgument:
        text, at = self.text, self.at
        where = f"[{text[:at]} >|{text[at]}|< {text[at + 1 :]}]" if at < len(text) else f"[{text}]"
        return InvalidArgument(f"filters: parse error: {where}: {what}: invalid argument")


def _compile(pattern: str) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern)
    except re.error:
        return None
