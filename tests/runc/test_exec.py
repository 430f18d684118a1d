"""A further process in a running container."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runc.bundles import Bundle, Runtime, cgroups_named
from support.process import has_ended

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture
def running(runtime: Runtime, bundle: Bundle, name: str) -> Iterator[str]:
    bundle.process["args"] = ["sleep", "1000"]
    assert runtime.detached("run", "--detach", "--bundle", bundle, name).code == 0
    yield name


def test_it_is_inside_and_its_exit_code_comes_out(runtime: Runtime, running: str) -> None:
    result = runtime("exec", running, "sh", "-c", "cat /proc/1/comm; hostname; exit 7")
    assert (result.code, result.out) == (7, "sleep\nbundle\n")


def test_it_joins_every_namespace_and_cgroup_of_the_container(runtime: Runtime, running: str) -> None:
    pid = runtime.state(running)["pid"]
    kinds = ("mnt", "net", "uts", "ipc", "pid")
    script = "for n in mnt net uts ipc pid; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup"
    lines = runtime("exec", running, "sh", "-c", script).out.splitlines()
    assert lines[: len(kinds)] == [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds]
    assert lines[len(kinds) :] == Path(f"/proc/{pid}/cgroup").read_text().splitlines()


def test_stdin_and_stdout_pass(runtime: Runtime, running: str) -> None:
    assert runtime("exec", running, "cat", stdin="through\n").out == "through\n"


def test_options_change_the_process(runtime: Runtime, running: str) -> None:
    words = [
        "--env",
        "A=b",
        "--cwd",
        "/bin",
        "--user",
        "5:6",
        "--additional-gids",
        "9",
        "--no-new-privs=false",
    ]
    script = "echo $A; pwd; id; grep NoNewPrivs /proc/self/status"
    result = runtime("exec", *words, running, "sh", "-c", script)
    assert result.out == "b\n/bin\nuid=5 gid=6 groups=9\nNoNewPrivs:\t0\n"


def test_a_process_file_says_it_all(runtime: Runtime, running: str, place: Path) -> None:
    process = {
        "args": ["sh", "-c", "echo $A; id; grep CapBnd /proc/self/status"],
        "env": ["PATH=/bin", "A=file"],
        "cwd": "/",
        "user": {"uid": 3, "gid": 4},
        "capabilities": {"bounding": ["CAP_CHOWN"]},
    }
    (place / "process.json").write_text(json.dumps(process))
    result = runtime("exec", "--process", place / "process.json", running)
    assert result.out == "file\nuid=3 gid=4\nCapBnd:\t0000000000000001\n"


def test_cap_adds_a_capability(runtime: Runtime, running: str) -> None:
    result = runtime("exec", "--cap", "CAP_SYS_ADMIN", running, "grep", "CapBnd", "/proc/self/status")
    assert int(result.out.split()[1], 16) >> 21 & 1


def test_detached_it_goes_on_and_its_pid_is_written(runtime: Runtime, running: str, place: Path) -> None:
    pid_file = place / "pid"
    assert runtime.detached("exec", "--detach", "--pid-file", pid_file, running, "sleep", "1000").code == 0
    pid = int((place / "pid").read_text())
    assert pid in json.loads(runtime("ps", "--format", "json", running).out)
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("nope", 'exec: "nope": executable file not found in $PATH'),
        ("/nope", 'exec: "/nope": stat /nope: no such file or directory'),
        ("/bin", 'exec: "/bin": permission denied'),
    ],
)
def test_what_cannot_be_executed(runtime: Runtime, running: str, command: str, message: str) -> None:
    result = runtime("exec", running, command)
    assert result.error == f"exec failed: unable to start container process: {message}"
    assert result.code == 255


def test_without_a_command_it_is_refused(runtime: Runtime, running: str) -> None:
    result = runtime("exec", running)
    assert (result.code, result.error) == (255, "exec failed: process args cannot be empty")


def test_ignore_paused_runs_when_resumed(ours: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    import subprocess

    bundle.process["args"] = ["sleep", "1000"]
    ours.detached("run", "--detach", "--bundle", bundle, name)
    ours("pause", name)
    command = ours.command("exec", "--ignore-paused", name, "echo", "late")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.poll() is None
        ours("resume", name)
        assert waiting.communicate(timeout=20)[0] == "late\n"


def test_cgroup_names_one_below_the_containers(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    ours.detached("run", "--detach", "--bundle", bundle, name)
    found = cgroups_named(name)
    pids = next((path for path in found if path.parts[4] == "pids"), found[0])  # on v2 there is one
    controller = pids.relative_to("/sys/fs/cgroup").parts[0] if (pids / "tasks").exists() else ""
    (pids / "inner").mkdir()
    option = f"{controller}:inner" if controller else "inner"
    result = ours("exec", "--cgroup", option, name, "cat", "/proc/self/cgroup")
    assert any(line.endswith(f"{name}/inner") for line in result.out.splitlines())
    (pids / "inner").rmdir()


@pytest.mark.parametrize("path", ["../../..", "no-such-cgroup"])
def test_cgroup_stays_below_the_containers(ours: Runtime, bundle: Bundle, name: str, path: str) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    ours.detached("run", "--detach", "--bundle", bundle, name)
    result = ours("exec", "--cgroup", path, name, "true")
    assert result.code == 255
    assert "cgroup" in result.error


def test_the_end_of_init_ends_it(runtime: Runtime, running: str, place: Path) -> None:
    runtime.detached("exec", "--detach", "--pid-file", place / "pid", running, "sleep", "1000")
    runtime("kill", running, "KILL")
    assert has_ended(int((place / "pid").read_text()), 10)
