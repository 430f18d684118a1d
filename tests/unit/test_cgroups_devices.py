"""Device rules: the table they make, the writes that lead there, the program that stands for them on v2."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.errors import InvalidArgument
from cutaway.linux.cgroups import device_program, devices
from cutaway.linux.cgroups.devices import ANY, Table
from cutaway.oci.runtime_spec import DeviceRule

CLOSED = DeviceRule(allow=False, access="rwm")
OPEN = DeviceRule(allow=True, access="rwm")


def rule(kind: str, major: int | None, minor: int | None, access: str, allow: bool = True) -> DeviceRule:
    return DeviceRule(allow=allow, type=kind, major=major, minor=minor, access=access)


def test_without_rules_only_the_default_devices_are_open() -> None:
    table = devices.table(None)
    assert not table.open
    assert table.rules[("c", 1, 3)] == set("rwm")
    assert table.rules[("c", ANY, ANY)] == {"m"}
    assert ("c", 10, 229) not in table.rules


def test_a_rule_for_all_forgets_those_before() -> None:
    table = devices.table([rule("b", 8, 0, "r"), OPEN])
    assert table.open
    assert not table.rules


def test_denying_what_a_wildcard_still_grants_is_refused() -> None:
    rules = [rule("c", 1, None, "rw"), rule("c", 1, 5, "w", allow=False)]
    with pytest.raises(InvalidArgument, match=r"c 1:5 w would have no effect beside the one for c 1:\* rw"):
        devices.table(rules)


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        (rule("x", 1, 1, "r"), r"devices\[0\]\.type"),
        (rule("c", 1, 1, "rx"), r"devices\[0\]\.access"),
        (rule("c", 1, 1, ""), "device access at 0 field cannot be empty"),
        (rule("c", -7, 1, "r"), r"devices\[0\]: expected numbers"),
        (rule("c", 1 << 40, 1, "r"), r"devices\[0\]: expected numbers"),
    ],
)
def test_bad_rules_are_named(bad: DeviceRule, where: str) -> None:
    with pytest.raises(InvalidArgument, match=where):
        devices.table([bad])


def test_v1_is_told_only_what_changes() -> None:
    have = devices.parse("c 1:3 rwm\nc *:* m\nb 8:0 rw\n")
    wanted = Table()
    wanted.put(("c", 1, 3), "rwm", True)
    wanted.put(("c", ANY, ANY), "m", True)
    wanted.put(("b", 8, 0), "r", True)
    assert devices._difference(have, wanted) == [("deny", "b 8:0 w")]


def test_a_fresh_v1_cgroup_is_closed_first() -> None:
    writes = devices._difference(devices.parse("a *:* rwm\n"), devices.table([CLOSED]))
    assert writes[0] == ("deny", "a")
    assert ("allow", "c 136:* rwm") in writes


def test_privileged_writes_nothing_where_all_is_open() -> None:
    assert devices._difference(devices.parse("a *:* rwm\n"), devices.table([OPEN])) == []


# A BPF interpreter for the instructions that the assembler knows, so that programs can be asked without root.


def ask(program: bytes, kind: str, access: str, major: int, minor: int) -> bool:
    """Run a program on one question."""
    word = (sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access) << 16) | {"b": 1, "c": 2}[kind]
    context = struct.pack("=III", word, major, minor)
    registers = [0] * 11
    at = 0
    while True:
        code, packed, offset, value = struct.unpack_from("=BBhi", program, at * 8)
        dst, src = packed & 15, packed >> 4
        at += 1
        match code:
            case 0x61:
                registers[dst] = struct.unpack_from("=I", context, offset)[0]
            case 0x54:
                registers[dst] &= value
            case 0x74:
                registers[dst] >>= value
            case 0xBC:
                registers[dst] = registers[src]
            case 0xB7:
                registers[dst] = value
            case 0x55:
                at += offset if registers[dst] != value else 0
            case 0x5D:
                at += offset if registers[dst] != registers[src] else 0
            case 0x15:
                at += offset if registers[dst] == value else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def allowed(table: Table, kind: str, access: str, major: int, minor: int) -> bool:
    """What the table says, in plain words: the judge of the programs."""
    matching = [
        granted
        for (of, rule_major, rule_minor), granted in table.rules.items()
        if of == kind and rule_major in (ANY, major) and rule_minor in (ANY, minor)
    ]
    if table.open:
        return not any(granted & set(access) for granted in matching)
    return any(set(access) <= granted for granted in matching)


NUMBERS = st.integers(min_value=0, max_value=3)
KINDS = st.sampled_from("bc")
ACCESSES = st.sets(st.sampled_from("rwm"), min_size=1).map("".join)
KEYS = st.tuples(KINDS, NUMBERS | st.just(ANY), NUMBERS | st.just(ANY))


@given(
    st.booleans(),
    st.dictionaries(KEYS, ACCESSES, max_size=5),
    KINDS,
    ACCESSES,
    NUMBERS,
    NUMBERS,
)
def test_programs_answer_as_the_table_does(
    opened: bool,
    rules: dict[devices.Key, str],
    kind: str,
    access: str,
    major: int,
    minor: int,
) -> None:
    table = Table(opened)
    for key, letters in rules.items():
        table.put(key, letters, not opened)
    program = device_program.assemble(table)
    assert ask(program, kind, access, major, minor) == allowed(table, kind, access, major, minor)


def test_a_rule_may_take_away_more_than_there_is() -> None:
    plain, more = devices.table([CLOSED]), devices.table([CLOSED, rule("c", 1, 11, "rwa", allow=False)])
    assert (more.open, more.rules) == (plain.open, plain.rules)
