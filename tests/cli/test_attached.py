"""Streams, signals and terminals of attached containers, on a real dockerd."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.side_by_side import CUTAWAY, SideBySide
from support.peers import peer

pytestmark = [pytest.mark.root, pytest.mark.peers]

WITHIN = 30.0


class Attached:
    """A command that runs while the test talks to it, on pipes or on a terminal."""

    def __init__(self, both: SideBySide, program: Path, *words: str, tty: bool = False) -> None:
        self.seen = b""
        env = both.engine.env
        if tty:
            self._ours, theirs = os.openpty()
            self.process = subprocess.Popen(
                ["setsid", "-c", program, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=env
            )
            os.close(theirs)
            self.stdin = self._ours
        else:
            self._ours, theirs = os.pipe()
            self.process = subprocess.Popen(
                [program, *words], stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, env=env
            )
            os.close(theirs)
            assert self.process.stdin is not None
            self.stdin = self.process.stdin.fileno()

    def type(self, data: bytes) -> None:
        os.write(self.stdin, data)

    def until(self, text: bytes) -> None:
        """Read until the output has this in it."""
        deadline = time.monotonic() + WITHIN
        while text not in self.seen:
            assert self._read(deadline), f"ended, or {WITHIN:g} s passed, without {text!r}: {self.seen!r}"

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
        try:
            data = os.read(self._ours, 65536) if ready else b""
        except OSError:  # a terminal whose other side is closed
            data = b""
        self.seen += data
        return bool(data)

    def end(self) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + WITHIN
        while self._read(deadline):
            continue
        return self.process.wait(WITHIN)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        os.close(self._ours)


@contextmanager
def attached(both: SideBySide, *words: str, tty: bool = False, program: Path = CUTAWAY) -> Iterator[Attached]:
    command = Attached(both, program, *words, tty=tty)
    try:
        yield command
    finally:
        command.close()


@pytest.fixture
def name(both: SideBySide) -> Iterator[str]:
    """A container's name, free now and again after the test."""
    both.remove("attached")
    yield "attached"
    both.remove("attached")


def test_stdin_reaches_the_container_and_so_does_its_end(both: SideBySide) -> None:
    seen = both.same("run", "--rm", "-i", "busybox", "sh", "-c", "wc -c; echo done >&2", input="x" * 1000)
    assert (seen.out.strip(), seen.err) == ("1000", "done\n")


def test_without_i_stdin_is_left_alone(both: SideBySide) -> None:
    assert both.same("run", "--rm", "busybox", "cat", input="not for you").out == ""


def test_much_data_both_ways(both: SideBySide, tmp_path: Path) -> None:
    data = hashlib.sha256(b"seed").digest() * 250_000
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open("rb") as given:
        done = subprocess.run(
            [CUTAWAY, "run", "--rm", "-i", "busybox", "cat"],
            check=False,
            stdin=given,
            capture_output=True,
            env=both.engine.env,
        )
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout == data


def test_output_that_nobody_wants_any_more_ends_it(both: SideBySide, name: str) -> None:
    command = [str(CUTAWAY), "run", "--rm", "--name", name, "busybox", "yes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=both.engine.env) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"y\n"
        process.stdout.close()
        assert process.wait(WITHIN) == -signal.SIGPIPE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_passed_on(both: SideBySide, name: str, number: signal.Signals) -> None:
    script = (
        f"trap 'echo got; exit 5' {number.name.removeprefix('SIG')}; echo ready; while :; do sleep 0.05; done"
    )
    with attached(both, "run", "--rm", "--name", name, "busybox", "sh", "-c", script) as command:
        command.until(b"ready")
        command.process.send_signal(number)
        command.until(b"got")
        assert command.end() == 5


def test_a_container_killed_by_a_signal_exits_with_128_and_its_number(both: SideBySide, name: str) -> None:
    with attached(
        both, "run", "--rm", "--name", name, "busybox", "sh", "-c", "echo ready; sleep 1000"
    ) as command:
        command.until(b"ready")
        both.docker("kill", "-s", "KILL", name)
        assert command.end() == 137


def test_without_proxying_a_signal_ends_the_client_only(both: SideBySide, name: str) -> None:
    words = ("run", "--sig-proxy=false", "--name", name, "busybox", "sh", "-c", "echo ready; sleep 1000")
    with attached(both, *words) as command:
        command.until(b"ready")
        command.process.terminate()
        assert command.end() == -signal.SIGTERM
    assert both.docker("inspect", "-f", "{{.State.Running}}", name).out == "true\n"


def test_attach_joins_and_leaves_with_the_container(both: SideBySide, name: str) -> None:
    script = "while read line; do echo got $line; test $line = end && exit 6; done"
    both.docker("run", "-d", "-i", "--name", name, "busybox", "sh", "-c", script)
    with attached(both, "attach", name) as command:
        command.type(b"one\n")
        command.until(b"got one")
        command.type(b"end\n")
        assert command.end() == 6


def test_logs_follow(both: SideBySide, name: str) -> None:
    both.docker(
        "run", "-d", "-i", "--name", name, "busybox", "sh", "-c", "echo first; sleep 1; echo second >&2"
    )
    with attached(both, "logs", "-f", name) as command:
        command.until(b"first")
        command.until(b"second")
        assert command.end() == 0


@pytest.mark.parametrize("program", [CUTAWAY, None])
def test_a_terminal(both: SideBySide, name: str, program: Path | None) -> None:
    words = ("run", "--rm", "-it", "--name", name, "busybox", "sh")
    with attached(both, *words, tty=True, program=program or peer("docker")) as command:
        command.until(b"# ")
        command.type(b"tty; stty size; echo $((40 + 2)); exit 9\n")
        command.until(b"/dev/pts/0\r\n")
        command.until(b"42\r\n")
        assert command.end() == 9


def test_a_terminals_size_follows_ours(both: SideBySide, name: str) -> None:
    words = ("run", "--rm", "-it", "--name", name, "busybox", "sh")
    with attached(both, *words, tty=True) as command:
        command.until(b"# ")
        import fcntl
        import struct
        import termios

        fcntl.ioctl(command.stdin, termios.TIOCSWINSZ, struct.pack("4H", 33, 77, 0, 0))
        command.type(b"while test \"$(stty size)\" != '33 77'; do sleep 0.05; done; echo re''sized; exit\n")
        command.until(b"resized")
        assert command.end() == 0


def test_our_terminal_is_as_before_afterwards(both: SideBySide, name: str) -> None:
    script = f"stty -a > /proc/self/fd/1; {CUTAWAY} run --rm -it --name {name} busybox true; stty -a"
    with attached(both, "-c", script, tty=True, program=Path("/bin/sh")) as command:
        assert command.end() == 0
    half = len(command.seen) // 2
    assert command.seen[:half] == command.seen[half:]


@pytest.mark.parametrize("program", [CUTAWAY, None])
def test_detaching(both: SideBySide, name: str, program: Path | None) -> None:
    words = ("run", "-it", "--name", name, "busybox", "sh", "-c", "echo ready; exec sleep 1000")
    with attached(both, *words, tty=True, program=program or peer("docker")) as command:
        command.until(b"ready")
        command.type(b"\x10\x11")
        assert command.end() == 0
    assert both.docker("inspect", "-f", "{{.State.Running}}", name).out == "true\n"


@pytest.mark.parametrize("program", [CUTAWAY, None])
def test_detaching_from_an_attach_by_keys_of_ones_own(
    both: SideBySide, name: str, program: Path | None
) -> None:
    both.docker("run", "-dit", "--name", name, "busybox", "sh", "-c", "echo ready; exec cat")
    words = ("attach", "--detach-keys", "a,ctrl-b", name)
    with attached(both, *words, tty=True, program=program or peer("docker")) as command:
        command.type(b"x\r")
        command.until(b"x\r\nx\r\n")
        command.type(b"a\x02")
        assert command.end() == 1
    assert b"read escape sequence" in command.seen
    assert both.docker("inspect", "-f", "{{.State.Running}}", name).out == "true\n"


def test_exec_on_a_terminal(both: SideBySide, name: str) -> None:
    both.docker("run", "-d", "--name", name, "busybox", "sleep", "1000")
    with attached(both, "exec", "-it", name, "sh", tty=True) as command:
        command.until(b"# ")
        command.type(b"echo $((6 * 7)); exit 4\n")
        command.until(b"42\r\n")
        assert command.end() == 4


def test_exec_with_stdin(both: SideBySide, name: str) -> None:
    both.docker("run", "-d", "--name", name, "busybox", "sleep", "1000")
    seen = both.same("exec", "-i", name, "sh", "-c", "cat; exit 3", input="words\n")
    assert (seen.code, seen.out) == (3, "words\n")
