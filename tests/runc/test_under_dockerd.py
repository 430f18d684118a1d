"""As dockerd's only runtime: what a container finds and what docker prints, beside the real runc."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.netns import NetNs
from support.peers import VENV_BIN, need
from support.process import wait_until
from support.stack import RealDockerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

OURS = VENV_BIN / "cutaway-runc"
GROUPS = "/sys/fs/cgroup"


@pytest.fixture(scope="module")
def docker(session_base: Path, session_netns: NetNs) -> Iterator[RealDockerd]:
    """A dockerd whose default runtime is ours; `--runtime runc` is the reference."""
    need("dockerd", "docker", "containerd", "containerd-shim-runc-v2", "runc", "busybox")
    options = ["--add-runtime", f"ours={OURS}", "--default-runtime", "ours"]
    with RealDockerd(session_base, session_netns, extra_args=options, name="ours") as dockerd:
        dockerd.load_busybox()
        yield dockerd


@pytest.fixture
def name() -> str:
    return f"cw-{secrets.token_hex(4)}"


def said(docker: RealDockerd, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a docker command, ids of containers made equal."""
    done = docker.docker(*words, check=False)
    return done.returncode, hide(done.stdout), hide(done.stderr)


def hide(text: str) -> str:
    """Without ids, our hint of what this machine does not permit, and what the docker CLI adds at times."""
    text = re.sub(r"[0-9a-f]{12,64}", "ID", text)
    text = re.sub(r"; permitted, but not permitted before: [A-Z_ ,]+", "", text)
    return re.sub(r"time=.* msg=.error waiting for container: context canceled.\n", "", text)


def test_dockerd_knows_the_runtimes_version(docker: RealDockerd) -> None:
    assert docker.docker("info", "--format", "{{.DefaultRuntime}}").stdout.strip() == "ours"
    info = docker.docker("info").stdout
    assert re.search(r"^ runc version: \S+", info, re.MULTILINE)
    assert "ours" in info.partition(" Runtimes: ")[2].splitlines()[0]


LIMITS_FOUND = (
    f"cd {GROUPS}; cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes cpu/cpu.cfs_quota_us "
    "cpuset/cpuset.cpus pids/pids.max cpu/cpu.shares memory/memory.soft_limit_in_bytes 2>&1"
)
STATUS = "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status"
# Several things in one container where they do not disturb one another: starting one takes longest.
PLAIN = [
    STATUS, LIMITS_FOUND, "umask", "ls /proc/self/fd", "ls -l /dev/fd /dev/stdin | sed 's/.* //'",
    "ls -l /dev | sed 's/ [A-Z][a-z][a-z] .*:.. / /' | sort",
    "mount | sed 's/lowerdir=.*/LAYERS/; s,/[^ ]*/containers/[^ ]*/,,' | cut -d' ' -f2-",
    "cat /proc/kcore | wc -c; ls /sys/firmware; cat /proc/timer_list; touch /proc/sys/x",
    "cat /proc/self/limits /proc/self/oom_score_adj", "sh -c 'kill -SEGV $$'; echo $?",
    "echo err >&2", "exit 3",
]  # fmt: skip
OPTIONS: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "; ".join(PLAIN)),
    "user": (["--user", "7:8", "--group-add", "55", "--read-only"], "id; touch /x"),
    "limits and settings": (
        ["-m", "64m", "--memory-swap", "128m", "--memory-reservation", "32m", "--cpus", "0.5",
         "--cpuset-cpus", "0", "--pids-limit", "77", "--cpu-shares", "512", "--init",
         "--ulimit", "nofile=100:200", "--ulimit", "core=0", "--sysctl", "net.ipv4.ip_forward=1",
         "--sysctl", "kernel.msgmax=9000", "-h", "box", "--domainname", "example.org", "--dns", "192.0.2.1",
         "--shm-size", "8m", "--oom-score-adj", "500", "-e", "A=b", "-w", "/new/dir",
         "--device", "/dev/zero:/dev/mine:r"],
        "env | sort; pwd; cat /proc/self/limits /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_forward; "
        "hostname; cat /etc/resolv.conf; df -k /dev/shm; echo 1 > /proc/sys/kernel/msgmax; "
        "cat /proc/1/comm; ls -l /dev/mine | cut -c1-40; echo > /dev/mine; " + LIMITS_FOUND,
    ),
    "privileged": (["--privileged"], f"{STATUS}; ls /dev | wc -l; mount | grep -E ' on /(sys|proc)' | sort"),
    "capabilities": (
        ["--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--cap-add", "CHOWN",
         "--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined"],
        STATUS,
    ),
    "volumes and a cgroup namespace": (
        ["-v", "/etc:/mnt/ro:ro", "-v", "named:/mnt/named", "--tmpfs", "/mnt/tmp:size=1m,mode=1770",
         "--cgroupns", "private"],
        "touch /mnt/ro/x; touch /mnt/named/x; ls /mnt/named; mount | grep ' /mnt/tmp '; stat -c %a /mnt/tmp; "
        "grep ' /mnt' /proc/self/mountinfo | cut -d' ' -f5-7 | sort; "
        "cut -d: -f3 /proc/self/cgroup | sort -u; ls /sys/fs/cgroup",
    ),
    "host namespaces and a terminal": (
        ["--pid", "host", "--ipc", "host", "--uts", "host", "--cgroupns", "host", "--tty"],
        "for kind in pid ipc uts cgroup; do readlink /proc/self/ns/$kind; done; "
        "tty; stty size; ls -l /dev/console | cut -c1-10; test -t 1 && echo yes",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("options", "script"), OPTIONS.values(), ids=OPTIONS)
def test_a_container_finds_what_it_finds_under_runc(
    docker: RealDockerd, options: list[str], script: str
) -> None:
    words = ["--rm", "--network", "none", *options, "busybox", "sh", "-c", script]
    ours, theirs = said(docker, "run", *words), said(docker, "run", "--runtime", "runc", *words)
    if not not_permitted(theirs):
        assert ours == theirs, ours
    assert ours[0] in (0, 1, 3), ours

    assert ours[1]


def not_permitted(done: tuple[int, str, str]) -> bool:
    """Whether runc has refused: this machine lacks a capability, of which ours only warns."""
    return "unable to apply caps: operation not permitted" in done[1] + done[2]


ERRORS: dict[str, list[str]] = {
    "no such program": ["busybox", "nope"],
    "not executable": ["busybox", "/etc/passwd"],
    "a file as directory": ["-w", "/bin/sh", "busybox", "true"],
    "a sysctl's value": ["--sysctl", "net.ipv4.ip_forward=x", "busybox", "true"],
}


@pytest.mark.parametrize("words", ERRORS.values(), ids=ERRORS)
def test_errors_are_told_as_under_runc(docker: RealDockerd, words: list[str]) -> None:
    ours = said(docker, "run", "--rm", "--network", "none", *words)
    assert ours == said(docker, "run", "--runtime", "runc", "--rm", "--network", "none", *words)
    assert ours[0] in (125, 126, 127)


def test_a_mount_of_the_wrong_kind_gets_dockerds_hint(docker: RealDockerd) -> None:
    mount = ["-v", "/etc/hostname:/bin"]
    code, _, err = said(docker, "run", "--rm", "--network", "none", *mount, "busybox", "true")
    assert code in (125, 127)
    assert "Are you trying to mount a directory onto a file (or vice-versa)?" in err


def test_a_seccomp_profile_of_ones_own(docker: RealDockerd) -> None:
    profile = docker.folder / "seccomp.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    words = ["--rm", "--network", "none", "--security-opt", f"seccomp={profile}", "busybox", "mkdir", "/x"]
    ours = said(docker, "run", *words)
    assert ours == said(docker, "run", "--runtime", "runc", *words)
    assert "not supported" in ours[2]


EXECS: list[list[str]] = [
    ["-u", "5", "-w", "/bin", "-e", "A=b", "NAME", "sh", "-c", "id -u; pwd; echo $A"],
    ["NAME", "sh", "-c", STATUS], ["--privileged", "NAME", "sh", "-c", STATUS],
    ["-t", "NAME", "sh", "-c", "tty; stty size"], ["NAME", "sh", "-c", "exit 9"],
    ["NAME", "sh", "-c", "kill -KILL $$"], ["NAME", "nope"], ["NAME", "/bin"],
    ["-w", "/nope", "NAME", "true"],
    ["-u", "nosuchuser", "NAME", "true"], ["-d", "NAME", "touch", "/made"], ["NAME", "cat", "/proc/1/cgroup"],
]  # fmt: skip


def live(docker: RealDockerd, name: str, runtime: str) -> list[tuple[list[str], object]]:
    """What docker says of one container through its life."""
    story: list[tuple[list[str], object]] = []

    def tell(*words: str) -> None:
        code, out, err = said(docker, *(name if word == "NAME" else word for word in words))
        story.append((list(words), (code, out.replace(name, "NAME"), err.replace(name, "NAME"))))

    script = "trap 'exit 4' USR1; touch /started; while true; do sleep 0.1; done"
    docker.docker(
        "run", "-d", "--name", name, "--runtime", runtime, "--network", "none", "-m", "64m", "busybox",
        "sh", "-c", script,
    )  # fmt: skip
    wait_until(lambda: said(docker, "exec", name, "test", "-e", "/started")[0] == 0, "it has started")
    for words in EXECS:
        tell("exec", *words)
    tell("pause", "NAME")
    tell("inspect", "-f", "{{.State.Status}}", "NAME")
    tell("exec", "NAME", "true")
    tell("unpause", "NAME")
    tell("update", "-m", "128m", "--memory-swap", "256m", "--pids-limit", "40", "NAME")
    tell("exec", "NAME", "cat", f"{GROUPS}/memory/memory.limit_in_bytes", f"{GROUPS}/pids/pids.max")
    tell("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "NAME")
    limit = docker.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", name).stdout
    story.append((["memory"], limit.partition(" / ")[2]))
    top = docker.docker("top", name, "-o", "pid,args").stdout.splitlines()
    first = min(top[1:], key=lambda line: int(line.split()[0]))
    story.append((["top"], (top[0].split(), first.split(None, 1)[1])))
    tell("kill", "-s", "USR1", "NAME")
    tell("wait", "NAME")
    tell("start", "NAME")
    tell("stop", "-t", "0", "NAME")
    tell("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Pid}}", "NAME")
    tell("start", "NAME")
    tell("restart", "-t", "0", "NAME")
    tell("rm", "-f", "NAME")
    return story


def test_a_life_is_told_as_under_runc(docker: RealDockerd, name: str) -> None:
    ours = live(docker, f"{name}-ours", "ours")
    for mine, theirs in zip(ours, live(docker, f"{name}-runc", "runc"), strict=True):
        if isinstance(theirs[1], tuple) and len(theirs[1]) == 3 and not_permitted(theirs[1]):
            assert isinstance(mine[1], tuple)
            assert mine[1][0] == 0
        else:
            assert mine == theirs


def test_a_kill_for_lack_of_memory_is_shown(docker: RealDockerd, name: str) -> None:
    limits = ["-m", "16m", "--memory-swap", "16m", "--shm-size", "1g", "--network", "none"]
    hog = "dd if=/dev/zero of=/dev/shm/x bs=1M count=60; a=$(yes | head -c 60000000)"
    done = said(docker, "run", "--name", name, *limits, "busybox", "sh", "-c", hog)
    state = json.loads(docker.docker("inspect", name).stdout)[0]["State"]
    docker.docker("rm", name)
    assert (done[0], state["OOMKilled"], state["ExitCode"]) == (137, True, 137)


def test_restart_policies_count(docker: RealDockerd, name: str) -> None:
    docker.docker(
        "run", "-d", "--name", name, "--restart", "on-failure:2", "--network", "none", "busybox", "false"
    )
    try:
        assert docker.docker("wait", name).stdout  # ends with the last try
        wait_until(
            lambda: (
                said(docker, "inspect", "-f", "{{.State.Status}} {{.RestartCount}}", name)[1] == "exited 2\n"
            ),
            "it was started three times",
        )
    finally:
        docker.docker("rm", "-f", name)


def test_a_health_check_runs_inside(docker: RealDockerd, name: str) -> None:
    check = ["--health-cmd", "test -e /healthy", "--health-interval", "1s", "--health-retries", "1"]
    docker.docker("run", "-d", "--name", name, *check, "--network", "none", "busybox", "sleep", "1000")
    health = ("inspect", "-f", "{{.State.Health.Status}}", name)
    try:
        wait_until(lambda: said(docker, *health)[1] == "unhealthy\n", "it is unhealthy")
        docker.docker("exec", name, "touch", "/healthy")
        wait_until(lambda: said(docker, *health)[1] == "healthy\n", "it is healthy")
    finally:
        docker.docker("rm", "-f", name)


class RemappedDockerd(RealDockerd):
    """dockerd with user namespaces, and with ranges of ids of its own instead of the host's."""

    def prepare(self) -> None:
        super().prepare()
        (self.folder / "ids").write_text("nobody:100000:65536\n")
        (self.folder / "etc").mkdir(exist_ok=True)

    def command(self) -> list[str | os.PathLike[str]]:
        ids = self.folder / "ids"
        script = f'for f in subuid subgid; do mount --bind {ids} /etc/$f || exit 1; done; exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", *super().command()]


def test_dockerd_with_user_namespaces(base_dir: Path, netns: NetNs) -> None:
    need("dockerd", "docker", "containerd", "containerd-shim-runc-v2", "runc", "busybox")
    if not (Path("/etc/subuid").exists() and Path("/etc/subgid").exists()):
        pytest.skip("needs /etc/subuid and /etc/subgid to put others there")
    options = [
        "--add-runtime",
        f"ours={OURS}",
        "--default-runtime",
        "ours",
        "--userns-remap",
        "nobody:nogroup",
    ]
    with RemappedDockerd(base_dir, netns, extra_args=options) as docker:
        docker.load_busybox()
        script = "id -u; cat /proc/self/uid_map; touch /x && stat -c %u /x; mount -t tmpfs x /mnt; " + STATUS
        words = ["--rm", "--network", "none", "-v", "named:/data", "busybox", "sh", "-c", script]
        ours = said(docker, "run", *words)
        assert ours == said(docker, "run", "--runtime", "runc", *words)
        assert ours[1].split()[:4] == ["0", "0", "100000", "65536"]
