"""The zygote by the contract on its socket alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.shim.zygote import decode
from support.leftovers import WAITING
from support.process import children, has_ended, name_of, wait_until

SHIM = "/somewhere/containerd-shim-cutaway-v1"


# A machine with no process left to give.
CANNOT_FORK = """
import errno, os, sys
from cutaway.shim import zygote

def fork():
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

os.fork = fork
sys.exit(zygote.main(sys.argv[1:]))
"""


class Caller:
    """The other end."""

    def __init__(self, *program: str) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        with theirs:
            program = program or ("-m", "cutaway.shim.zygote")
            command = [sys.executable, *program, str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])

    def send(self, packet: bytes, descriptors: Sequence[int]) -> None:
        socket.send_fds(self.socket, [packet], list(descriptors))

    def reply(self) -> dict[str, Any]:
        found = json.loads(self.socket.recv(65536))
        assert isinstance(found, dict)
        return found

    def fork(self, id: int, argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> tuple[int, int]:
        """Ask; returns the reading ends of stdout and stderr."""
        out, out_writer = os.pipe()
        err, err_writer = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        request = {"id": id, "argv": list(argv), "env": dict(env), "cwd": os.fspath(cwd)}
        self.send(json.dumps(request).encode(), (null, out_writer, err_writer))
        for fd in (null, out_writer, err_writer):
            os.close(fd)
        return out, err


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    found = Caller()
    yield found
    found.socket.close()
    assert found.process.wait(20) == 0, "it ends when its caller hangs up"


def text(fd: int) -> str:
    with open(fd) as file:
        return file.read()


def test_a_fork_is_what_an_exec_would_be(caller: Caller, tmp_path: Path) -> None:
    out, err = caller.fork(7, [SHIM, "-v"], {"A": "b"}, tmp_path)
    forked = caller.reply()
    assert forked.keys() == {"id", "pid"}
    assert forked["id"] == 7
    assert caller.reply() == {"id": 7, "exit": 0}
    assert text(out).startswith("containerd-shim-cutaway-v1:\n  Version:")
    assert text(err) == ""


def test_a_fork_that_fails_is_answered_and_the_zygote_lives(tmp_path: Path) -> None:
    caller = Caller("-c", CANNOT_FORK)
    for id in (1, 2):
        for fd in caller.fork(id, [SHIM, "-v"], {}, tmp_path):
            os.close(fd)
        assert caller.reply() == {"id": id, "error": "fork: Resource temporarily unavailable"}
    caller.socket.close()
    assert caller.process.wait(20) == 0


def test_a_failure_has_its_code_and_its_words(caller: Caller, tmp_path: Path) -> None:
    out, err = caller.fork(8, [SHIM, "start"], {}, tmp_path)
    assert "pid" in caller.reply()
    assert caller.reply() == {"id": 8, "exit": 1}
    assert (text(out), text(err)) == ("", "containerd-shim-cutaway-v1: shim namespace cannot be empty")


def test_a_folder_that_is_not_there_is_a_failure_of_the_child_alone(caller: Caller) -> None:
    out, err = caller.fork(9, [SHIM, "-v"], {}, Path("/nonexistent"))
    assert "pid" in caller.reply()
    assert caller.reply() == {"id": 9, "exit": 1}
    assert "/nonexistent" in text(err)
    os.close(out)


def test_several_at_once_are_told_apart(caller: Caller, tmp_path: Path) -> None:
    pipes = [caller.fork(id, [SHIM, "-v"], {}, tmp_path) for id in range(20, 25)]
    replies = [caller.reply() for _ in range(10)]
    assert sorted(reply["id"] for reply in replies if "exit" in reply) == list(range(20, 25))
    pids = {reply["pid"] for reply in replies if "pid" in reply}
    assert len(pids) == 5
    for out, err in pipes:
        assert text(out)
        os.close(err)


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        (b"[]", "a request is an object"),
        (b"not json", "Expecting value"),
        (b'{"id": 1, "argv": [], "env": {}, "cwd": "/"}', "argv: not a list of strings"),
        (b'{"id": 1, "argv": ["x", 2], "env": {}, "cwd": "/"}', "argv: not a list of strings"),
        (b'{"id": 1, "argv": ["x"], "env": {"a": 1}, "cwd": "/"}', "env: not an object of strings"),
        (b'{"id": 1, "argv": ["x"], "env": {}, "cwd": 3}', "cwd: not a string"),
        (b'{"id": 1, "argv": ["x"], "env": {}, "cwd": "/"}', "0 descriptors instead of 3"),
    ],
)
def test_a_request_that_is_not_understood_is_answered(caller: Caller, packet: bytes, said: str) -> None:
    caller.send(packet, ())
    reply = caller.reply()
    assert said in reply["error"]
    assert "pid" not in reply


@given(st.binary(max_size=300) | st.text().map(str.encode) | st.recursive(
    st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_packet_is_a_request_or_a_value_error(packet: bytes) -> None:
    try:
        decode(packet)
    except ValueError:
        return


def test_descriptors_do_not_pile_up(caller: Caller, tmp_path: Path) -> None:
    def count() -> int:
        return len(os.listdir(f"/proc/{caller.process.pid}/fd"))

    def fork(id: int) -> None:
        out, err = caller.fork(id, [SHIM, "-v"], {}, tmp_path)
        caller.reply()
        caller.reply()
        os.close(out)
        os.close(err)

    fork(29)  # by its first answer it has all that it keeps
    before = count()
    for id in range(30, 36):
        fork(id)
    assert count() == before


def waiting(caller: Caller) -> list[int]:
    return [pid for pid in children().get(caller.process.pid, []) if name_of(pid) == WAITING]


def one_that_waits(caller: Caller, *others: int) -> int:
    wait_until(lambda: len(waiting(caller)) == 1 and not {*waiting(caller)} & {*others}, "a shim waits")
    (pid,) = waiting(caller)
    return pid


def start(caller: Caller, id: int, folder: Path) -> int:
    """Ask for a start that fails; returns whose it was."""
    out, err = caller.fork(id, [SHIM, "start"], {}, folder)
    pid = caller.reply()["pid"]
    assert caller.reply() == {"id": id, "exit": 1}
    assert (text(out), text(err)) == ("", "containerd-shim-cutaway-v1: shim namespace cannot be empty")
    assert isinstance(pid, int)
    return pid


def test_a_start_is_for_the_shim_that_waits_and_another_comes(caller: Caller, tmp_path: Path) -> None:
    first = one_that_waits(caller)
    assert start(caller, 40, tmp_path) == first
    assert start(caller, 41, tmp_path) != first, "forked at once"
    one_that_waits(caller, first)


def test_nothing_but_a_start_is_for_the_shim_that_waits(caller: Caller, tmp_path: Path) -> None:
    first = one_that_waits(caller)
    for fd in caller.fork(42, [SHIM, "-v"], {}, tmp_path):
        os.close(fd)
    assert caller.reply()["pid"] != first
    caller.reply()
    assert waiting(caller) == [first]


def test_a_shim_that_has_died_waiting_is_not_missed(caller: Caller, tmp_path: Path) -> None:
    first = one_that_waits(caller)
    os.kill(first, signal.SIGKILL)
    assert has_ended(first, 10)
    assert start(caller, 43, tmp_path) != first
    one_that_waits(caller, first)


def test_the_shim_that_waits_ends_with_the_zygote_and_so_do_its_children() -> None:
    caller = Caller()
    pid = one_that_waits(caller)
    wait_until(lambda: len(children().get(pid, [])) == 2, "children for the runtime's create and start")
    first, second = children()[pid]
    caller.process.kill()
    caller.process.wait(20)
    assert has_ended(pid, 10)
    assert has_ended(first, 10)
    assert has_ended(second, 10)
    caller.socket.close()


def test_the_zygote_loads_nothing_that_is_the_daemons_alone() -> None:
    """What it has, every fork has to carry."""
    program = "import sys; from cutaway.shim import zygote; zygote.preload(); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert "json" in loaded
    assert not loaded & {
        "_hashlib",
        "_ssl",
        "asyncio",
        "inspect",
        "logging",
        "random",
        "subprocess",
        "zstandard",
    }
