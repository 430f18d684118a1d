"""Real containerd and its client on our shim: with runc under the real shim's name, and with our runtime."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.driver import PROGRAM
from support.images import busybox_image
from support.leftovers import Leftovers, temporary_base
from support.netns import NetNs
from support.peers import need, peer
from support.process import has_ended, wait_until
from support.stack import RealContainerd, substitute

pytestmark = [pytest.mark.root, pytest.mark.peers]

IMAGE = "docker.io/library/busybox:latest"


class Client:
    """ctr with one of the runtimes."""

    def __init__(self, containerd: RealContainerd, runtime: str) -> None:
        self.containerd = containerd
        self.runtime = runtime

    def __call__(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.containerd.ctr(*words, check=check)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self("run", "--runtime", self.runtime, *words, check=check)

    def command(self) -> list[str | os.PathLike[str]]:
        """For what has to run beside the test."""
        return [
            peer("ctr"),
            "--address", self.containerd.address,
            "--namespace", self.containerd.namespace,
        ]  # fmt: skip

    def tasks(self) -> dict[str, tuple[int, str]]:
        """pid and state by name."""
        rows = [line.split() for line in self("task", "ls").stdout.splitlines()[1:]]
        return {name: (int(pid), state) for name, pid, state in rows}

    def wait_state(self, name: str, state: str) -> None:
        wait_until(lambda: self.tasks()[name][1] == state, f"{name} is {state}")

    def remove(self, name: str) -> None:
        """Whatever state it is in."""
        self("task", "kill", "-s", "SIGKILL", name, check=False)
        self.wait_state(name, "STOPPED")
        self("task", "rm", name, check=False)
        self("container", "rm", name)


@pytest.fixture(scope="module")
def containerd() -> Iterator[RealContainerd]:
    need("containerd", "ctr", "runc", "busybox")
    with temporary_base() as base, NetNs() as netns:
        names = substitute(base / "bin", containerd_shim_runc_v2=PROGRAM, containerd_shim_cutaway_v1=PROGRAM)
        with RealContainerd(base, netns, path_prefix=[names]) as daemon:
            archive = base / "image.tar"
            archive.write_bytes(busybox_image().oci_archive(IMAGE))
            daemon.ctr("images", "import", os.fspath(archive))
            yield daemon


@pytest.fixture(params=["io.containerd.runc.v2", "io.containerd.cutaway.v1"])
def ctr(request: pytest.FixtureRequest, containerd: RealContainerd) -> Iterator[Client]:
    before = Leftovers.snapshot(containerd.folder)
    yield Client(containerd, request.param)

    def clean() -> bool:
        after = Leftovers.snapshot(containerd.folder).since(before)
        return not after.mounts and all(line.startswith(f"{containerd.pid} ") for line in after.processes)

    wait_until(clean, "no mount and no process is left")


def test_run(ctr: Client) -> None:
    done = ctr.run("--rm", IMAGE, "c1", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_run_in_a_terminal(ctr: Client) -> None:
    terminal, slave = pty.openpty()
    command = [
        *ctr.command(),
        "run", "--rm", "-t", "--runtime", ctr.runtime, IMAGE, "c1", "sh", "-c", "tty; exit 5",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=ctr.containerd.env, start_new_session=True
    ) as client:
        assert client.wait(30) == 5
    os.close(slave)
    assert os.read(terminal, 4096).strip() == b"/dev/pts/0"
    os.close(terminal)


def test_a_detached_task_and_what_ctr_does_to_it(ctr: Client) -> None:
    ctr.run("-d", IMAGE, "c1", "sleep", "1000")
    pid, state = ctr.tasks()["c1"]
    assert state == "RUNNING"
    done = ctr("task", "exec", "--exec-id", "e1", "c1", "sh", "-c", "echo in exec; exit 7", check=False)
    assert (done.returncode, done.stdout) == (7, "in exec\n")
    assert ctr("task", "ps", "c1").stdout.split()[2] == str(pid)
    metrics = json.loads(ctr("task", "metrics", "--format", "json", "c1").stdout)
    assert metrics["pids"]["current"] == 1
    ctr("task", "pause", "c1")
    assert ctr.tasks()["c1"][1] == "PAUSED"
    refused = ctr("task", "exec", "--exec-id", "e2", "c1", "true", check=False)
    assert "cannot exec in a paused state: failed precondition" in refused.stderr
    ctr("task", "resume", "c1")
    ctr("task", "kill", "-s", "SIGKILL", "c1")
    ctr.wait_state("c1", "STOPPED")
    refused = ctr("task", "kill", "c1", check=False)
    assert "process already finished: not found" in refused.stderr
    ctr("task", "rm", "c1", check=False)
    ctr("container", "rm", "c1")


def test_a_program_that_is_not_there(ctr: Client) -> None:
    done = ctr.run("--rm", IMAGE, "c1", "/nonexistent", check=False)
    assert done.returncode == 1
    assert "failed to create shim task: OCI runtime create failed: " in done.stderr
    assert 'exec: "/nonexistent": stat /nonexistent: no such file or directory: unknown' in done.stderr


def test_containerd_restarts_beside_a_running_task(ctr: Client) -> None:
    ctr.run("-d", IMAGE, "c1", "sleep", "1000")
    ctr.run("-d", IMAGE, "c2", "sleep", "1000")
    before = ctr.tasks()
    ctr.containerd.crash()
    os.kill(before["c2"][0], signal.SIGKILL)
    assert has_ended(before["c2"][0], 10)
    ctr.containerd.start()
    assert ctr.tasks()["c1"] == before["c1"]
    done = ctr("task", "exec", "--exec-id", "e1", "c1", "echo", "still here")
    assert done.stdout == "still here\n"
    ctr.wait_state("c2", "STOPPED")
    assert ctr("task", "rm", "c2", check=False).stderr.strip().endswith('non-zero exit code 137"')
    ctr("container", "rm", "c2")
    ctr.remove("c1")


def test_a_killed_shim_ends_its_task(ctr: Client) -> None:
    ctr.run("-d", IMAGE, "c1", "sleep", "1000")
    pid = ctr.tasks()["c1"][0]
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert Path(f"/proc/{shim}/comm").read_text() == "containerd-shim\n"
    os.kill(shim, 9)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the container is killed")
    wait_until(lambda: "c1" not in ctr.tasks(), "containerd has forgotten the task")
    ctr("container", "rm", "c1")


def test_events_in_their_order(ctr: Client) -> None:
    with subprocess.Popen(
        [*ctr.command(), "events"], stdout=subprocess.PIPE, env=ctr.containerd.env, text=True
    ) as watcher:
        try:
            assert watcher.stdout is not None
            # A new namespace is an event too; once one is seen, the watcher watches.
            while not select.select([watcher.stdout], [], [], 0.1)[0]:
                ctr("namespaces", "create", f"seen{os.urandom(3).hex()}")
            topics: list[str] = []
            ctr.run("--rm", IMAGE, "c1", "true")
            for line in watcher.stdout:
                topics += [word for word in line.split() if word.startswith("/tasks/")]
                if "/tasks/delete" in topics:
                    break
        finally:
            watcher.kill()
    assert topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
