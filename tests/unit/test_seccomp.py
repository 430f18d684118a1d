"""Compiling profiles: what is refused, what is kept. What filters do is in tests/runc/test_seccomp.py."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from cutaway.errors import FailedPrecondition, InvalidArgument
from cutaway.linux import seccomp, seccomp_compile
from cutaway.oci.runtime_spec import Seccomp, Syscall, SyscallArg


def has_libseccomp() -> bool:
    try:
        seccomp_compile.library()
    except FailedPrecondition:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_libseccomp(), reason="needs libseccomp")

ALLOW = "SCMP_ACT_ALLOW"


def profile(
    *rules: Syscall,
    default: str = "SCMP_ACT_ERRNO",
    default_errno_ret: int | None = None,
    architectures: list[str] | None = None,
    flags: list[str] | None = None,
) -> Seccomp:
    return Seccomp(
        default_action=default,
        default_errno_ret=default_errno_ret,
        architectures=architectures,
        flags=flags,
        syscalls=list(rules),
    )


def test_unknown_call_names_are_passed_over() -> None:
    known = Syscall(names=["getpid"], action=ALLOW)
    both = Syscall(names=["getpid", "brand_new_call"], action=ALLOW)
    assert seccomp.compile(profile(both)) == seccomp.compile(profile(known))


def test_a_rule_that_says_what_the_default_says_is_no_error() -> None:
    seccomp.compile(profile(Syscall(names=["getpid"], action="SCMP_ACT_ERRNO"), default_errno_ret=1))


def test_two_conditions_on_one_argument_are_two_rules() -> None:
    args = [SyscallArg(index=0, value=value, op="SCMP_CMP_EQ") for value in (1, 2)]
    apart = [Syscall(names=["close"], action=ALLOW, args=[arg]) for arg in args]
    together = Syscall(names=["close"], action=ALLOW, args=args)
    assert seccomp.compile(profile(together)) == seccomp.compile(profile(*apart))


ARG = SyscallArg(index=0, value=1, op="SCMP_CMP_EQ")


@pytest.mark.parametrize(
    ("config", "where"),
    [
        (profile(default="SCMP_ACT_MAYBE"), "linux.seccomp.defaultAction: string SCMP_ACT_MAYBE"),
        (
            profile(Syscall(names=["close"], action="NO")),
            r"linux\.seccomp\.syscalls\[0\]\.action: string NO is not a valid action",
        ),
        (profile(Syscall(names=[], action=ALLOW)), r"syscalls\[0\]\.names"),
        (
            profile(Syscall(names=["close"], action=ALLOW, args=[SyscallArg(index=0, value=1, op="X")])),
            r"syscalls\[0\]\.args\[0\]\.op: string X is not a valid operator",
        ),
        (
            profile(
                Syscall(names=["close"], action=ALLOW, args=[ARG, SyscallArg(index=6, value=1, op=ARG.op)])
            ),
            r"syscalls\[0\]\.args\[1\]\.index",
        ),
        (profile(architectures=["SCMP_ARCH_VAX"]), r"architectures\[0\]: string SCMP_ARCH_VAX"),
    ],
)
def test_bad_profiles_are_refused_by_their_path(config: Seccomp, where: str) -> None:
    with pytest.raises(InvalidArgument, match=where):
        seccomp.compile(config)


def test_an_agent_is_asked_by_a_listener() -> None:
    config = profile(Syscall(names=["mount"], action="SCMP_ACT_NOTIFY"))
    assert seccomp.flags(config) & seccomp.NEW_LISTENER
    with pytest.raises(InvalidArgument, match="listenerPath is not set"):
        seccomp.compile(config)
    config.listener_path = "/agent"
    assert struct.pack("=HBBI", 0x06, 0, 0, 0x7FC00000) in seccomp.compile(config)


def test_flags() -> None:
    log, allow = seccomp.FLAGS["SECCOMP_FILTER_FLAG_LOG"], seccomp.FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    assert seccomp.flags(profile()) == allow
    assert seccomp.flags(profile(flags=[])) == 0
    assert seccomp.flags(profile(flags=["SECCOMP_FILTER_FLAG_LOG"])) == log
    with pytest.raises(InvalidArgument, match=r"flags\[1\]: seccomp flag NO is not known"):
        seccomp.flags(profile(flags=["SECCOMP_FILTER_FLAG_LOG", "NO"]))


JUMPS: dict[int, Callable[[int, int], bool]] = {
    0x15: lambda accumulator, value: accumulator == value,
    0x25: lambda accumulator, value: accumulator > value,
    0x35: lambda accumulator, value: accumulator >= value,
    0x45: lambda accumulator, value: bool(accumulator & value),
}
LOAD, AND, JUMP, RETURN = 0x20, 0x54, 0x05, 0x06
STORE_IN_MEMORY, LOAD_FROM_MEMORY = 0x02, 0x60


def run(program: bytes, number: int, arch: int, *args: int) -> int:
    """The answer of a classic BPF program to one system call."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *args, *(0,) * (6 - len(args)))
    memory: dict[int, int] = {}
    accumulator = at = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code in JUMPS:
            at += if_true if JUMPS[code](accumulator, value) else if_false
        elif code == JUMP:
            at += value
        elif code == LOAD:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == AND:
            accumulator &= value
        elif code == STORE_IN_MEMORY:
            memory[value] = accumulator
        elif code == LOAD_FROM_MEMORY:
            accumulator = memory[value]
        else:
            assert code == RETURN, f"unknown instruction {code:#x}"
            return int(value)


X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
ALLOWED, REFUSED, UNKNOWN = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS

on_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="uses x86-64's numbers")


@on_x86
def test_calls_newer_than_the_profile_get_enosys() -> None:
    config = profile(Syscall(names=["getpid", "openat2"], action=ALLOW), default_errno_ret=1)
    program = seccomp.compile(config)
    assert run(program, 39, X86_64) == ALLOWED  # getpid
    assert run(program, 165, X86_64) == REFUSED  # mount: older, and not allowed
    assert run(program, 437, X86_64) == ALLOWED  # openat2, the newest named
    assert run(program, 438, X86_64) == UNKNOWN
    assert run(program, 9999, X86_64) == UNKNOWN


@on_x86
def test_every_architecture_has_its_own_newest_call() -> None:
    config = profile(
        Syscall(names=["getpid"], action=ALLOW),
        architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        default_errno_ret=1,
    )
    program = seccomp.compile(config)
    assert run(program, 20, I386) == ALLOWED
    assert run(program, 21, I386) == UNKNOWN
    assert run(program, 39, X86_64) == ALLOWED
    assert run(program, 40, X86_64) == UNKNOWN
    assert run(program, 0x40000000 | 39, X86_64) == ALLOWED  # x32
    assert run(program, 0x40000000 | 40, X86_64) == UNKNOWN
    assert run(program, 39, AARCH64) not in (ALLOWED, UNKNOWN)


@on_x86
def test_permissive_profiles_have_no_stub() -> None:
    config = profile(Syscall(names=["mount"], action="SCMP_ACT_ERRNO", errno_ret=13), default=ALLOW)
    program = seccomp.compile(config)
    assert run(program, 165, X86_64) == 0x00050000 | 13
    assert run(program, 9999, X86_64) == ALLOWED


@on_x86
@pytest.mark.parametrize(
    ("op", "value", "value_two", "argument", "allowed"),
    [
        ("SCMP_CMP_NE", 5, None, 6, True),
        ("SCMP_CMP_NE", 5, None, 5, False),
        ("SCMP_CMP_LT", 5, None, 4, True),
        ("SCMP_CMP_LE", 5, None, 5, True),
        ("SCMP_CMP_EQ", 1 << 40, None, 1 << 40, True),
        ("SCMP_CMP_EQ", 1 << 40, None, 0, False),
        ("SCMP_CMP_GE", 5, None, 4, False),
        ("SCMP_CMP_GT", 5, None, 6, True),
        ("SCMP_CMP_MASKED_EQ", 0xF0, 0x10, 0x1F, True),
        ("SCMP_CMP_MASKED_EQ", 0xF0, 0x10, 0x2F, False),
    ],
)
def test_operators(op: str, value: int, value_two: int | None, argument: int, allowed: bool) -> None:
    arg = SyscallArg(index=1, value=value, value_two=value_two, op=op)
    program = seccomp.compile(profile(Syscall(names=["close"], action=ALLOW, args=[arg])))
    assert (run(program, 3, X86_64, 0, argument) == ALLOWED) is allowed


def test_the_cache_gives_back_what_was_compiled(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    config = profile(Syscall(names=["getpid"], action=ALLOW))
    first = seccomp.compile(config, str(folder))
    (entry,) = folder.iterdir()
    assert entry.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert seccomp.compile(config, str(folder)) == first == seccomp.compile(config)
    seccomp.compile(profile(Syscall(names=["getuid"], action=ALLOW)), str(folder))
    assert len(list(folder.iterdir())) == 2


def test_a_damaged_entry_is_compiled_anew(tmp_path: Path) -> None:
    config = profile(Syscall(names=["getpid"], action=ALLOW))
    first = seccomp.compile(config, str(tmp_path / "cache"))
    (entry,) = (tmp_path / "cache").iterdir()
    entry.write_bytes(entry.read_bytes()[:-8])
    assert seccomp.compile(config, str(tmp_path / "cache")) == first


@pytest.mark.parametrize("what", ["folder", "entry"])
def test_a_cache_that_others_can_write_is_not_believed(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "cache"
    config = profile(Syscall(names=["getpid"], action=ALLOW))
    right = seccomp.compile(config, str(folder))
    (entry,) = folder.iterdir()
    wrong = seccomp.compile(profile(Syscall(names=["mount"], action=ALLOW)), str(tmp_path / "other"))
    (other,) = (tmp_path / "other").iterdir()
    entry.write_bytes(other.read_bytes())
    assert seccomp.compile(config, str(folder)) == wrong  # ours alone: believed
    (folder if what == "folder" else entry).chmod(0o777)
    assert seccomp.compile(config, str(folder)) == right


def test_a_link_in_the_place_of_an_entry_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    config = profile(Syscall(names=["getpid"], action=ALLOW))
    right = seccomp.compile(config, str(folder))
    (entry,) = folder.iterdir()
    moved = tmp_path / "elsewhere"
    entry.rename(moved)
    entry.symlink_to(moved)
    moved.write_bytes(b"x" * 64)
    assert seccomp.compile(config, str(folder)) == right
