"""`cutaway daemon`, starting by need, and traces, on stacks of our own daemons in networks of their own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cli.side_by_side import CUTAWAY
from cutaway.trace.collect import decode_request
from support.leftovers import Leftovers, temporary_base
from support.netns import NetNs
from support.peers import VENV_BIN, need, peer, peer_path_env

pytestmark = pytest.mark.root

NAMES = ("cutaway-containerd", "cutawayd")


class OwnStack:
    """Roots for a stack, and the CLI that manages it."""

    def __init__(self, base: Path, netns: NetNs) -> None:
        self.base = base
        self.netns = netns
        self.env = peer_path_env() | {"HOME": str(base)}
        self.roots = ("--data-root", str(base / "data"), "--exec-root", str(base / "x"))
        self.host = f"unix://{base}/x/cutaway.sock"

    def daemon(self, action: str, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.netns.run([CUTAWAY, "daemon", action, *self.roots, *more], env=self.env, check=check)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        env = self.env | {"DOCKER_HOST": self.host}
        return self.netns.run([CUTAWAY, *words], env=env, check=check)


@pytest.fixture(scope="module")
def running() -> Iterator[OwnStack]:
    """A stack that `cutaway daemon start` has started."""
    need("root")
    with temporary_base() as base, NetNs() as netns:
        stack = OwnStack(base, netns)
        stack.daemon("start")
        try:
            yield stack
        finally:
            stack.daemon("stop")


def test_start_status_and_stop(base_dir: Path, netns: NetNs) -> None:
    stack = OwnStack(base_dir, netns)
    before = Leftovers.snapshot(base_dir)
    nothing = stack.daemon("status", check=False)
    assert nothing.returncode == 3 and nothing.stdout.count("not running") == 2

    started = stack.daemon("start").stdout.splitlines()
    assert [line.split(":")[0] for line in started] == [f"{name} started" for name in NAMES]
    again = stack.daemon("start").stdout.splitlines()
    assert [line.split(":")[0] for line in again] == [f"{name} already running" for name in NAMES]
    assert [line.split()[3] for line in started] == [line.split()[4] for line in again], "the same pids"

    status = stack.daemon("status").stdout
    assert status.count("running, pid") == 2 and "version 0." in status and stack.host in status
    assert stack.run("ps").stdout.startswith("CONTAINER ID")

    stopped = stack.daemon("stop").stdout
    assert stopped.count(" stopped: pid ") == 2
    assert stack.daemon("stop").stdout.count("not running") == 2
    assert stack.daemon("status", check=False).returncode == 3
    left = Leftovers.snapshot(base_dir).since(before)
    assert not left, f"left behind:\n{left}"


def test_two_starts_at_once_make_one_stack(base_dir: Path, netns: NetNs) -> None:
    stack = OwnStack(base_dir, netns)
    with ThreadPoolExecutor() as pool:
        outputs = [done.stdout for done in pool.map(stack.daemon, ["start", "start"])]
    try:
        for name in NAMES:
            states = sorted(
                line.split(":")[0] for out in outputs for line in out.splitlines() if name in line
            )
            assert states[0].endswith("already running") and states[1].endswith("started")
    finally:
        stack.daemon("stop")


def test_an_engine_that_does_not_come_up_leaves_nothing_running(base_dir: Path, netns: NetNs) -> None:
    stack = OwnStack(base_dir, netns)
    failed = stack.daemon("start", "--", "--no-such-flag", check=False)
    assert failed.returncode == 1 and failed.stdout == ""
    assert "cutawayd ended at once with exit code" in failed.stderr and "--no-such-flag" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert stack.daemon("status", check=False).stdout.count("not running") == 2
    assert not Leftovers.snapshot(base_dir).processes


def test_a_stale_pid_file_is_not_believed(base_dir: Path, netns: NetNs) -> None:
    stack = OwnStack(base_dir, netns)
    (base_dir / "x").mkdir()
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        for name in NAMES:
            (base_dir / "x" / f"{name}.pid").write_text(str(bystander.pid))
        assert stack.daemon("status", check=False).stdout.count("not running") == 2
        assert stack.daemon("stop").stdout.count("not running") == 2
        assert bystander.poll() is None
        bystander.kill()


def test_mistakes(base_dir: Path, netns: NetNs) -> None:
    stack = OwnStack(base_dir, netns)
    assert stack.daemon("dance", check=False).returncode == 125
    assert stack.daemon("stop", "now", check=False).returncode == 1


# In a mount namespace of its own, where the default folders are empty and private, and without the
# mounts of tests that run at the same time: those clear away whoever has such a mount.
PRIVATE = """
mount --make-rprivate /
awk '$5 ~ "^/tmp/cw-" {print $5}' /proc/self/mountinfo | tac | xargs -r umount -l
"""
BY_NEED = f"""{PRIVATE}
for folder in /run /var/lib /var/log; do mount -t tmpfs tmpfs $folder; done
trap '{CUTAWAY} daemon stop >/dev/null' EXIT
{CUTAWAY} ps -q & {CUTAWAY} ps -q & wait %1 && wait %2 || exit 1
{CUTAWAY} ps && {CUTAWAY} daemon status && ls /var/log/cutaway
"""


def test_a_command_starts_the_daemons_when_nobody_listens(netns: NetNs) -> None:
    done = netns.run(["unshare", "-m", "sh", "-c", BY_NEED], env=peer_path_env())
    socket = "unix:///run/cutaway/cutaway.sock"
    line = f"No daemon is listening on {socket}: starting one (logs in /var/log/cutaway)\n"
    assert done.stderr in (line, line * 2)
    assert done.stdout.startswith("CONTAINER ID") and done.stdout.count("running, pid") == 2
    assert done.stdout.endswith("cutaway-containerd.log\ncutawayd.log\n")


def test_a_daemon_named_by_the_user_is_never_started(base_dir: Path, netns: NetNs) -> None:
    nobody = f"unix://{base_dir}/nobody.sock"
    for words, env in ((["-H", nobody, "ps"], {}), (["ps"], {"DOCKER_HOST": nobody})):
        done = netns.run([CUTAWAY, *words], env=peer_path_env() | env, check=False)
        assert done.returncode == 125 and f"{nobody}: there is no such socket" in done.stderr
        assert "cutaway daemon start" in done.stderr


def test_a_user_who_is_not_root_is_told_so(netns: NetNs) -> None:
    script = f"{PRIVATE}mount -t tmpfs tmpfs /run && exec setpriv --reuid 65534 --clear-groups {CUTAWAY} ps"
    done = netns.run(["unshare", "-m", "sh", "-c", script], env=peer_path_env(), check=False)
    assert done.returncode == 125
    assert "there is no such socket" in done.stderr and "sudo cutaway daemon start" in done.stderr


def test_a_trace_is_shown_after_the_run(running: OwnStack) -> None:
    done = running.run("run", "--rm", "--trace", "hello-world")
    assert done.stdout.startswith("Hello from Cutaway!")
    lines = done.stderr[done.stderr.index("\nTrace ") + 1 :].splitlines()
    assert lines[0].split(": ", 1)[1].startswith("cutaway run hello-world, ")
    parts = [line.split(",")[0] for line in lines[4:] if line and not line.startswith((" ", "no spans"))]
    assert parts[:2] == ["cutaway", "cutawayd"]
    text = "\n".join(lines)
    assert "/start -> 204" in text and "process.exit_code=0" in text and "Traceback" not in text


def test_a_trace_is_shown_again_later(running: OwnStack) -> None:
    running.run("run", "--name", "traced", "hello-world")
    try:
        shown = running.run("trace", "traced").stdout
        assert (
            shown.startswith("Trace ") and "cutaway run hello-world" in shown and "\ncutawayd, pid " in shown
        )
        spans = decode_request(json.loads(running.run("trace", "traced", "--json").stdout))
        assert len({span.trace_id for span in spans}) == 1
        root = next(span for span in spans if span.name == "cutaway run hello-world")
        assert root.attributes["process.exit_code"] == "0" and not root.parent_id
        known = {span.span_id for span in spans}
        assert all(span.parent_id in known for span in spans if span.service == "cutawayd" and span.parent_id)
    finally:
        running.run("rm", "traced")


def test_a_trace_of_a_failed_run_is_shown_too(running: OwnStack) -> None:
    done = running.run("run", "--rm", "--trace", "hello-world", "/nothing", check=False)
    assert done.returncode == 127
    assert "\nTrace " in done.stderr and "failed: " in done.stderr


def test_traces_that_are_not_there(running: OwnStack) -> None:
    done = running.run("trace", "nobody", check=False)
    assert (done.returncode, done.stderr) == (1, "Error: No such container: nobody\n")


def test_the_real_docker_gets_along_with_what_we_started(running: OwnStack) -> None:
    env = running.env | {"DOCKER_HOST": running.host}
    done = running.netns.run([peer("docker"), "run", "--rm", "hello-world"], env=env)
    assert done.stdout.startswith("Hello from Cutaway!")


def test_programs_are_found_beside_our_own() -> None:
    for name in NAMES:
        assert (VENV_BIN / name).exists()
