"""The commands that work on a container's cgroup, run by ours and by the real runc."""

from __future__ import annotations

import json
import os
import select
import subprocess
from pathlib import Path

import pytest

from cutaway.linux import cgroups
from runc.bundles import Bundle, Runtime, cgroups_named
from support.process import wait_until

pytestmark = pytest.mark.root

MIB = 1 << 20


@pytest.fixture
def running(runtime: Runtime, bundle: Bundle, name: str) -> str:
    """A container that sleeps; its name."""
    bundle.linux["cgroupsPath"] = f"/cw-test/{name}"
    return start(runtime, bundle, name, "sleep 1000")


def start(runtime: Runtime, bundle: Bundle, name: str, script: str) -> str:
    result = runtime.detached("run", "--detach", "--bundle", bundle.shell(script), name)
    assert result.code == 0, result.err
    return name


def pids(name: str) -> list[int]:
    key = "" if cgroups.mode() == "unified" else "devices"
    directory = next(path for path in cgroups_named(name) if f"/cgroup/{key}" in str(path))
    return [int(line) for line in (directory / "cgroup.procs").read_text().split()]


def test_a_frozen_container_can_be_killed(runtime: Runtime, running: str) -> None:
    assert runtime("pause", running).code == 0
    assert runtime("kill", running, "KILL").code == 0
    runtime.wait_for(running, "stopped")
    assert runtime("delete", running).code == 0
    assert cgroups_named(running) == []


def test_a_frozen_container_is_left_frozen_by_other_signals(runtime: Runtime, running: str) -> None:
    assert runtime("pause", running).code == 0
    assert runtime("kill", running, "USR1").code == 0
    assert runtime.status(running) == "paused"
    again = runtime("pause", running)
    assert (again.code, again.error) == (1, "container not running")
    assert runtime("resume", running).code == 0
    assert (runtime("resume", running).error) == "container not paused"


def test_kill_all_reaches_everything_without_a_pid_namespace(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    """Init ends first; what it has left in the cgroup is the container's still."""
    bundle.linux["cgroupsPath"] = f"/cw-test/{name}"
    bundle.linux["namespaces"] = [entry for entry in bundle.linux["namespaces"] if entry["type"] != "pid"]
    start(runtime, bundle, name, "sleep 1000 & sleep 1001 & sleep 1002")
    wait_until(lambda: len(pids(name)) == 3, "all run")
    left = pids(name)
    os.kill(runtime.state(name)["pid"], 9)
    runtime.wait_for(name, "stopped")
    assert runtime("kill", "--all", name, "KILL").code == 0
    wait_until(lambda: not pids(name), "nobody is left")
    assert not [pid for pid in left if Path(f"/proc/{pid}/root/bin/busybox").exists()]
    assert runtime("delete", name).code == 0
    assert cgroups_named(name) == []


def test_kill_all_of_what_is_gone_is_no_error(runtime: Runtime, running: str) -> None:
    assert runtime("kill", "--all", running, "KILL").code == 0
    runtime.wait_for(running, "stopped")
    assert runtime("kill", "--all", running, "KILL").code == 0


def test_delete_removes_cgroups_below(runtime: Runtime, running: str) -> None:
    for directory in cgroups_named(running):
        (directory / "below/deeper").mkdir(parents=True)
    assert runtime("delete", "--force", running).code == 0
    assert cgroups_named(running) == []


def test_ps(runtime: Runtime, running: str) -> None:
    pid = runtime.state(running)["pid"]
    assert json.loads(runtime("ps", "--format", "json", running).out) == [pid]
    table = runtime("ps", running, "-e", "-o", "pid,args").out.splitlines()
    assert [line.split() for line in table] == [["PID", "COMMAND"], [str(pid), "sleep", "1000"]]
    assert str(pid) in runtime("ps", running).out
    assert runtime("ps", "--format", "xml", running).error == "invalid format option"
    assert runtime("ps", running, "-e", "-o", "args").error == "couldn't find PID field in ps output"
    wrong = runtime("ps", running, "--no-such-option")
    assert wrong.code == 1
    assert wrong.error.startswith("exit status 1: ")


@pytest.mark.parametrize(
    ("interval", "message"),
    [("0s", "duration interval must be greater than 0"), ("-1s", "duration interval must be greater than 0")],
)
def test_events_want_an_interval(runtime: Runtime, running: str, interval: str, message: str) -> None:
    result = runtime("events", f"--interval={interval}", running)
    assert (result.code, result.error) == (1, message)


def test_events_want_a_duration(ours: Runtime, bundle: Bundle, name: str) -> None:
    start(ours, bundle, name, "sleep 1000")
    result = ours("events", "--interval", "soon", name)
    assert (result.code, result.error) == (1, 'invalid value "soon" for flag -interval: parse error')


def test_events_tell_of_a_kill_at_once_and_end_with_the_container(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    """The interval is longer than the test may take: only the kernel's notice can bring the line."""
    bundle.linux["cgroupsPath"] = f"/cw-test/{name}"
    bundle.linux["resources"] = {"memory": {"limit": 24 * MIB, "swap": 24 * MIB}}
    start(runtime, bundle, name, "sleep 1000")
    command = runtime.command("events", "--interval", "1h0m0.5s", name)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        try:
            listening = "inotify" if cgroups.mode() == "unified" else "eventfd"
            wait_until(lambda: has(watching.pid, listening), "it listens")
            runtime("exec", name, "tail", "/dev/zero")
            assert select.select([watching.stdout], [], [], 30)[0]
            assert json.loads(watching.stdout.readline()) == {"type": "oom", "id": name}
            runtime("kill", name, "KILL")
            runtime.wait_for(name, "stopped")
            runtime("delete", name)
            assert watching.wait(30) == 0
        finally:
            watching.kill()


def has(pid: int, kind: str) -> bool:
    """Whether a process has a descriptor of such a kind."""
    return any(kind in os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir())


def test_a_used_cgroup_is_warned_of(runtime: Runtime, running: str, bundle: Bundle, name: str) -> None:
    second = f"{name}-second"
    result = runtime("run", "--bundle", bundle.shell("true"), second)
    assert "container's cgroup is not empty: 1 process(es) found" in result.err
    assert "DEPRECATED: running container in a non-empty cgroup " in result.err
    assert runtime.status(running) == "running"


def test_a_frozen_cgroup_is_refused(runtime: Runtime, running: str, bundle: Bundle, name: str) -> None:
    assert runtime("pause", running).code == 0
    result = runtime("run", "--bundle", bundle.shell("true"), f"{name}-second")
    assert (result.code, result.error) == (1, "runc run failed: container's cgroup unexpectedly frozen")
    assert runtime("resume", running).code == 0


@pytest.mark.parametrize(
    ("written", "inner"),
    [("/cw-test/../../cw-test/NAME", "/cw-test/NAME"), ("cw-test/../cw-test/./NAME", "cw-test/NAME")],
)
def test_a_path_cannot_leave_the_hierarchy(
    runtime: Runtime, bundle: Bundle, name: str, written: str, inner: str
) -> None:
    bundle.linux["cgroupsPath"] = written.replace("NAME", name)
    start(runtime, bundle, name, "sleep 1000")
    (directory, *_) = cgroups_named(name)
    assert str(directory).endswith(inner.replace("NAME", name))
    assert directory.parent.parent.parent in (Path("/sys/fs/cgroup"), Path("/sys/fs"))


def test_rdt_is_refused_in_words(runtime: Runtime, running: str) -> None:
    result = runtime("update", "--l3-cache-schema", "L3:0=f", running)
    assert (result.code, result.error) == (1, "Intel RDT/CAT: l3 cache schema is not enabled")
