"""Typed documents: what is decoded, and the line a user reads when it cannot be."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.errors import InvalidArgument
from cutaway.oci.document import Document, decode, dumps, encode, field, loads
from cutaway.oci.runtime_spec import Process, Spec


class Inner(Document):
    number: int
    ratio: float | None = None


class Outer(Document):
    first_name: str
    odd: str | None = field(default=None, name="odd.key")
    items: list[Inner] = []
    table: dict[str, int] = {}
    either: str | int | None = None
    inner: Inner = Inner(number=1)


def test_names_are_camel_case_unless_given() -> None:
    outer = decode(Outer, {"firstName": "a", "odd.key": "b", "unknown": 1})
    assert (outer.first_name, outer.odd) == ("a", "b")
    assert encode(outer)["odd.key"] == "b"


def test_defaults_are_not_shared() -> None:
    one, two = decode(Outer, {"firstName": "a"}), decode(Outer, {"firstName": "a"})
    one.items.append(Inner(number=3))
    one.inner.number = 7
    assert two.items == [] and two.inner.number == 1 and Outer(first_name="b").inner.number == 1


def test_null_means_absent() -> None:
    assert decode(Outer, {"firstName": "a", "items": None, "either": None}).items == []


def item(**values: object) -> dict[str, object]:
    return {"firstName": "a", "items": [values]}


@pytest.mark.parametrize(
    ("obj", "line"),
    [
        ([], "x.json:: expected object, got array"),
        ({}, "x.json:firstName: required, but missing"),
        ({"firstName": 1}, "x.json:firstName: expected string, got number"),
        ({"firstName": "a", "items": {}}, "x.json:items: expected array, got object"),
        (item(number=True), "x.json:items[0].number: expected integer, got boolean"),
        (item(number=1.5), "x.json:items[0].number: expected integer, got number"),
        (item(number=1 << 64), "x.json:items[0].number: 18446744073709551616 does not fit into 64 bits"),
        ({"firstName": "a", "table": {"k": "v"}}, "x.json:table.k: expected integer, got string"),
        ({"firstName": "a", "either": []}, "x.json:either: expected string or number, got array"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(obj: object, line: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode(Outer, obj, "x.json:")
    assert str(caught.value) == line


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b'{"firstName": NaN}', b"\xff"])
def test_text_that_is_no_json_is_one_line(text: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        loads(Outer, text, "request body")
    assert str(caught.value).startswith("request body: ") and "\n" not in str(caught.value)


def test_a_runtime_spec_survives_the_round_trip() -> None:
    spec = Spec(oci_version="1.2.0", process=Process(cwd="/", args=["sh"], env=["A=ü"]))
    assert loads(Spec, dumps(spec), "config.json") == spec


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@given(
    st.dictionaries(
        st.sampled_from(["ociVersion", "process", "root", "mounts", "linux", "hooks"]), json_values
    )
)
def test_any_json_decodes_or_is_refused(obj: dict[str, object]) -> None:
    try:
        spec = loads(Spec, json.dumps(obj), "config.json")
    except InvalidArgument:
        return
    assert decode(Spec, encode(spec)) == spec
