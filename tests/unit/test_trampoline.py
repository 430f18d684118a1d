"""The trampoline: machine code that means what it should, for both machines, and a file nobody can change."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from typing import Final

import pytest

from cutaway.linux import libc, trampoline, trampoline_code
from cutaway.linux.trampoline import Trampoline
from support.emulator import Machine, run_aarch64, run_x86_64

NOT_SUPPORTED: Final = 524  # an errno of the kernel's own, without a text


Run = Callable[[Machine], None]
MACHINES: Final = {"x86_64": (run_x86_64, 59), "aarch64": (run_aarch64, 221)}


@pytest.fixture(params=MACHINES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(
    kind: str, made: Trampoline, argv: list[bytes] | None = None, answers: dict[int, list[int]] | None = None
) -> Machine:
    """Execute it; its own execve fails with ENOENT unless the test says otherwise."""
    emulate, execve = MACHINES[kind]
    words = [b"cutaway", b"/bin/sh", b"sh", b"-c"] if argv is None else argv
    machine = Machine(made.image(kind), words, {execve: [-errno.ENOENT], **(answers or {})})
    emulate(machine)
    assert machine.status == 1
    return machine


def test_executes_the_program_with_what_is_behind_the_marker(kind: str) -> None:
    machine = run(kind, Trampoline())
    ((number, arguments),) = machine.calls
    assert number == MACHINES[kind][1]
    assert machine.text(arguments[0]) == b"/bin/sh"
    assert machine.strings(arguments[1]) == [b"sh", b"-c"]
    assert machine.strings(arguments[2]) == [b"A=1"]


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.EPERM, 133])
def test_says_why_it_could_not(kind: str, code: int) -> None:
    machine = run(kind, Trampoline(), answers={MACHINES[kind][1]: [-code]})
    assert machine.said.decode() == f"exec /bin/sh: {libc.words(code)}\n"


@pytest.mark.parametrize("code", [134, NOT_SUPPORTED, 4095])
def test_an_errno_without_a_text(kind: str, code: int) -> None:
    machine = run(kind, Trampoline(), answers={MACHINES[kind][1]: [-code]})
    assert machine.said == b"exec /bin/sh: unknown error\n"


@pytest.mark.parametrize(
    "argv",
    [
        [b"/proc/self/exe", b"/script", b"x"],
        [b"cutaway", b"/proc/self/exe"],
        [b"cutaway"],
        [b""],
        [],
        [b"cutawayd", b"x", b"y"],
        [b"cutawa", b"x", b"y"],
    ],
)
def test_does_nothing_when_it_is_executed_by_somebody_else(kind: str, argv: list[bytes]) -> None:
    made = Trampoline()
    made.call(77)
    machine = run(kind, made, argv)
    assert machine.calls == []
    assert machine.said == b"exec /proc/self/exe: permission denied\n"


def test_makes_its_calls_in_order_first(kind: str) -> None:
    made = Trampoline()
    where = made.place(b"some data")
    made.call(500, 1, where, 3, 4, 5, failure="first")
    made.call(501, trampoline.PREVIOUS, 7, failure="second")
    made.call(502)
    machine = run(kind, made, answers={500: [42], 502: [-errno.EBADF]})
    assert [number for number, _ in machine.calls] == [500, 501, 502, MACHINES[kind][1]]
    assert machine.calls[0][1] == [1, where, 3, 4, 5]
    assert machine.calls[1][1][:2] == [42, 7]
    assert machine.read(where, 9) == b"some data"


def test_a_call_that_must_not_fail(kind: str) -> None:
    made = Trampoline()
    made.call(500, failure="unable to do it")
    made.call(501, failure="never reached")
    machine = run(kind, made, answers={500: [-errno.EPERM]})
    assert [number for number, _ in machine.calls] == [500]
    assert machine.said == b"unable to do it: operation not permitted\n"


def test_as_many_calls_as_there_is_room_for(kind: str) -> None:
    made = Trampoline()
    for number in range(trampoline.MOST_CALLS - 1):
        made.call(500 + number)
    assert len(run(kind, made).calls) == trampoline.MOST_CALLS
    with pytest.raises(ValueError, match="more than"):
        made.call(600)


def test_the_code_has_room(kind: str) -> None:
    image = Trampoline().image(kind)
    code = image[176 : 176 + 512]
    assert code.rstrip(b"\0") != code  # not cut off by what comes behind it
    assert (
        len(max(map(os.strerror, range(trampoline_code.LAST_ERRNO + 1)), key=len)) < trampoline_code.TEXT - 4
    )


def test_nobody_can_change_it() -> None:
    fd = Trampoline().seal()
    try:
        size = os.fstat(fd).st_size
        for change in (
            lambda: os.pwrite(fd, b"x", 0),
            lambda: os.ftruncate(fd, 0),
            lambda: os.ftruncate(fd, size + 1),
            lambda: fcntl.fcntl(fd, 1033, 0x10),  # F_ADD_SEALS
            lambda: os.close(_written(fd)),
        ):
            with pytest.raises(PermissionError):
                change()
        assert os.fstat(fd).st_size == size
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def _written(fd: int) -> int:
    again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    try:
        os.write(again, b"x")
    finally:
        os.close(again)
    raise AssertionError("written")


def executed(path: str, *program: str, made: Trampoline | None = None) -> tuple[int, str]:
    """Exit code and output of a program executed through a trampoline here."""
    reader, writer = os.pipe()
    fd = (made or Trampoline()).seal()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            trampoline.execute(fd, path, list(program), {"WORD": "value"})
        finally:
            os._exit(99)
    os.close(writer)
    os.close(fd)
    with os.fdopen(reader) as file:
        text = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def test_here() -> None:
    assert executed("/bin/sh", "own name", "-c", 'echo "$0 $1 $WORD"', "a", "b") == (0, "a b value\n")
    assert executed("/no/such", "x") == (1, "exec /no/such: no such file or directory\n")
    assert executed("/etc/passwd", "x") == (1, "exec /etc/passwd: permission denied\n")
    assert executed("/proc/self/exe", "x") == (1, "exec /proc/self/exe: permission denied\n")


def test_here_with_calls() -> None:
    """Open a file below a descriptor, write to it, close it: as labels are told, here an OOM score."""
    procfs = os.open("/proc", os.O_PATH)
    os.set_inheritable(procfs, True)
    made = Trampoline()
    text = b"777"
    path = made.place(b"self/oom_score_adj\0")
    made.call(libc.NUMBERS["openat"], procfs, path, os.O_WRONLY | os.O_CLOEXEC, failure="open")
    made.call(libc.NUMBERS["write"], trampoline.PREVIOUS, made.place(text), len(text), failure="write")
    made.call(libc.NUMBERS["close"], procfs, failure="close")
    try:
        script = f"cat /proc/self/oom_score_adj; ls /proc/self/fd | grep -cx {procfs}"
        assert executed("/bin/sh", "sh", "-c", script, made=made) == (1, "777\n0\n")
    finally:
        os.close(procfs)
