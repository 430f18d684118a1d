"""As podman's runtime, below conmon: what a container finds and what podman prints, beside the real runc."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runc.bundles import make_rootfs
from support.images import busybox_image
from support.netns import NetNs
from support.peers import VENV_BIN, need, peer, peer_path_env
from support.process import wait_until

pytestmark = [pytest.mark.root, pytest.mark.peers]

OURS = VENV_BIN / "cutaway-runc"
Answer = subprocess.CompletedProcess[str]


class Podman:
    """podman on roots of its own, in a network namespace of its own."""

    def __init__(self, base: Path, netns: NetNs) -> None:
        self.base = base
        self.netns = netns
        self.rootfs = make_rootfs(base / "rootfs")
        self.runtime = OURS
        # podman's own would be above what some machines permit.
        ulimits = 'default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]'
        (base / "containers.conf").write_text(f"[containers]\n{ulimits}\n")

    def __call__(self, *words: str) -> Answer:
        roots = {"--root": "root", "--runroot": "run", "--tmpdir": "tmp"}
        command = [
            os.fspath(peer("podman")),
            "--conmon",
            os.fspath(peer("conmon")),
            "--runtime",
            os.fspath(self.runtime),
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
            env={**peer_path_env(), "CONTAINERS_CONF": os.fspath(self.base / "containers.conf")},
        )

    def create(self, *words: str) -> str:
        """Start a container of a shell script, the last word; its name."""
        rootfs = ["--rootfs", os.fspath(self.rootfs), "sh", "-c"]
        done = self("run", "--detach", "--network", "none", *words[:-1], *rootfs, words[-1])
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run a shell script to its end: exit code, output, errors."""
        container = self.create(*words)
        code = self.exit_code(container)
        logs = self("logs", container)
        return code, logs.stdout, logs.stderr

    def exit_code(self, container: str) -> int:
        """Wait for a container's end; its exit code.

        conmon would call podman to clean up, but does not find its libraries where we have unpacked them.
        So we do it, when conmon has noted the exit.
        """
        wait_until((self.base / "tmp/exits" / container).exists, "the container has exited", 30)
        self("container", "cleanup", container)
        return int(self.inspect(container, "ExitCode"))

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
    done = podman("run", "--rm", "--network", "none", "--rootfs", os.fspath(podman.rootfs), command)
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


STATUS = "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status"
GROUPS = "/sys/fs/cgroup"
OPTIONS: dict[str, tuple[list[str], str]] = {
    "nothing": ([], f"{STATUS}; id; pwd; cat /proc/self/limits; ls /proc/self/fd; echo err >&2; exit 7"),
    "limits": (
        ["-m", "64m", "--cpus", "0.5", "--pids-limit", "77", "--cpu-shares", "512"],
        f"cat {GROUPS}/memory/memory.limit_in_bytes {GROUPS}/cpu/cpu.cfs_quota_us {GROUPS}/pids/pids.max",
    ),
    "rights": (["--cap-drop", "all", "--cap-add", "chown", "--security-opt", "no-new-privileges"], STATUS),
    "settings": (
        ["--user", "7:8", "--read-only", "-w", "/bin", "-e", "A=b", "--tmpfs", "/mnt", "-h", "box",
         "--shm-size", "8m", "--sysctl", "kernel.msgmax=9000", "--device", "/dev/zero:/dev/mine:r"],
        "id; pwd; echo $A; hostname; touch /x; cat /proc/sys/kernel/msgmax; ls -l /dev/mine | cut -c1-10; "
        "grep -E ' (/mnt|/dev/shm) ' /proc/self/mountinfo | cut -d' ' -f5,6",
    ),
    "volumes": (["-v", "/etc:/mnt/ro:ro", "-v", "named:/mnt/vol"], "touch /mnt/ro/x /mnt/vol/x; ls /mnt/vol"),
    "host namespaces": (
        ["--pid", "host", "--ipc", "host", "--uts", "host", "--cgroupns", "host"],
        "for kind in pid ipc uts cgroup; do readlink /proc/self/ns/$kind; done",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("options", "script"), OPTIONS.values(), ids=OPTIONS)
def test_a_container_finds_what_it_finds_under_runc(podman: Podman, options: list[str], script: str) -> None:
    said = []
    for runtime in (OURS, peer("runc")):
        podman.runtime = runtime
        said.append(podman.run(*options, script))
    assert said[0] == said[1]
    assert said[0][1]


def test_podman_updates_shows_and_kills(podman: Podman) -> None:
    container = podman.create("--memory", "64m", "trap 'exit 3' USR1; while true; do sleep 0.05; done")
    assert "sh -c trap" in podman("top", container, "args").stdout
    assert podman("stats", "--no-stream", "--format", "{{.MemUsage}}", container).stdout.endswith(
        "/ 67.11MB\n"
    )
    assert podman("kill", "--signal", "USR1", container).returncode == 0
    assert podman.exit_code(container) == 3


def test_podman_checks_health(podman: Podman) -> None:
    check = ["--health-cmd", "test -e /tmp/healthy", "--health-interval", "disable", "--tmpfs", "/tmp"]
    container = podman.create(*check, "exec sleep 1000")
    assert podman("healthcheck", "run", container).returncode == 1
    podman("exec", container, "touch", "/tmp/healthy")
    assert podman("healthcheck", "run", container).returncode == 0


def test_podman_joins_another_containers_namespaces(podman: Podman) -> None:
    script = "for kind in net ipc pid; do readlink /proc/self/ns/$kind; done"
    first = podman.create("--ipc", "shareable", "exec sleep 1000")
    joined = podman("exec", first, "sh", "-c", script).stdout
    shared = [option for kind in ("network", "ipc", "pid") for option in (f"--{kind}", f"container:{first}")]
    rootfs = ["--rootfs", os.fspath(podman.rootfs), "sh", "-c"]
    second = podman("run", "--detach", *shared, *rootfs, "exec sleep 1000").stdout.strip()
    assert podman("exec", second, "sh", "-c", script).stdout == joined
    assert joined.count("\n") == 3


def test_a_pod_shares_its_infra_containers_namespaces(podman: Podman, base_dir: Path) -> None:
    archive = base_dir / "busybox.tar"
    archive.write_bytes(busybox_image().docker_archive("localhost/busybox:latest"))
    policy = base_dir / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    done = podman("load", "--signature-policy", os.fspath(policy), "--input", os.fspath(archive))
    assert done.returncode == 0, done.stderr
    infra = ["--infra-image", "localhost/busybox:latest", "--infra-command", "/bin/sleep 1000"]
    made = podman("pod", "create", "--network", "none", *infra, "pod")
    assert made.returncode == 0, made.stderr
    script = "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; exec sleep 1000"
    assert told_in_a_pod(podman, "one", script) == told_in_a_pod(podman, "two", script)
    assert podman("pod", "rm", "--force", "--time", "0", "pod").returncode == 0


def told_in_a_pod(podman: Podman, name: str, script: str) -> str:
    words = ["--detach", "--pod", "pod", "--name", name, "localhost/busybox", "sh", "-c", script]
    done = podman("run", *words)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: podman("logs", name).stdout.count("\n") == 2, "it has told")
    return podman("logs", name).stdout
