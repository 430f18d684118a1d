"""Filters and capabilities in the kernel: what a process that has them may still do."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from cutaway.engine.spec import seccomp_profile
from cutaway.engine.spec.capabilities import ALL, DEFAULT
from cutaway.engine.spec.inputs import Host
from cutaway.errors import CutawayError, PermissionDenied
from cutaway.linux import capabilities, paths, seccomp
from cutaway.oci.runtime_spec import Capabilities, Seccomp, Syscall, SyscallArg

pytestmark = pytest.mark.root

ALLOW: Final = "SCMP_ACT_ALLOW"
CLONE_NEWUSER: Final = 0x10000000

libc = ctypes.CDLL(None, use_errno=True)


def in_child(work: Callable[[], object]) -> object:
    """What a function answers in a process of its own, as JSON carries it; an int below zero is its end."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = work()
        except CutawayError as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return json.loads(text) if code == 0 else code


def failure(call: Callable[[], object]) -> str | None:
    """The name of the errno that a call fails with."""
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


def unshare(flags: int) -> None:
    if libc.unshare(flags) < 0:
        raise OSError(ctypes.get_errno(), "unshare")


def mostly_open(*rules: Syscall, flags: list[str] | None = None) -> Seccomp:
    return Seccomp(default_action=ALLOW, syscalls=list(rules), flags=flags)


def refuse(name: str, errno_ret: int | None = None, action: str = "SCMP_ACT_ERRNO") -> Syscall:
    return Syscall(names=[name], action=action, errno_ret=errno_ret)


def test_an_error_of_ones_own() -> None:
    def work() -> object:
        seccomp.load(mostly_open(refuse("mkdir", errno.EDOM), refuse("rmdir")), False)
        return [failure(lambda: os.mkdir("/x")), failure(lambda: os.rmdir("/x"))]

    assert in_child(work) == ["EDOM", "EPERM"]


def test_a_directory_outside_the_root_is_known_without_getcwd(place: Path) -> None:
    def work() -> object:
        seccomp.load(mostly_open(refuse("getcwd")), False)
        os.chdir(place)
        inside = paths.is_inside_root()
        os.chroot(place)  # keeps the working directory
        at_root = paths.is_inside_root()
        os.mkdir("below")
        os.chroot("below")
        return [failure(os.getcwd), inside, at_root, paths.is_inside_root()]

    assert in_child(work) == ["EPERM", True, True, False]


def test_an_argument_decides() -> None:
    vm_sockets = SyscallArg(index=0, value=socket.AF_VSOCK, op="SCMP_CMP_EQ")
    rule = Syscall(names=["socket"], action="SCMP_ACT_ERRNO", errno_ret=errno.EDOM, args=[vm_sockets])

    def work() -> object:
        seccomp.load(mostly_open(rule), False)
        return [
            failure(lambda: socket.socket(socket.AF_VSOCK)),
            failure(lambda: socket.socket(socket.AF_UNIX)),
        ]

    assert in_child(work) == ["EDOM", None]


@pytest.mark.parametrize("action", ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL", "SCMP_ACT_TRAP"])
def test_a_deadly_call(action: str) -> None:
    def work() -> object:
        seccomp.load(mostly_open(refuse("mkdir", action=action)), False)
        return failure(lambda: os.mkdir("/x"))

    assert in_child(work) == -signal.SIGSYS


def test_flags_are_taken_by_the_kernel() -> None:
    def work() -> object:
        config = mostly_open(refuse("mkdir"), flags=list(seccomp.FLAGS)[:3])
        seccomp.install(seccomp.compile(config), seccomp.flags(config))
        return failure(lambda: os.mkdir("/x"))

    assert in_child(work) == "EPERM"


def test_without_rights_no_new_privileges_is_needed() -> None:
    def work() -> object:
        os.setresuid(1000, 1000, 1000)
        config = mostly_open(refuse("mkdir"))
        try:
            seccomp.load(config, False)
        except PermissionDenied as error:
            assert "CAP_SYS_ADMIN or no_new_privileges" in str(error)
        else:
            return "no error"
        seccomp.load(config, True)
        return failure(lambda: os.mkdir("/tmp/x"))

    assert in_child(work) == "EPERM"


def test_the_default_profile_lets_ordinary_programs_run_and_no_more() -> None:
    host = Host(kernel=(6, 1), architecture=os.uname().machine, capabilities=frozenset(ALL), cgroup_version=1)
    config = seccomp_profile.resolve(None, host, list(DEFAULT))
    assert config is not None

    def work() -> object:
        seccomp.load(config, False)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(writer, 1)
            os.execv("/bin/sh", ["sh", "-c", "echo $((6 * 7))"])
        os.waitpid(child, 0)
        return [
            os.read(reader, 100).decode().strip(),
            failure(lambda: unshare(CLONE_NEWUSER)),
            failure(lambda: socket.socket(socket.AF_VSOCK)),
            failure(lambda: socket.socket(38)),  # AF_ALG
        ]

    assert in_child(work) == ["42", "EPERM", "EPERM", "EPERM"]


def lists(sets: capabilities.Sets) -> dict[str, list[str]]:
    kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
    return {kind: capabilities.names(getattr(sets, kind)) for kind in kinds}


def test_capabilities_of_root() -> None:
    wanted = Capabilities(
        bounding=["CAP_CHOWN", "CAP_KILL"], effective=["CAP_CHOWN"], permitted=["CAP_CHOWN", "CAP_KILL"]
    )

    def work() -> object:
        sets = capabilities.resolve(wanted)
        capabilities.drop_bounding(sets)
        warnings = capabilities.set_sets(sets)
        return [warnings, lists(capabilities.current())]

    assert in_child(work) == [
        [],
        {
            "bounding": ["CAP_CHOWN", "CAP_KILL"],
            "effective": ["CAP_CHOWN"],
            "permitted": ["CAP_CHOWN", "CAP_KILL"],
            "inheritable": [],
            "ambient": [],
        },
    ]


def test_capabilities_survive_a_change_of_user_only_by_keep_and_exec_only_as_ambient() -> None:
    some = ["CAP_NET_RAW", "CAP_CHOWN"]
    wanted = Capabilities(
        bounding=some, effective=some, permitted=some, inheritable=["CAP_NET_RAW"], ambient=["CAP_NET_RAW"]
    )

    def work() -> object:
        sets = capabilities.resolve(wanted)
        capabilities.drop_bounding(sets)
        capabilities.keep(True)
        os.setresuid(1000, 1000, 1000)
        capabilities.keep(False)
        capabilities.set_sets(sets)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(writer, 1)
            os.execv("/bin/sh", ["sh", "-c", "grep CapEff /proc/self/status"])
        os.waitpid(child, 0)
        after_exec = int(os.read(reader, 100).split()[1], 16)
        return [lists(capabilities.current())["effective"], capabilities.names(after_exec)]

    assert in_child(work) == [["CAP_CHOWN", "CAP_NET_RAW"], ["CAP_NET_RAW"]]


def test_an_ambient_capability_that_cannot_be_is_a_warning() -> None:
    wanted = Capabilities(
        bounding=["CAP_CHOWN"], effective=["CAP_CHOWN"], permitted=["CAP_CHOWN"], ambient=["CAP_CHOWN"]
    )

    def work() -> object:
        return capabilities.set_sets(capabilities.resolve(wanted))

    assert in_child(work) == ["can't raise ambient capability CAP_CHOWN: Operation not permitted"]


def test_what_the_process_lacks_is_named() -> None:
    def work() -> object:
        capabilities.set_sets(capabilities.resolve(Capabilities(permitted=["CAP_CHOWN"])))
        capabilities.set_sets(capabilities.resolve(Capabilities(permitted=["CAP_KILL"])))
        return "no error"

    answer = in_child(work)
    assert answer == (
        "PermissionDenied: unable to apply caps: operation not permitted; "
        "permitted, but not permitted before: CAP_KILL"
    )


def test_the_kernel_has_what_it_says() -> None:
    assert seccomp.available()
    assert capabilities.last_cap() == capabilities._probe_last_cap()
