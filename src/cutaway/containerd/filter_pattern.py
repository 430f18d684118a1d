"""Go's regular expressions as Python's, for filters.

Go's syntax (https://github.com/google/re2/wiki/Syntax) has no look-around and no references back, and says
some things in other letters: `\\z`, `\\Q..\\E`, `[[:alpha:]]`, flags in the middle of a pattern. What both
write alike may mean different things: `$` is the very end in Go, `a{,2}` six letters, `\\d` ten digits.
So a pattern is read by Go's rules and written anew. Not there: `\\p{Greek}` and the flag U.
"""

from __future__ import annotations

import re

MOST_REPEATS = 1000

_REPEAT = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_FLAGS = re.compile(r"\(\?([ims]*)(?:-([ims]+))?([:)])")
_NAMED = re.compile(r"\(\?P<\w+>", re.A)
_HEX = re.compile(r"[0-9a-fA-F]{2}|\{[0-9a-fA-F]{1,6}\}")
_OCTAL = re.compile(r"[0-7]{1,3}")
_SETS = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": r"\x00-\x7f", "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~", "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ", "upper": "A-Z", "word": "0-9A-Za-z_", "xdigit": "0-9A-Fa-f",
}  # fmt: skip
_POSIX = re.compile(r"\[:(\^?)(\w+):\]", re.A)
_PERL = {"d": "0-9", "s": r"\t\n\f\r ", "w": "0-9A-Za-z_"}


class _NotGo(Exception):
    """No pattern of Go's, or one that has no equal here."""


def compiled(pattern: str) -> re.Pattern[str] | None:
    """What finds the same as Go's regexp.MatchString, or None where Go has no such pattern."""
    try:
        return re.compile(_Translation(pattern).run(), re.A)
    except (_NotGo, re.error, OverflowError, RecursionError):
        return None


class _Translation:
    def __init__(self, pattern: str) -> None:
        self.text = pattern
        self.at = 0
        self.out: list[str] = []
        # Of each open group: flags set inside it, which end with it, and whether ^ and $ are of lines.
        self.groups: list[tuple[list[str], bool]] = [([], False)]
        self.repeated = False

    def run(self) -> str:
        while self.at < len(self.text):
            if self.repeat():
                continue
            self.repeated = False
            self.one(self.text[self.at])
        if len(self.groups) > 1:
            raise _NotGo("missing closing )")
        return "".join(self.out) + ")" * len(self.groups[0][0])

    def one(self, char: str) -> None:
        match char:
            case "\\":
                self.out.append(self.escape())
            case "[":
                self.out.append(self.set())
            case "(":
                self.open()
            case ")":
                self.close()
            case "|":
                flags = self.groups[-1][0]
                self.put(")" * len(flags) + "|" + "".join(flags))
            case "$":
                self.put("(?:$)" if self.groups[-1][1] else r"(?:\Z)")
            case "^":
                self.put("(?:^)")
            case ".":
                self.put(".")
            case _:
                self.put(re.escape(char))

    def put(self, text: str) -> None:
        self.out.append(text)
        self.at += 1

    def repeat(self) -> bool:
        found = _REPEAT.match(self.text, self.at)
        if not found and self.text[self.at] not in "*+?":
            return False
        if self.repeated:
            raise _NotGo("invalid nested repetition operator")
        if found and any(int(count) > MOST_REPEATS for count in found.groups() if count):
            raise _NotGo("invalid repeat count")
        operator = found[0] if found else self.text[self.at]
        self.at += len(operator)
        if self.text[self.at : self.at + 1] == "?":
            self.at += 1
            operator += "?"
        self.out.append(operator)
        self.repeated = True
        return True

    def open(self) -> None:
        lines = self.groups[-1][1]
        if flags := _FLAGS.match(self.text, self.at):
            on, off, end = flags[1], flags[2] or "", flags[3]
            lines = ("m" in on or lines) and "m" not in off
            text = f"(?{on}-{off}:" if off else f"(?{on}:"
            if end == ":":
                self.groups.append(([], lines))
            else:
                self.groups[-1] = ([*self.groups[-1][0], text], lines)
            self.at = flags.end()
            self.out.append(text)
            return
        named = _NAMED.match(self.text, self.at)
        if not named and self.text.startswith("(?", self.at):
            raise _NotGo("invalid or unsupported Perl syntax")
        self.groups.append(([], lines))
        self.out.append("(")
        self.at = named.end() if named else self.at + 1

    def close(self) -> None:
        if len(self.groups) == 1:
            raise _NotGo("unexpected )")
        flags, _ = self.groups.pop()
        self.put(")" * (len(flags) + 1))

    def escape(self, *, in_set: bool = False) -> str:
        """What begins with a backslash, written for outside or inside of a set."""
        kind = self.text[self.at + 1 : self.at + 2]
        if kind in tuple("dswDSW"):
            self.at += 2
            return _perl(kind, in_set=in_set)
        if not in_set and kind in ("A", "b", "B", "z"):
            self.at += 2
            return r"(?:\Z)" if kind == "z" else rf"(?:\{kind})"
        if not in_set and kind == "Q":
            text, _, _ = self.text[self.at + 2 :].partition(r"\E")
            self.at = min(len(self.text), self.at + len(text) + 4)
            return "".join(map(re.escape, text))
        return _literal(self.character())

    def character(self) -> str:
        """One character, plain or after a backslash."""
        char, kind = self.text[self.at], self.text[self.at + 1 : self.at + 2]
        self.at += 1
        if char != "\\":
            return char
        self.at += 1
        if kind and kind in "afnrtv":
            return {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}[kind]
        if kind and kind in "01234567":
            digits = _OCTAL.match(self.text, self.at - 1)
            if not digits or (kind != "0" and len(digits[0]) == 1):
                raise _NotGo("no references back")
            self.at = digits.end()
            return chr(int(digits[0], 8))
        if kind == "x" and (found := _HEX.match(self.text, self.at)):
            self.at = found.end()
            return chr(int(found[0].strip("{}"), 16))
        if kind and kind.isascii() and not kind.isalnum():
            return kind
        raise _NotGo("invalid escape sequence")

    def set(self) -> str:
        self.at += 1
        negated = self.text.startswith("^", self.at)
        self.at += negated
        parts: list[str] = []
        while not parts or not self.text.startswith("]", self.at):
            if self.at >= len(self.text):
                raise _NotGo("missing closing ]")
            parts.append(self.element())
        self.at += 1
        return f"[{'^' if negated else ''}{''.join(parts)}]"

    def element(self) -> str:
        if posix := _POSIX.match(self.text, self.at):
            if posix[1] or posix[2] not in _SETS:
                raise _NotGo("invalid character class range")
            self.at = posix.end()
            return _SETS[posix[2]]
        if self.text[self.at] == "\\" and self.text[self.at + 1 : self.at + 2] in tuple("dswDSW"):
            return self.escape(in_set=True)
        first = self.character()
        if self.text[self.at : self.at + 1] != "-" or self.text[self.at + 1 : self.at + 2] in ("]", ""):
            return _literal(first)
        self.at += 1
        last = self.character()
        if last < first:
            raise _NotGo("invalid character class range")
        return f"{_literal(first)}-{_literal(last)}"


def _perl(kind: str, *, in_set: bool) -> str:
    if in_set:
        return _PERL.get(kind, rf"\{kind}")
    return f"[{'^' if kind.isupper() else ''}{_PERL[kind.lower()]}]"


def _literal(char: str) -> str:
    return rf"\U{ord(char):08x}"
