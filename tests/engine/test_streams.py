"""Attach, exec and terminals: hijacked connections, by the real CLI and by hand."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.engine_stack import Hijack, Stack
from support.peers import peer

pytestmark = [pytest.mark.root, pytest.mark.peers]


def on_a_terminal(
    stack: Stack, *arguments: str, talk: Sequence[tuple[str, str]] = (), rows: int = 33, columns: int = 77
) -> tuple[int, str]:
    """Run the CLI on a terminal: whenever the first text has come, type the second."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    command: list[str | Path] = [peer("docker"), *arguments]
    process = subprocess.Popen(
        command, env=stack.engine.env, stdin=side, stdout=side, stderr=side, start_new_session=True
    )
    os.close(side)
    try:
        seen, waiting, deadline = "", list(talk), time.monotonic() + 30
        while time.monotonic() < deadline:
            if waiting and waiting[0][0] in seen:
                os.write(main, waiting.pop(0)[1].encode())
            if select.select([main], [], [], 0.1)[0]:
                try:
                    seen += os.read(main, 65536).decode(errors="replace")
                except OSError:
                    break  # the other side is closed
            elif process.poll() is not None:
                break
        return process.wait(timeout=10), seen
    finally:
        process.kill()
        os.close(main)


def test_a_terminal_has_the_client_s_size(engine_stack: Stack) -> None:
    talk = [("# ", "tty; stty size; echo $TERM; exit 5\n")]
    code, seen = on_a_terminal(engine_stack, "run", "-it", "--rm", "busybox", "sh", talk=talk)
    assert code == 5
    assert "/dev/pts/0\r\n33 77\r\nxterm" in seen


def test_detach_keys_leave_the_container_running(engine_stack: Stack) -> None:
    talk = [("# ", "echo is $((40+2))\n"), ("is 42", "\x10\x11")]
    code, _ = on_a_terminal(engine_stack, "run", "-it", "--name", "left", "busybox", "sh", talk=talk)
    assert code == 0
    assert engine_stack.state("left") == "running"
    talk = [("", "echo again $((50+1))\n"), ("again 51", "exit 6\n")]
    assert on_a_terminal(engine_stack, "attach", "left", talk=talk)[0] == 6


def test_exec_streams_codes_and_settings(engine_stack: Stack) -> None:
    engine_stack.docker("run", "-d", "--name", "box", "busybox", "sleep", "100")
    done = engine_stack.engine.docker(
        "exec", "-e", "A=b", "-w", "/var", "-u", "daemon", "box", "sh", "-c",
        "echo $A $(pwd) $(id -u); echo err >&2; exit 4", check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (4, "b /var 1\n", "err\n")
    assert engine_stack.docker("exec", "-i", "box", "cat", input="through\n") == "through\n"
    engine_stack.docker("exec", "-d", "box", "sh", "-c", "echo made > /tmp/made")
    wait = "until [ -s /tmp/made ]; do sleep 0.05; done; cat /tmp/made"
    assert engine_stack.docker("exec", "box", "sh", "-c", wait) == "made\n"


def test_exec_that_cannot_run(engine_stack: Stack) -> None:
    engine_stack.docker("run", "-d", "--name", "box", "busybox", "sleep", "100")
    done = engine_stack.engine.docker("exec", "box", "nosuch", check=False)
    assert done.returncode == 127
    assert "executable file not found in $PATH" in done.stdout + done.stderr
    engine_stack.docker("stop", "-t", "0", "box")
    assert "is not running" in engine_stack.fails("exec", "box", "true")[1]
    assert "No such container: nobox" in engine_stack.fails("exec", "nobox", "true")[1]


def test_exec_on_a_terminal(engine_stack: Stack) -> None:
    engine_stack.docker("run", "-d", "--name", "box", "busybox", "sleep", "100")
    talk = [("# ", "tty; stty size; exit 8\n")]
    code, seen = on_a_terminal(engine_stack, "exec", "-it", "box", "sh", talk=talk)
    assert code == 8
    assert "/dev/pts/0\r\n33 77" in seen


def test_exec_is_inspected_after_its_end(engine_stack: Stack) -> None:
    engine_stack.docker("run", "-d", "--name", "box", "busybox", "sleep", "100")
    body = {"Cmd": ["sh", "-c", "exit 11"], "AttachStdout": True}
    _, made = engine_stack.ask("POST", "/containers/box/exec", body)
    path = f"/exec/{made['Id']}"
    with Hijack(engine_stack.engine.socket, f"{path}/start", {"Detach": False, "Tty": False}) as connection:
        assert connection.status == 101
        assert connection.frames() == []
    _, found = engine_stack.ask("GET", f"{path}/json")
    assert (found["ExitCode"], found["Running"]) == (11, False)
    assert found["ProcessConfig"]["entrypoint"] == "sh"
    status, again = engine_stack.ask("POST", f"{path}/start", {"Detach": True})
    assert (status, "has already run" in again["message"]) == (409, True)


def attached(stack: Stack, script: str, query: str, **config: object) -> tuple[str, Hijack]:
    """A created container and a connection attached to it."""
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], **config}
    _, made = stack.ask("POST", "/containers/create", body)
    return made["Id"], Hijack(stack.engine.socket, f"/containers/{made['Id']}/attach?stream=1&{query}")


def test_attach_is_framed_and_survives_a_half_close(engine_stack: Stack) -> None:
    """The CLI closes its half at once when it has no stdin to send (seams.md, trap 2)."""
    script = "echo out; echo err >&2"
    container, connection = attached(engine_stack, script, "stdout=1&stderr=1")
    with connection:
        assert connection.head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
        assert b"Content-Length" not in connection.head
        connection.end_input()
        assert engine_stack.ask("POST", f"/containers/{container}/start")[0] == 204
        assert sorted(connection.frames()) == [(1, b"out\n"), (2, b"err\n")]


def test_attach_shows_only_what_was_asked_for(engine_stack: Stack) -> None:
    container, connection = attached(engine_stack, "echo out; echo err >&2", "stderr=1")
    with connection:
        engine_stack.ask("POST", f"/containers/{container}/start")
        assert connection.frames() == [(2, b"err\n")]


def test_attach_replays_the_log(engine_stack: Stack) -> None:
    engine_stack.docker("run", "-d", "--name", "old", "busybox", "sh", "-c", "echo early; exec sleep 100")
    engine_stack.wait_log("old", "early")
    path = "/containers/old/attach?logs=1&stdout=1"
    with Hijack(engine_stack.engine.socket, path) as connection:
        assert connection.frames() == [(1, b"early\n")]


def test_two_clients_see_the_same(engine_stack: Stack) -> None:
    settings = {"OpenStdin": True, "Tty": True}
    container, first = attached(engine_stack, "read x; echo got $x", "stdin=1&stdout=1", **settings)
    second = Hijack(engine_stack.engine.socket, f"/containers/{container}/attach?stream=1&stdout=1")
    with first, second:
        engine_stack.ask("POST", f"/containers/{container}/start")
        first.send(b"this\n")
        assert b"got this" in first.read_to_end()
        assert b"got this" in second.read_to_end()


def test_a_client_that_vanishes_harms_nobody(engine_stack: Stack) -> None:
    script = "while :; do echo line; sleep 0.01; done"
    container, connection = attached(engine_stack, script, "stdout=1")
    engine_stack.ask("POST", f"/containers/{container}/start")
    connection.read_until(b"line")
    connection.__exit__()
    _, answer = engine_stack.ask("GET", f"/containers/{container}/json")
    assert answer["State"]["Running"]
    before = engine_stack.docker("logs", container)
    engine_stack.docker("stop", "-t", "0", container)
    assert len(engine_stack.docker("logs", container)) >= len(before)


def test_a_client_that_does_not_read_does_not_stop_the_log(engine_stack: Stack) -> None:
    """Megabytes beyond what the socket holds are buffered; the process ends all the same."""
    script = "dd if=/dev/zero bs=65536 count=100 2>/dev/null | tr '\\0' x; echo done"
    container, connection = attached(engine_stack, script, "stdout=1")
    with connection:
        engine_stack.ask("POST", f"/containers/{container}/start")
        assert engine_stack.docker("wait", container) == "0\n"
        assert sum(len(data) for _, data in connection.frames()) == 100 * 65536 + 5


def test_attach_to_nothing_is_404(engine_stack: Stack) -> None:
    with Hijack(engine_stack.engine.socket, "/containers/none/attach?stream=1&stdout=1") as connection:
        assert connection.status == 404
