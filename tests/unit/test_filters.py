"""containerd's filter language."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.containerd.filter_pattern import compiled
from cutaway.containerd.filters import in_map, parse_all
from cutaway.errors import InvalidArgument

LABELS = {"a.b": "c", "plain": "value", "com.example/slash": "x y"}


def field(path: Sequence[str]) -> str | None:
    """An object with a name, a topic and labels."""
    if path[0] == "labels":
        return in_map(path[1:], LABELS)
    return {"name": "web-1", "topic": "/tasks/exit", "id": "abc"}.get(path[0])


MATCHING = [
    "",
    "name",
    "name==web-1",
    'name=="web-1"',
    "name!=other",
    "missing!=other",
    "name~=^web",
    "name~=b-",
    "topic~=|^/tasks/|",
    "topic~=/^.tasks/",
    'labels."a.b"==c',
    "labels.a.b==c",
    'labels."com.example/slash"=="x y"',
    "name==web-1,id==abc",
    " name == web-1, id == abc",
    r'name=="\x77eb-1"',
    r'name=="\u0077eb\u002d1"',
]
NOT_MATCHING = [
    "missing",
    "missing==x",
    "name==web",
    "name!=web-1",
    "name~=^eb",
    "topic~=|^/containers/|",
    "labels.missing",
    'labels."a.b"==d',
    "name==web-1,id==other",
    "name~=(",
]
BROKEN = {
    "name ": "expected an operator",
    "name==web-1 ": "unexpected input:  ",
    "name==web-1 ,id": "unexpected input:  ",
    "name==.x": "expected value or quoted",
    "/name/": "invalid quote encountered",
    "name==/x": "quoted literal not terminated",
    "name\0": "unexpected null",
    "ü==x": r"\[ >|\ufffd|< \ufffd==x\]: expected field or quoted",
    "name=": "unsupported operator",
    "name=x": "unsupported operator",
    "name~~x": "unsupported operator",
    "name==": "expected value or quoted",
    'name=="open': "not terminated",
    "name==a,": "expected field or quoted",
    ",name": "expected field or quoted",
    "na me": "expected an operator",
    "labels.": "expected field or quoted",
    'name=="\\q"': "illegal escape",
    'name=="\\xg"': "illegal numeric escape",
    'name=="\\1"': "illegal numeric escape",
    'name=="\\400"': "unquoting failed: quote syntax error",
    'name=="\\U00110000"': "unquoting failed: quote syntax error",
    "name==|x|": "invalid quote",
}


@pytest.mark.parametrize("text", MATCHING)
def test_matches(text: str) -> None:
    assert parse_all([text]).matches(field)


@pytest.mark.parametrize("text", NOT_MATCHING)
def test_does_not_match(text: str) -> None:
    assert not parse_all([text]).matches(field)


@pytest.mark.parametrize(("text", "complaint"), BROKEN.items())
def test_broken_ones_are_refused_with_the_place(text: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint) as caught:
        parse_all([text])
    assert str(caught.value).startswith("filters: parse error: [")


def test_a_list_matches_what_any_member_matches() -> None:
    assert parse_all(["missing", "name"]).matches(field)
    assert not parse_all(["missing", "name==x"]).matches(field)
    assert parse_all([]).matches(field)


# Patterns by Go's rules: what they find in, and what not. None: Go has no such pattern.
PATTERNS: dict[str, tuple[str, str] | None] = {
    "a$": ("ba", "a\n"),
    "(?m)^b$": ("a\nb\nc", "ab"),
    r"^a\z": ("a", "a\n"),
    "x{,2}": ("x{,2}", "xx"),
    "[[:digit:]-]+z": ("1-z", "az"),
    "[^[:space:]]x": ("ax", " x"),
    r"\Qa.b\Ec": ("a.bc", "axbc"),
    r"\x{fc}|\x41": ("ü", "u"),
    r"\101\060": ("A0", "101"),
    "(?i)A|b": ("B", "c"),
    "(x(?i)a|b)c": ("xAc", "Xac"),
    "(?s:a.b)": ("a\nb", "ab"),
    "a.b": ("a-b", "a\nb"),
    "(?P<n>a)(?:b)": ("ab", "ba"),
    r"^\d$": ("1", "\u0661"),
    r"[\w-]": ("-", "ü"),
    "[]a]": ("]", "b"),
    "^*a": ("a", "b"),
    "a+?b": ("aab", "b"),
    "(": None,
    "a)": None,
    "(?=a)": None,
    "(?<n>a)": None,
    r"(a)\1": None,
    "a++": None,
    "a{2}{3}": None,
    "a{1001}": None,
    "*a": None,
    r"[b-a]": None,
    "[a": None,
    r"\y": None,
    "[[:nothing:]]": None,
}


@pytest.mark.parametrize(("pattern", "found"), PATTERNS.items())
def test_patterns_are_those_of_go(pattern: str, found: tuple[str, str] | None) -> None:
    made = compiled(pattern)
    if found is None:
        assert made is None
        return
    assert made is not None
    assert [bool(made.search(text)) for text in found] == [True, False]


@given(st.text(alphabet="ab(|)[]{}^$*+?.\\,-2:imsQEPx<>=!", max_size=14))
def test_any_pattern_is_translated_or_refused(pattern: str) -> None:
    made = compiled(pattern)
    assert made is None or isinstance(made.search("ab-2"), re.Match | None)


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with suppress(InvalidArgument):
        parse_all([text]).matches(field)


@given(st.text(alphabet=st.characters(exclude_characters='\n\0"\\', exclude_categories=["Cs"]), max_size=20))
def test_a_quoted_value_is_itself(value: str) -> None:
    assert parse_all([f'x=="{value}"']).matches(lambda path: value)
