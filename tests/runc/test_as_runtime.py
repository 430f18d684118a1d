"""As the runtime of others: podman with conmon, containerd with its own shim, dockerd."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runc.bundles import make_rootfs
from support.netns import NetNs
from support.peers import VENV_BIN, need, peer, peer_path_env
from support.process import wait_until
from support.stack import RealContainerd, RealDockerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

OURS = VENV_BIN / "cutaway-runc"
Answer = subprocess.CompletedProcess[str]


class Podman:
    """podman on roots of its own, in a network namespace of its own."""

    def __init__(self, base: Path, netns: NetNs) -> None:
        self.base = base
        self.netns = netns
        self.rootfs = make_rootfs(base / "rootfs")

    def __call__(self, *words: str) -> Answer:
        roots = {"--root": "root", "--runroot": "run", "--tmpdir": "tmp"}
        command = [
            os.fspath(peer("podman")),
            "--conmon",
            os.fspath(peer("conmon")),
            "--runtime",
            os.fspath(OURS),
        ]
        for option, folder in roots.items():
            command += [option, os.fspath(self.base / folder)]
        command += ["--cgroup-manager", "cgroupfs", "--storage-driver", "vfs", "--events-backend", "none"]
        return self.netns.call(
            subprocess.run,
            [*command, *words],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            env=peer_path_env(),
        )

    def create(self, *words: str) -> str:
        """Start a container of a shell script, the last word; its name."""
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--network", "none"]
        rootfs = ["--rootfs", os.fspath(self.rootfs), "sh", "-c"]
        done = self("run", "--detach", *limits, *words[:-1], *rootfs, words[-1])
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run a shell script to its end: exit code, output, errors.

        conmon would call podman to clean up, but does not find its libraries where we have unpacked them.
        So we do it, when conmon has noted the exit.
        """
        container = self.create(*words)
        wait_until((self.base / "tmp/exits" / container).exists, "the container has exited", 30)
        self("container", "cleanup", container)
        logs = self("logs", container)
        return int(self.inspect(container, "ExitCode")), logs.stdout, logs.stderr

    def inspect(self, container: str, field: str) -> str:
        return self("inspect", "--format", f"{{{{.State.{field}}}}}", container).stdout.strip()


@pytest.fixture
def podman(base_dir: Path, netns: NetNs) -> Iterator[Podman]:
    need("podman", "conmon", "busybox")
    program = Podman(base_dir, netns)
    yield program
    program("rm", "--all", "--force", "--time", "0")


def test_podman_runs_and_gets_the_exit_code(podman: Podman) -> None:
    assert podman.run("echo out; exit 5")[:2] == (5, "out\n")


def test_podman_sets_limits_and_user(podman: Podman) -> None:
    script = "id; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; touch /x"
    _, out, err = podman.run("--pids-limit", "55", "--user", "7:8", "--read-only", script)
    assert out.split()[:2] == ["uid=7(7)", "gid=8(8)"]
    assert "55" in out
    assert "Read-only file system" in err


def test_podman_gives_a_terminal(podman: Podman) -> None:
    _, out, _ = podman.run("--tty", "tty; stat -c %t:%T /dev/console")
    assert out.split() == ["/dev/pts/0", "88:0"]  # 136, in hexadecimal


@pytest.mark.parametrize(("command", "code"), [("nope", 127), ("/bin", 126)])
def test_podman_tells_127_from_126(podman: Podman, command: str, code: int) -> None:
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--network", "none"]
    done = podman("run", "--rm", *limits, "--rootfs", os.fspath(podman.rootfs), command)
    assert done.returncode == code


def test_podman_execs_pauses_and_stops(podman: Podman) -> None:
    container = podman.create("exec sleep 1000")
    done = podman("exec", container, "sh", "-c", "cat /proc/1/comm; exit 6")
    assert (done.returncode, done.stdout) == (6, "sleep\n")
    assert podman("exec", "--tty", container, "tty").stdout.split() == ["/dev/pts/0"]
    assert podman("pause", container).returncode == 0
    assert podman.inspect(container, "Status") == "paused"
    assert podman("unpause", container).returncode == 0
    assert podman("stop", "--time", "0", container).returncode == 0
    assert podman.inspect(container, "ExitCode") == "137"


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
        assert ctr.ctr("task", "metrics", name).returncode == 0
    finally:
        ctr.ctr("task", "delete", "--force", name)
        ctr.ctr("containers", "delete", name)


@pytest.fixture(scope="module")
def docker(session_base: Path, session_netns: NetNs) -> Iterator[RealDockerd]:
    need("dockerd", "docker", "containerd", "containerd-shim-runc-v2", "runc", "busybox")
    options = ["--add-runtime", f"ours={OURS}", "--default-runtime", "ours"]
    with RealDockerd(session_base, session_netns, extra_args=options, name="ours") as dockerd:
        dockerd.load_busybox()
        yield dockerd


def test_dockerd_knows_the_runtimes_version(docker: RealDockerd) -> None:
    info = docker.docker("info", "--format", "{{.DefaultRuntime}}")
    assert info.stdout.strip() == "ours"


DOCKER_RUNS = [
    (["--rm"], "echo out; exit 3", 3, "out\n"),
    (["--rm", "--user", "7:8", "--read-only"], "id -u; touch /x 2>/dev/null || echo ro", 0, "7\nro\n"),
    (["--rm", "--tmpfs", "/mnt", "--hostname", "box"], "hostname; stat -c %a /mnt", 0, "box\n1777\n"),
    (["--rm", "--init"], "cat /proc/1/comm", 0, "docker-init\n"),
    (["--rm", "--pid", "host", "--ipc", "host"], "test -d /proc/2 && echo host", 0, "host\n"),
    (["--rm", "--cap-drop", "ALL"], "grep CapBnd /proc/self/status", 0, "CapBnd:\t0000000000000000\n"),
    (["--rm", "-v", "/etc:/mnt:ro"], "touch /mnt/x 2>/dev/null || echo ro", 0, "ro\n"),
    (["--rm", "--memory", "64m"], "cat /sys/fs/cgroup/memory*/memory.limit_in_bytes", 0, "67108864\n"),
]


@pytest.mark.parametrize(("options", "script", "code", "out"), DOCKER_RUNS, ids=[r[1] for r in DOCKER_RUNS])
def test_dockerd_runs(docker: RealDockerd, options: list[str], script: str, code: int, out: str) -> None:
    done = docker.docker("run", "--network", "none", *options, "busybox", "sh", "-c", script, check=False)
    assert (done.returncode, done.stdout) == (code, out)


def test_dockerd_adds_its_hint_to_a_mount_of_the_wrong_kind(docker: RealDockerd) -> None:
    mount = ["-v", "/etc/hostname:/bin"]
    done = docker.docker("run", "--rm", "--network", "none", *mount, "busybox", "true", check=False)
    assert done.returncode == 125
    assert "Are you trying to mount a directory onto a file (or vice-versa)?" in done.stderr


def test_dockerd_execs_updates_and_stops(docker: RealDockerd, name: str) -> None:
    docker.docker("run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "1000")
    try:
        done = docker.docker(
            "exec", "-u", "5", "-w", "/bin", "-e", "A=b", name, "sh", "-c", "id -u; pwd; echo $A"
        )
        assert done.stdout == "5\n/bin\nb\n"
        assert docker.docker("exec", name, "nope", check=False).returncode in (126, 127)
        assert "sleep 1000" in docker.docker("top", name).stdout
        assert docker.docker("pause", name).returncode == 0
        assert docker.docker("unpause", name).returncode == 0
        assert docker.docker("update", "--memory", "128m", "--memory-swap", "256m", name).returncode == 0
        assert "128MiB" in docker.docker("stats", "--no-stream", name).stdout
        assert docker.docker("stop", "-t", "0", name).returncode == 0
        assert docker.docker("start", name).returncode == 0
    finally:
        docker.docker("rm", "-f", name)
