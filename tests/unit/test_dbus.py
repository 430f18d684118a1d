"""D-Bus on the wire: what we write and read, strictly; against examples of the specification."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.errors import DataLoss, InvalidArgument
from cutaway.linux.cgroups import systemd, systemd_properties
from cutaway.linux.dbus import connection, text, wire
from cutaway.linux.dbus.wire import Variant


def message(signature: str, values: list[Any]) -> bytes:
    fields = {"path": "/a", "member": "M", "signature": signature}
    return wire.encode(wire.CALL, 7, fields, wire.pack(signature, values))


@pytest.mark.parametrize(
    ("signature", "values", "data"),
    [
        ("s", ["foo"], b"\3\0\0\0foo\0"),
        ("yu", [1, 2], b"\1\0\0\0\2\0\0\0"),
        ("b", [True], b"\1\0\0\0"),
        ("g", ["a{sv}"], b"\5a{sv}\0"),
        ("v", [Variant("u", 5)], b"\1u\0\0\5\0\0\0"),
        # the specification's example: an array of one 64-bit number, padded after its length
        ("ax", [[5]], b"\10\0\0\0" + bytes(4) + b"\5" + bytes(7)),
        ("ax", [[]], bytes(8)),
        ("ay", [b"ab"], b"\2\0\0\0ab"),
        ("(yy)", [(1, 2)], b"\1\2"),
        ("a{yy}", [{1: 2}], b"\2\0\0\0" + bytes(4) + b"\1\2"),
    ],
)
def test_values_are_these_bytes_and_back(signature: str, values: list[Any], data: bytes) -> None:
    assert wire.pack(signature, values) == data
    assert wire.decode(message(signature, values)).body == values


def test_a_message_has_its_fields() -> None:
    found = wire.decode(message("s", ["x"]))
    assert (found.kind, found.serial, found.fields["path"], found.text("member")) == (1, 7, "/a", "M")


def test_big_endian_is_read() -> None:
    fields = b"\0\0\0\x0f" + b"\x08\x01g\0\x01u\0\0" + b"\x05\x01u\0\0\0\0\x09"
    head = b"B\2\0\1" + struct.pack(">II", 4, 3)
    found = wire.decode(head + struct.pack(">I", 16) + fields[4:] + b"" + struct.pack(">I", 5))
    assert (found.fields, found.body) == ({"signature": "u", "reply_serial": 9}, [5])


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "s": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    "t": st.integers(0, (1 << 64) - 1),
    "i": st.integers(-(1 << 31), (1 << 31) - 1),
    "b": st.booleans(),
    "ay": st.binary(),
    "d": st.floats(allow_nan=False),
    "a(ss)": st.lists(st.tuples(st.just("/dev/null"), st.just("rw"))),
    "a{sas}": st.dictionaries(st.just("k"), st.lists(st.just("v"))),
}


@given(st.lists(st.sampled_from(sorted(VALUES)).flatmap(lambda kind: st.tuples(st.just(kind), VALUES[kind]))))
def test_what_is_written_is_read(pairs: list[tuple[str, Any]]) -> None:
    values = [Variant(kind, value) for kind, value in pairs]
    assert wire.decode(message("av", [values])).body == [values]


@given(st.integers(0, 200), st.integers(0, 255))
def test_damaged_messages_are_refused_or_read_but_nothing_else(at: int, byte: int) -> None:
    data = bytearray(message("a(sv)", [[("Name", Variant("as", ["x", "y"])), ("N", Variant("t", 9))]]))
    data[at % len(data)] = byte
    with contextlib.suppress(DataLoss):
        wire.decode(bytes(data))


@given(st.binary(max_size=200))
def test_noise_is_no_message(noise: bytes) -> None:
    with pytest.raises(DataLoss):
        wire.decode(b"l\1\0\1" + noise)


@pytest.mark.parametrize(
    ("body", "signature", "message_"),
    [
        (b"\2\0\0\0", "b", "2 is no bool"),
        (b"\3\0\0\0foo!", "s", "has not the length"),
        (b"\3\0\0\0f\0o\0", "s", "has not the length"),
        (b"\1\0\0\0\xff\0", "s", "not UTF-8"),
        (b"\1\1\0\0\2\0\0\0", "yu", "padding is not zero"),
        (b"\x20\0\0\0\1\0\0\0", "au", "leads out"),
        (b"\2\0\0\0\1\0\0\0", "au", "array has not the length"),
        (b"\1\0\0\0\1\0\0\0", "u", "longer than its values"),
        (b"\2uu\0\1\0\0\0", "v", "a variant has not one type"),
        (b"\1", "u", "leads out"),
    ],
)
def test_bad_bodies_are_refused(body: bytes, signature: str, message_: str) -> None:
    with pytest.raises(DataLoss, match=message_):
        wire.decode(wire.encode(wire.CALL, 1, {"signature": signature}, body))


def test_values_cannot_nest_for_ever() -> None:
    deep = b"\1v\0" * 200 + b"\1y\0\0"
    with pytest.raises(DataLoss, match="nested too deeply"):
        wire.decode(wire.encode(wire.CALL, 1, {"signature": "v"}, deep))


@pytest.mark.parametrize(
    "signature", ["a", "(", "()", "(i", "a{i}", "a{vs}", "{ss}", "z", "a" * 40 + "i", "i" * 256]
)
def test_bad_signatures_are_refused(signature: str) -> None:
    with pytest.raises(InvalidArgument, match="signature"):
        wire.split(signature)


@pytest.mark.parametrize(
    ("signature", "value"), [("y", 256), ("u", -1), ("s", "a\0b"), ("s", 5), ("i", "x"), ("s", "\ud800")]
)
def test_values_that_do_not_fit_are_refused(signature: str, value: object) -> None:
    with pytest.raises(InvalidArgument):
        wire.pack(signature, [value])


@pytest.mark.parametrize(
    ("written", "signature", "value"),
    [
        ("'inactive-or-failed'", "s", "inactive-or-failed"),
        ('"a\\"b"', "s", 'a"b'),
        ("true", "b", True),
        ("42", "i", 42),
        ("-1", "i", -1),
        ("0x10", "i", 16),
        ("1.5", "d", 1.5),
        ("uint64 5000000000", "t", 5_000_000_000),
        ("['a', 'b']", "as", ["a", "b"]),
        ("[uint32 1, 2]", "au", [1, 2]),
        ("@as []", "as", []),
        (" [ ['x'] , ['y'] ] ", "aas", [["x"], ["y"]]),
    ],
)
def test_values_as_text(written: str, signature: str, value: object) -> None:
    assert text.parse(written) == Variant(signature, value)


@pytest.mark.parametrize(
    "written",
    ["", "'a", "[]", "[1, 'a']", "nothing", "1 2", "5000000000", "uint64 -1", "[1,,2]", "[", "@a", "byte 300",
     "[" * 5000],
)  # fmt: skip
def test_text_that_is_no_value(written: str) -> None:
    with pytest.raises(InvalidArgument):
        text.parse(written)


def test_annotations_are_properties() -> None:
    found = systemd_properties.of_annotations(
        {
            "org.systemd.property.TimeoutStopUSec": "uint64 7",
            "org.systemd.property.TimeoutStopSec": "1.5",
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "other": "x",
        }
    )
    assert found == {
        "TimeoutStopUSec": Variant("t", 1_500_000),
        "CollectMode": Variant("s", "inactive-or-failed"),
    }


@pytest.mark.parametrize(
    ("key", "value", "message_"),
    [
        ("X", "1", "name incorrect: too short"),
        ("Not-A-Name", "1", "contains non-alphabetic character"),
        ("CollectMode", "'x", "value parse error"),
        ("TimeoutStopSec", "'x'", "not a number of seconds"),
    ],
)
def test_bad_annotations_are_named(key: str, value: str, message_: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"annotation org.systemd.property.{key}.* {message_}"):
        systemd_properties.of_annotations({f"org.systemd.property.{key}": value})


@pytest.mark.parametrize(
    ("path", "name", "parent"),
    [
        ("system.slice:docker:abc", "docker-abc.scope", "system.slice"),
        (":crio:abc", "crio-abc.scope", ""),
        ("a.slice:x:pod-1.slice", "pod-1.slice", "a.slice"),
        (None, "runc-ID.scope", ""),
    ],
)
def test_units_of_cgroups_paths(path: str | None, name: str, parent: str) -> None:
    unit = systemd.Unit(path, "ID")
    assert (unit.name, unit.parent) == (name, parent)


@pytest.mark.parametrize("path", ["/docker/abc", "a:b", "a:b:c:d", "a.slice:x:../../b"])
def test_bad_units_are_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match="cgroupsPath"):
        systemd.Unit(path, "ID")


@pytest.mark.parametrize(
    ("name", "path"),
    [("system.slice", "/system.slice"), ("-.slice", "/"), ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice")],
)
def test_slices_are_expanded(name: str, path: str) -> None:
    assert systemd.expand_slice(name) == path


@pytest.mark.parametrize("name", ["", ".slice", "a", "a/b.slice", "-a.slice", "a--b.slice", "a-.slice"])
def test_bad_slices_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid slice name"):
        systemd.expand_slice(name)


@pytest.mark.parametrize(
    ("numbers", "mask"), [("0", b"\1"), ("0-2", b"\7"), ("1,3", b"\n"), ("8", b"\0\1"), ("0,9-10", b"\1\6")]
)
def test_numbers_as_a_mask(numbers: str, mask: bytes) -> None:
    assert systemd_properties.bits(numbers) == mask


@pytest.mark.parametrize("numbers", ["", "x", "3-1", "-1", "0-99999999999"])
def test_bad_numbers_are_refused(numbers: str) -> None:
    with pytest.raises(InvalidArgument, match="conversion error"):
        systemd_properties.bits(numbers)


def test_addresses() -> None:
    found = connection.addresses("tcp:host=x;unix:path=/run/a%20b,guid=1;unix:abstract=/tmp/x")
    assert found == [b"/run/a b", b"\0/tmp/x"]
    with pytest.raises(InvalidArgument, match="names no Unix socket"):
        connection.addresses("tcp:host=x")
