"""As containerd's runtime, below its own shim: what ctr prints, beside the real runc."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from pathlib import Path

import pytest

from runc.bundles import make_rootfs
from runc.person import Person
from support.peers import VENV_BIN, need, peer
from support.process import wait_until
from support.stack import RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

OURS = VENV_BIN / "cutaway-runc"
Answer = subprocess.CompletedProcess[str]


class Ctr:
    """ctr against a real containerd, with its shim calling our runtime."""

    def __init__(self, containerd: RealContainerd, base: Path) -> None:
        self.containerd = containerd
        self.rootfs = make_rootfs(base / "rootfs")
        self.options = [
            "--env", "PATH=/bin", "--runc-binary", os.fspath(OURS), "--runc-root", os.fspath(base / "runc"),
            "--rootfs",
        ]  # fmt: skip

    def run(self, *words: str) -> Answer:
        *options, name, script = words
        return self.ctr("run", *self.options, *options, os.fspath(self.rootfs), name, "sh", "-c", script)

    def command(self, *words: str) -> list[str]:
        """A command line of ctr's, for who sits at a terminal."""
        daemon = self.containerd
        options = ["--address", os.fspath(daemon.address), "--namespace", daemon.namespace]
        return [os.fspath(peer("ctr")), *options, *words]

    def ctr(self, *words: str) -> Answer:
        return self.containerd.ctr(*words, check=False)


@pytest.fixture
def ctr(real_containerd: RealContainerd, base_dir: Path) -> Ctr:
    need("busybox")
    return Ctr(real_containerd, base_dir)


@pytest.fixture
def name() -> str:
    return f"cw-{secrets.token_hex(4)}"


def test_containerd_runs_and_gets_the_exit_code(ctr: Ctr, name: str) -> None:
    done = ctr.run("--rm", name, "echo out; exit 4")
    assert (done.returncode, done.stdout) == (4, "out\n")


def test_containerd_reports_what_cannot_be_executed(ctr: Ctr, name: str) -> None:
    done = ctr.ctr("run", "--rm", *ctr.options, os.fspath(ctr.rootfs), name, "nope")
    ctr.ctr("containers", "delete", name)
    assert done.stderr == (
        "ctr: failed to create shim task: OCI runtime create failed: runc create failed: unable to start "
        'container process: exec: "nope": executable file not found in $PATH: unknown\n'
    )


def test_containerd_execs_pauses_and_kills(ctr: Ctr, name: str) -> None:
    assert ctr.run("--detach", name, "exec sleep 1000").returncode == 0
    try:
        done = ctr.ctr("task", "exec", "--exec-id", "one", name, "sh", "-c", "cat /proc/1/comm; exit 9")
        assert (done.returncode, done.stdout) == (9, "sleep\n")
        done = ctr.ctr("task", "exec", "--exec-id", "two", name, "nope")
        assert done.stderr.startswith("ctr: OCI runtime exec failed: exec failed: unable to start container")
        assert ctr.ctr("task", "pause", name).returncode == 0
        assert "PAUSED" in ctr.ctr("task", "ls").stdout
        assert ctr.ctr("task", "resume", name).returncode == 0
        assert len(ctr.ctr("task", "ps", name).stdout.splitlines()) == 2
    finally:
        ctr.ctr("task", "delete", "--force", name)
        ctr.ctr("containers", "delete", name)


STATUS = "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status"
OPTIONS: dict[str, tuple[list[str], str]] = {
    "nothing": ([], f"{STATUS}; id; pwd; cat /proc/self/limits; ls /proc/self/fd; echo err >&2; exit 7"),
    "limits": (
        ["--memory-limit", "67108864", "--cpus", "0.5"],
        "cd /sys/fs/cgroup; cat */*.limit_in_bytes | head",
    ),
    "rights": (["--cap-add", "CAP_NET_ADMIN", "--cap-drop", "CAP_CHOWN", "--seccomp"], STATUS),
    "user": (["--user", "7:8", "--read-only", "--cwd", "/bin", "--env", "A=b"], "id; pwd; echo $A; touch /x"),
    "mounts": (
        ["--mount", "type=bind,src=/etc,dst=/mnt,options=rbind:ro"],
        "touch /mnt/x; mount | grep -c .",
    ),
    "not there": (["--mount", "type=bind,src=/no/such,dst=/mnt,options=rbind:ro"], "true"),
    "propagation": (["--rootfs-propagation", "private"], "wc -l < /proc/self/mountinfo"),
}


@pytest.mark.parametrize(("options", "script"), OPTIONS.values(), ids=OPTIONS)
def test_a_container_finds_what_it_finds_under_runc(
    ctr: Ctr, name: str, options: list[str], script: str
) -> None:
    said = []
    for runtime in (OURS, peer("runc")):
        done = ctr.run("--rm", "--runc-binary", os.fspath(runtime), *options, name, script)
        ctr.ctr("containers", "delete", name)
        said.append((done.returncode, done.stdout, re.sub("time=[^ ]* ", "", done.stderr)))
    assert said[0] == said[1]


def test_ctr_run_with_a_terminal(ctr: Ctr, name: str) -> None:
    sized = "until stty size 2>/dev/null | grep .; do sleep 0.05; done"  # ctr says it after the start
    command = ctr.command("run", "--rm", "--tty", *ctr.options, os.fspath(ctr.rootfs), name, "sh", "-c")
    with Person([*command, f"tty; read line; echo got $line; {sized}; exit 6"], size=(31, 91)) as person:
        person.see("/dev/pts/0")
        person.type("hello\r")
        assert person.leave() == 6
        person.see("got hello")
        person.see("31 91")


def test_ctr_exec_with_a_terminal(ctr: Ctr, name: str) -> None:
    assert ctr.run("--detach", name, "exec sleep 1000").returncode == 0
    try:
        command = ctr.command("task", "exec", "--tty", "--exec-id", "one", name, "sh", "-c")
        with Person([*command, "tty; read line; echo got $line; exit 6"]) as person:
            person.see("/dev/pts/0")
            person.type("hello\r")
            assert person.leave() == 6
    finally:
        ctr.ctr("task", "delete", "--force", name)
        ctr.ctr("containers", "delete", name)


def test_ctr_shows_metrics_and_kills_all(ctr: Ctr, name: str) -> None:
    assert (
        ctr.run("--detach", "--memory-limit", "67108864", name, "sleep 1000 & exec sleep 1001").returncode
        == 0
    )
    try:
        wait_until(lambda: len(ctr.ctr("task", "ps", name).stdout.splitlines()) == 3, "two processes run")
        metrics = ctr.ctr("task", "metrics", name).stdout
        assert re.search(r"^pids\.current +2 *$", metrics, re.MULTILINE)
        assert re.search(r"^memory\.(usage_in_bytes|usage|current) +[1-9]", metrics, re.MULTILINE)
        assert ctr.ctr("task", "kill", "--all", "--signal", "SIGKILL", name).returncode == 0
        wait_until(lambda: "STOPPED" in ctr.ctr("task", "ls").stdout, "it has stopped")
        assert "exit with non-zero exit code 137" in ctr.ctr("task", "delete", name).stderr
    finally:
        ctr.ctr("task", "delete", "--force", name)
        ctr.ctr("containers", "delete", name)
