"""The real dockerd on our daemon over time: events, health, restarts of containers, and of dockerd itself."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from support.leftovers import Leftovers, temporary_base
from support.netns import NetNs
from support.peers import VENV_BIN, need
from support.process import has_ended, wait_until
from support.stack import OurContainerd, RealDockerd, substitute

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture(scope="module", params=["runc", "cutaway"])
def docker(request: pytest.FixtureRequest) -> Iterator[RealDockerd]:
    """dockerd with --live-restore; the shim of runc that it asks for is that or ours."""
    need("dockerd", "docker", "containerd-shim-runc-v2", "runc", "busybox")
    with temporary_base() as base, NetNs() as netns:
        ours = {"containerd_shim_runc_v2": VENV_BIN / "containerd-shim-cutaway-v1"}
        prefix = [substitute(base / "bin", **(ours if request.param == "cutaway" else {}))]
        with OurContainerd(base, netns, prefix) as containerd:
            with RealDockerd(
                base, netns, containerd_socket=containerd.address, extra_args=["--live-restore"]
            ) as dockerd:
                dockerd.load_busybox()
                yield dockerd
                stray = [mount for mount in Leftovers.snapshot(base).mounts if "/overlay2/" in mount]
                assert not stray


def inspect(docker: RealDockerd, name: str, field: str) -> object:
    return json.loads(docker.docker("inspect", "--format", f"{{{{json {field}}}}}", name).stdout)


def status(docker: RealDockerd, name: str) -> object:
    return inspect(docker, name, ".State.Status")


def pid_of(docker: RealDockerd, name: str) -> int:
    pid = inspect(docker, name, ".State.Pid")
    assert isinstance(pid, int)
    return pid


def remove(docker: RealDockerd, name: str) -> None:
    docker.docker("rm", "-f", name)


def actions(docker: RealDockerd, name: str) -> list[str]:
    """What dockerd has told of a container so far; of the last second perhaps not all."""
    told = docker.docker(
        "events", "--since", "10m", "--until", "0s", "--filter", f"container={name}", "--format",
        '{{.Action}} {{index .Actor.Attributes "exitCode"}}',
    )  # fmt: skip
    return [line.strip() for line in told.stdout.splitlines()]


def test_events_tell_a_container_s_life(docker: RealDockerd) -> None:
    docker.docker("run", "--name", "told", "busybox", "sh", "-c", "exit 3", check=False)
    docker.docker("start", "told")
    wait_until(lambda: status(docker, "told") == "exited", "it ends again")
    docker.docker("rm", "told")
    wait_until(lambda: "destroy" in actions(docker, "told"), "the last event is told")
    assert actions(docker, "told") == [
        "create", "attach", "start", "die 3", "start", "die 3", "destroy",
    ]  # fmt: skip


def test_an_exec_and_an_oom_are_told(docker: RealDockerd) -> None:
    limits = ["--memory", "16m", "--memory-swap", "16m"]
    docker.docker("run", "-d", "--name", "full", *limits, "busybox", "sleep", "1000")
    eat = "x=$(dd if=/dev/zero bs=1M count=64 2>/dev/null | tr '\\0' a); echo done"
    assert docker.docker("exec", "full", "sh", "-c", eat, check=False).returncode == 137
    wait_until(lambda: {"oom", "exec_die 137"} <= set(actions(docker, "full")), "both are told")
    assert any(one.startswith("exec_start: sh") for one in actions(docker, "full"))
    remove(docker, "full")


def test_health_is_checked(docker: RealDockerd) -> None:
    docker.docker(
        "run", "-d", "--name", "patient", "--health-cmd", "test -e /well", "--health-interval", "300ms",
        "--health-retries", "1", "busybox", "sleep", "1000",
    )  # fmt: skip
    health = ".State.Health.Status"
    wait_until(lambda: inspect(docker, "patient", health) == "unhealthy", "the check fails")
    docker.docker("exec", "patient", "touch", "/well")
    wait_until(lambda: inspect(docker, "patient", health) == "healthy", "the check succeeds")
    docker.docker("pause", "patient")
    assert status(docker, "patient") == "paused"
    docker.docker("unpause", "patient")
    remove(docker, "patient")


def test_restart_makes_a_new_process(docker: RealDockerd) -> None:
    docker.docker("run", "-d", "--name", "again", "busybox", "sh", "-c", "echo begun; exec sleep 1000")
    before = pid_of(docker, "again")
    docker.docker("restart", "--time", "0", "again")
    assert pid_of(docker, "again") != before
    wait_until(lambda: docker.docker("logs", "again").stdout == "begun\nbegun\n", "both lives are in the log")
    assert docker.docker("exec", "again", "cat", "/proc/1/comm").stdout == "sleep\n"
    remove(docker, "again")


def test_update_changes_a_running_container(docker: RealDockerd) -> None:
    docker.docker("run", "-d", "--name", "grown", "--memory", "64m", "busybox", "sleep", "1000")
    docker.docker("update", "--memory", "96m", "--memory-swap", "96m", "--pids-limit", "50", "grown")
    shown = docker.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", "grown").stdout
    assert shown.strip().endswith("/ 96MiB")
    docker.docker("update", "--restart", "always", "grown")
    before = pid_of(docker, "grown")
    os.kill(before, signal.SIGKILL)
    wait_until(
        lambda: status(docker, "grown") == "running" and pid_of(docker, "grown") != before, "it runs again"
    )
    remove(docker, "grown")


def test_signals_and_what_is_left_of_a_stop(docker: RealDockerd) -> None:
    trap = "trap 'echo term; exit 4' TERM; while :; do sleep 0.1; done"
    docker.docker("run", "-d", "--name", "polite", "busybox", "sh", "-c", trap)
    docker.docker("stop", "polite")
    assert inspect(docker, "polite", ".State.ExitCode") == 4
    assert docker.docker("logs", "polite").stdout == "term\n"
    assert docker.docker("wait", "polite").stdout == "4\n"
    remove(docker, "polite")


@pytest.mark.parametrize("way", ["stop", "crash"])
def test_containers_outlive_dockerd(docker: RealDockerd, way: str) -> None:
    """--live-restore: dockerd finds them again in our daemon, with what was written meanwhile."""
    write = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done"
    docker.docker("run", "-d", "--name", "lasting", "busybox", "sh", "-c", write)
    docker.docker("run", "-d", "--name", "leaving", "busybox", "sleep", "1000")
    lasting, leaving = pid_of(docker, "lasting"), pid_of(docker, "leaving")
    if way == "stop":
        docker.stop()
    else:
        # The daemon alone: what it has begun goes on.
        docker.process.kill()
    os.kill(leaving, signal.SIGKILL)
    assert has_ended(leaving, 10)
    docker.start()
    assert (status(docker, "lasting"), pid_of(docker, "lasting")) == ("running", lasting)
    wait_until(lambda: status(docker, "leaving") == "exited", "the exit is known")
    assert inspect(docker, "leaving", ".State.ExitCode") == 137
    assert docker.docker("exec", "lasting", "echo", "inside").stdout == "inside\n"
    written = len(docker.docker("logs", "lasting").stdout.splitlines())
    wait_until(
        lambda: len(docker.docker("logs", "lasting").stdout.splitlines()) > written, "its output goes on"
    )
    docker.docker("start", "leaving")
    assert status(docker, "leaving") == "running"
    for name in ("lasting", "leaving"):
        remove(docker, name)
