"""The real dockerd on our daemon, with the real shim and with ours: what a user of docker sees."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.leftovers import Leftovers, temporary_base
from support.netns import Command, NetNs
from support.peers import VENV_BIN, need, peer
from support.process import has_ended, wait_until
from support.stack import OurContainerd, RealDockerd, substitute

pytestmark = [pytest.mark.root, pytest.mark.peers]


Stack = tuple[OurContainerd, RealDockerd]


@pytest.fixture(scope="module", params=["runc", "cutaway"])
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """dockerd asks for the shim of runc; what it gets is that or ours."""
    need("dockerd", "docker", "containerd-shim-runc-v2", "runc", "busybox")
    with temporary_base() as base, NetNs() as netns:
        ours = {"containerd_shim_runc_v2": VENV_BIN / "containerd-shim-cutaway-v1"}
        prefix = [substitute(base / "bin", **(ours if request.param == "cutaway" else {}))]
        with OurContainerd(base, netns, prefix) as containerd:
            with RealDockerd(base, netns, containerd_socket=containerd.address) as dockerd:
                dockerd.load_busybox()
                yield containerd, dockerd
                assert not stray(base)


@pytest.fixture
def docker(stack: Stack) -> RealDockerd:
    return stack[1]


def stray(base: Path) -> list[str]:
    """Mounts of containers that are gone."""
    return [mount for mount in Leftovers.snapshot(base).mounts if "/overlay2/" in mount or "/rootfs" in mount]


def state(docker: RealDockerd, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        docker.docker("inspect", "--format", "{{json .State}}", name).stdout
    )
    return found


def test_run(docker: RealDockerd) -> None:
    done = docker.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert docker.docker("ps", "-aq").stdout == ""


def test_run_with_stdin(docker: RealDockerd) -> None:
    assert docker.docker("run", "--rm", "-i", "busybox", "cat", input="a\nb\n").stdout == "a\nb\n"


def test_run_with_a_terminal(docker: RealDockerd) -> None:
    master, slave = pty.openpty()
    command: Command = [peer("docker"), "run", "--rm", "-it", "busybox", "sh", "-c", "tty; exit 5"]
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=docker.env, start_new_session=True
    )
    os.close(slave)
    try:
        assert process.wait(30) == 5
        assert b"/dev/pts/0" in os.read(master, 4096)
    finally:
        process.kill()
        os.close(master)


def test_missing_command(docker: RealDockerd) -> None:
    done = docker.docker("run", "--rm", "busybox", "nosuch", check=False)
    assert done.returncode == 127
    assert 'exec: "nosuch": executable file not found in $PATH: unknown' in done.stderr
    assert docker.docker("ps", "-aq").stdout == ""


def test_life_in_the_background(docker: RealDockerd) -> None:
    docker.docker("run", "-d", "--name", "back", "busybox", "sleep", "1000")
    assert docker.docker("exec", "back", "echo", "inside").stdout == "inside\n"
    assert docker.docker("exec", "back", "sh", "-c", "exit 7", check=False).returncode == 7
    assert docker.docker("exec", "-i", "back", "cat", input="fed").stdout == "fed"
    assert docker.docker("exec", "back", "nosuch", check=False).returncode in (126, 127)
    assert "sleep 1000" in docker.docker("top", "back").stdout
    stats = docker.docker("stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "back").stdout
    assert stats.split()[0] == "1"
    docker.docker("pause", "back")
    assert state(docker, "back")["Status"] == "paused"
    docker.docker("unpause", "back")
    docker.docker("update", "--memory", "64m", "--memory-swap", "128m", "back")
    docker.docker("kill", "--signal", "HUP", "back")
    assert state(docker, "back")["Status"] == "running"
    docker.docker("stop", "--time", "1", "back")
    assert (state(docker, "back")["Status"], state(docker, "back")["ExitCode"]) == ("exited", 137)
    docker.docker("start", "back")
    docker.docker("kill", "back")
    wait_until(lambda: state(docker, "back")["Status"] == "exited", "dockerd has heard of the exit")
    docker.docker("rm", "back")


def test_memory_limit_kills_and_is_told(docker: RealDockerd) -> None:
    eat = "x=$(dd if=/dev/zero bs=1M count=64 2>/dev/null | tr '\\0' a); echo done"
    limits = ["--memory", "16m", "--memory-swap", "16m"]
    done = docker.docker("run", "--name", "eater", *limits, "busybox", "sh", "-c", eat, check=False)
    assert done.returncode == 137
    assert state(docker, "eater")["OOMKilled"] is True
    docker.docker("rm", "eater")


def test_restart_policy(docker: RealDockerd) -> None:
    docker.docker("run", "--name", "phoenix", "--restart", "on-failure:2", "busybox", "false", check=False)
    count = ["inspect", "--format", "{{.RestartCount}} {{.State.Status}}", "phoenix"]
    wait_until(lambda: docker.docker(*count).stdout.strip() == "2 exited", "restarted twice")
    docker.docker("rm", "phoenix")


def test_containers_outlive_our_daemon(stack: Stack) -> None:
    containerd, docker = stack
    docker.docker("run", "-d", "--name", "lasting", "busybox", "sleep", "1000")
    containerd.crash()
    containerd.start()
    wait_until(
        lambda: docker.docker("exec", "lasting", "true", check=False).returncode == 0,
        "dockerd has found our daemon again",
        timeout=30,
    )
    assert state(docker, "lasting")["Status"] == "running"
    docker.docker("kill", "lasting")
    wait_until(lambda: state(docker, "lasting")["Status"] == "exited", "dockerd has heard of the exit")
    docker.docker("rm", "lasting")


@pytest.mark.parametrize("shims", ["live", "die"])
def test_exit_while_our_daemon_is_down_is_told(stack: Stack, shims: str) -> None:
    """dockerd does not ask what it has missed, so it must be told when it comes back."""
    containerd, docker = stack
    docker.docker("run", "-d", "--name", "leaving", "busybox", "sleep", "1000")
    pid = state(docker, "leaving")["Pid"]
    assert isinstance(pid, int)
    shim = parent(pid)
    containerd.crash()
    if shims == "die":
        os.kill(shim, signal.SIGKILL)
        assert has_ended(shim, 10)
    os.kill(pid, signal.SIGKILL)
    assert has_ended(pid, 10)
    containerd.start()
    wait_until(
        lambda: state(docker, "leaving")["Status"] == "exited", "dockerd has heard of the exit", timeout=30
    )
    assert state(docker, "leaving")["ExitCode"] == 137
    docker.docker("start", "leaving")
    assert docker.docker("exec", "leaving", "echo", "again").stdout == "again\n"
    docker.docker("kill", "leaving")
    wait_until(lambda: state(docker, "leaving")["Status"] == "exited", "dockerd has heard of the exit")
    docker.docker("rm", "leaving")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
