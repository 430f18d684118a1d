"""NOTIFY_SOCKET and LISTEN_FDS: what systemd passes to a service, and what the container makes of it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway.errors import FailedPrecondition
from cutaway.runc import notify, state
from runc.bundles import Bundle, Runtime
from support.process import wait_until

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture
def host(place: Path) -> Iterator[socket.socket]:
    """Where systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(os.fspath(place / "host"))
        listener.settimeout(20)
        yield listener


def say(runtime: Runtime, name: str, *messages: str) -> None:
    """Speak as the container's program would, on the container's socket, once that is there."""
    path = runtime.root / name / "notify/notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(os.fspath(path))
        for message in messages:
            client.send(message.encode())


def finish(process: subprocess.Popen[bytes]) -> int:
    return process.wait(20)


def test_ready_is_passed_on_with_the_pid_and_nothing_else(
    runtime: Runtime, bundle: Bundle, name: str, place: Path, host: socket.socket
) -> None:
    env = {**os.environ, "NOTIFY_SOCKET": os.fspath(place / "host")}
    bundle.config["root"]["readonly"] = False
    bundle.shell("echo $NOTIFY_SOCKET > /socket; ls -d $NOTIFY_SOCKET >> /socket; touch /there; sleep 1000")
    quiet = subprocess.DEVNULL
    command = runtime.command("create", "--bundle", bundle, name)
    subprocess.run(command, check=True, env=env, stdin=quiet, stdout=quiet, stderr=quiet)
    with subprocess.Popen(runtime.command("start", name), env=env) as starting:
        wait_until((bundle.rootfs / "there").exists, "the program runs")
        assert starting.poll() is None  # start waits for the program's word
        say(runtime, name, "STATUS=coming", "READY=1\nSTATUS=up")
        heard = [host.recv(100).decode() for _ in range(2)]
        pid = runtime.state(name)["pid"]
        assert heard == ["READY=1\n", f"MAINPID={pid}\n"]
        if runtime.ours:  # as runc 1.2: and it waits until the host has closed what comes with it
            assert host.recv(100) == b"BARRIER=1"
        assert finish(starting) == 0
    told = (bundle.rootfs / "socket").read_text().split()
    assert told == ["/run/notify/notify.sock"] * 2
    runtime("delete", "--force", name)
    assert not (runtime.root / name).exists()


def test_run_ends_with_a_program_that_never_was_ready(
    ours: Runtime, bundle: Bundle, name: str, place: Path, host: socket.socket
) -> None:
    # runc 1.1 waits for ever here: the program is its own child, and as a zombie still there.
    env = {"NOTIFY_SOCKET": os.fspath(place / "host")}
    assert ours("run", "--detach", "--bundle", bundle, name, env=env).code == 0
    ours.wait_for(name, "stopped")
    host.setblocking(False)
    with pytest.raises(BlockingIOError):
        host.recv(100)


def test_the_foreground_is_the_main_process(
    ours: Runtime, bundle: Bundle, name: str, place: Path, host: socket.socket
) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    env = {**os.environ, "NOTIFY_SOCKET": os.fspath(place / "host")}
    with subprocess.Popen(ours.command("run", "--bundle", bundle, name), env=env) as running:
        wait_until((ours.root / name / "notify/notify.sock").exists, "the socket is there")
        say(ours, name, "READY=1")
        assert [host.recv(100).decode() for _ in range(2)] == ["READY=1\n", f"MAINPID={running.pid}\n"]
        ours.wait_for(name, "running")
        ours("kill", name, "KILL")
        assert finish(running) == 137


def test_a_container_created_without_has_no_socket_to_start_with(
    runtime: Runtime, bundle: Bundle, name: str, place: Path
) -> None:
    runtime.detached("create", "--bundle", bundle, name)
    result = runtime("start", name, env={"NOTIFY_SOCKET": os.fspath(place / "host")})
    assert result.code == 1
    assert result.error.startswith("listen unixgram")
    assert result.error.endswith("bind: no such file or directory")


def test_nobody_listening_is_said(place: Path) -> None:
    record = state.Record(oci_version="1", id="x", bundle="/", rootfs="/", created="")
    container = state.Container(os.fspath(place), record)
    (place / "x/notify").mkdir(parents=True)
    proxy = notify.Proxy(container, os.fspath(place / "nobody"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(os.fspath(place / "x/notify/notify.sock"))
        client.send(b"READY=1")
    with pytest.raises(FailedPrecondition, match="connect: no such file or directory"):
        proxy.forward(os.getpid(), os.getpid())


@pytest.mark.parametrize("words", [("run",), ("create",)])
def test_socket_activation(
    runtime: Runtime, bundle: Bundle, name: str, place: Path, words: tuple[str, ...]
) -> None:
    """As systemd does it: descriptor 3, LISTEN_FDS, and LISTEN_PID of the very process that gets them."""
    (place / "passed").write_text("activated\n")
    bundle.config["root"]["readonly"] = False
    bundle.shell("cat <&3 >/result; cat <&4 >>/result; echo $LISTEN_FDS $LISTEN_PID >>/result")
    (place / "more").write_text("preserved\n")
    script = f'exec 3<{place}/passed 4<{place}/more; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
    command = runtime.command(*words, "--preserve-fds", "1", "--bundle", bundle, name)
    subprocess.run(
        ["sh", "-c", script, "sh", *command],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=30,
    )
    if words == ("create",):
        runtime("start", name)
        runtime.wait_for(name, "stopped")
    assert (bundle.rootfs / "result").read_text() == "activated\npreserved\n1 1\n"


def test_descriptors_for_another_process_are_not_passed(runtime: Runtime, bundle: Bundle, name: str) -> None:
    env = {"LISTEN_FDS": "1", "LISTEN_PID": "1"}
    result = runtime("run", "--bundle", bundle.shell("echo [$LISTEN_FDS]"), name, env=env)
    assert result.out == "[]\n"
