"""Restarts: of the engine in good order and by SIGKILL, and of containerd, with containers running."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from cutaway.faults import FAULT
from engine.engine_stack import NAMESPACE, REAL_BELOW, Hijack, Stack, stack
from support.leftovers import Leftovers, cgroups
from support.peers import VENV_BIN, need, peer
from support.process import has_ended, wait_until
from support.stack import Containerd, OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

TICKS = "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.02; done"


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    """A stack whose daemons this module's tests may end; not the one that others share."""
    need("root", "docker", "containerd", "containerd-shim-runc-v2", "runc", "busybox", "ctr")
    with stack() as made:
        yield made


@pytest.fixture
def own_stack(own: Stack) -> Iterator[Stack]:
    yield own
    own.remove_all()


def ticks(stack: Stack, name: str) -> list[int]:
    return [int(line.split()[1]) for line in stack.docker("logs", name).splitlines()]


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
def test_a_running_container_is_adopted_with_its_output(own_stack: Stack, crash: bool) -> None:
    own_stack.docker("run", "-d", "--name", "clock", "busybox", "sh", "-c", TICKS)
    own_stack.wait_log("clock", "tick 5")
    before = own_stack.inspect("clock")
    own_stack.engine.crash() if crash else own_stack.engine.stop()
    own_stack.engine.start()
    after = own_stack.inspect("clock")
    assert after["State"]["Pid"] == before["State"]["Pid"]
    assert after["State"]["StartedAt"] == before["State"]["StartedAt"]
    assert after["NetworkSettings"]["IPAddress"] == before["NetworkSettings"]["IPAddress"]
    seen = len(ticks(own_stack, "clock"))
    wait_until(lambda: len(ticks(own_stack, "clock")) > seen, "the log goes on")
    numbers = ticks(own_stack, "clock")
    assert numbers == list(range(len(numbers)))  # nothing lost, nothing twice
    assert own_stack.docker("exec", "clock", "echo", "inside") == "inside\n"
    own_stack.docker("stop", "-t", "0", "clock")
    assert own_stack.inspect("clock")["State"]["ExitCode"] == 137


def test_an_exit_while_the_engine_is_down_is_not_lost(own_stack: Stack) -> None:
    script = "until [ -e /tmp/go ]; do sleep 0.02; done; exit 42"
    own_stack.docker("run", "-d", "--name", "brief", "busybox", "sh", "-c", script)
    pid = own_stack.inspect("brief")["State"]["Pid"]
    own_stack.docker("exec", "brief", "sh", "-c", "(sleep 0.5; touch /tmp/go) &")
    own_stack.engine.crash()
    wait_until(lambda: is_gone(pid), "the process ends", timeout=20)
    own_stack.engine.start()
    state = own_stack.inspect("brief")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 42)
    own_stack.docker("rm", "brief")


def test_an_engine_that_dies_over_a_clean_up_has_noted_the_exit(own_stack: Stack) -> None:
    """Killed at any moment around a container's end: the exit code is the container's, each time."""
    for number in range(6):
        name = f"end{number}"
        script = f"sleep 0.{number}; exit {40 + number}"
        own_stack.docker("run", "-d", "--name", name, "busybox", "sh", "-c", script)
        pid = own_stack.inspect(name)["State"]["Pid"]
        wait_until(functools.partial(is_gone, pid), "the process ends")
        own_stack.engine.crash()
        own_stack.engine.start()
        own_stack.wait_state(name, "exited")
        assert own_stack.inspect(name)["State"]["ExitCode"] == 40 + number


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid or 'none'}/stat") as file:  # 0: it had ended when it was looked up
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_an_interactive_container_can_be_attached_again(own_stack: Stack) -> None:
    own_stack.docker("run", "-dit", "--name", "shell", "busybox", "sh")
    own_stack.engine.crash()
    own_stack.engine.start()
    path = "/containers/shell/attach?stream=1&stdin=1&stdout=1"
    with Hijack(own_stack.engine.socket, path) as connection:
        connection.send(b"echo still $((20+22))\nexit 7\n")
        assert b"still 42" in connection.read_to_end()
    assert own_stack.docker("wait", "shell") == "7\n"


def test_stopped_containers_names_and_configurations_are_kept(own_stack: Stack) -> None:
    own_stack.fails("run", "--name", "old", "-e", "A=b", "-l", "x=y", "busybox", "sh", "-c", "exit 3")
    before = own_stack.inspect("old")
    own_stack.engine.crash()
    own_stack.engine.start()
    assert own_stack.inspect("old") == before
    assert "already in use" in own_stack.fails("create", "--name", "old", "busybox")[1]
    assert own_stack.engine.docker("start", "-a", "old", check=False).returncode == 3


def test_containerd_restarts_under_a_running_container(own_stack: Stack) -> None:
    own_stack.docker("run", "-d", "--name", "clock", "busybox", "sh", "-c", TICKS)
    own_stack.wait_log("clock", "tick 5")
    own_stack.containerd.crash()
    own_stack.containerd.start()
    seen = len(ticks(own_stack, "clock"))
    wait_until(lambda: len(ticks(own_stack, "clock")) > seen, "the log goes on")
    own_stack.docker("stop", "-t", "0", "clock")
    assert own_stack.inspect("clock")["State"]["ExitCode"] == 137
    assert own_stack.docker("run", "--rm", "busybox", "echo", "works") == "works\n"


@pytest.mark.parametrize("below", [RealContainerd, OurContainerd])
def test_ends_while_containerd_is_down_are_not_lost(below: type[Containerd]) -> None:
    """Of a container's first process and of an exec: the engine asks once containerd is back."""
    need("root", "docker", "containerd", "containerd-shim-runc-v2", "runc", "busybox", "ctr")
    script = "until [ -e /tmp/go ]; do sleep 0.02; done; exit 42"
    with stack(below=below) as made:
        for name in ("ends", "stays"):
            made.docker("run", "-d", "--name", name, "busybox", "sh", "-c", script)
        pid = made.inspect("ends")["State"]["Pid"]
        path = "/containers/stays/exec"
        exec_id = made.ask("POST", path, {"Cmd": ["sh", "-c", "sleep 0.7; touch /tmp/over; exit 7"]})[1]["Id"]
        made.ask("POST", f"/exec/{exec_id}/start", {"Detach": True})
        exec_pid = made.ask("GET", f"/exec/{exec_id}/json")[1]["Pid"]
        made.docker("exec", "ends", "sh", "-c", "(sleep 0.5; touch /tmp/go) &")
        made.containerd.crash()
        wait_until(lambda: is_gone(pid) and is_gone(exec_pid), "both processes end", timeout=20)
        made.containerd.start()
        made.wait_state("ends", "exited")
        assert made.inspect("ends")["State"]["ExitCode"] == 42
        wait_until(lambda: not made.ask("GET", f"/exec/{exec_id}/json")[1]["Running"], "the exec has ended")
        assert made.ask("GET", f"/exec/{exec_id}/json")[1]["ExitCode"] == 7
        assert made.state("stays") == "running"


@pytest.mark.parametrize("below", [RealContainerd, OurContainerd])
def test_an_end_while_all_daemons_are_down_is_not_lost(below: type[Containerd]) -> None:
    """Neither the code, which our service tells of itself, nor what was said last, which our shim keeps."""
    need("root", "docker", "containerd", "containerd-shim-runc-v2", "runc", "busybox", "ctr")
    ours = below is OurContainerd
    script = 'trap "echo last; exit 42" TERM; echo first; sleep 1000 & wait'
    with stack(() if ours else REAL_BELOW, [VENV_BIN], below) as made:
        made.docker("run", "-d", "--name", "ends", "busybox", "sh", "-c", script)
        made.wait_log("ends", "first")
        pid = made.inspect("ends")["State"]["Pid"]
        made.engine.crash()
        made.containerd.crash()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: is_gone(pid), "it ends")
        made.containerd.start()
        made.engine.start()
        made.wait_state("ends", "exited")
        assert made.inspect("ends")["State"]["ExitCode"] == 42
        if ours:
            assert made.docker("logs", "ends") == "first\nlast\n"


def test_a_start_that_containerd_died_over_leaves_nothing_when_it_is_back() -> None:
    """The engine lives on, so nobody but itself can know what it has half made; and it can try again."""
    need("root", "docker", "busybox", "ctr")
    with stack((), [VENV_BIN], OurContainerd) as made:
        made.docker("create", "--name", "half", "busybox", "sleep", "100")
        before = Leftovers.snapshot(made.engine.folder.parent)
        made.containerd.stop()
        made.containerd.env[FAULT] = "containerd.shims.answered:2"  # the shim has made the task
        made.containerd.start()
        del made.containerd.env[FAULT]
        assert "does not answer" in made.fails("start", "half")[1]
        assert made.containerd.process.wait() == -signal.SIGKILL
        made.containerd.start()

        def left() -> str:
            found = Leftovers.snapshot(made.engine.folder.parent).since(before)
            tasks = made.containerd.ctr("task", "ls", "-q", namespace=NAMESPACE).stdout
            records = made.containerd.ctr("containers", "ls", "-q", namespace=NAMESPACE).stdout
            return f"{found.mounts or ''}{found.cgroups or ''}{found.shim_sockets or ''}{tasks}{records}"

        wait_until(lambda: not left(), f"nothing is left: {left()}", timeout=20)
        made.docker("start", "half")
        assert made.state("half") == "running"


def test_a_removal_that_containerd_was_away_for_is_finished_when_it_is_back() -> None:
    need("root", "docker", "busybox", "ctr")
    with stack((), [VENV_BIN], OurContainerd) as made:
        made.docker("create", "--name", "old", "busybox")
        made.containerd.crash()
        assert "cannot remove container" in made.fails("rm", "old")[1]
        made.containerd.start()
        wait_until(lambda: made.docker("ps", "-aq") == "", "it is removed")
        assert made.containerd.ctr("snapshots", "ls", namespace=NAMESPACE).stdout.count("Active") == 0


def test_containerd_dies_while_the_engine_looks_at_what_there_is() -> None:
    """What it had not come to is found out when containerd is back, and what it had is not adopted twice."""
    need("root", "docker", "busybox", "ctr")
    with stack((), [VENV_BIN], OurContainerd) as made:
        for name in ("one", "two", "three"):
            made.docker("run", "-d", "--name", name, "busybox", "sh", "-c", TICKS)
        made.docker("create", "--name", "other", "busybox")
        for asked in (1, 3, 5):
            made.engine.crash()
            made.containerd.stop()
            made.containerd.env[FAULT] = f"containerd.shims.answered:{asked + 6}"  # two each at its own start
            made.containerd.start()
            del made.containerd.env[FAULT]
            starting = threading.Thread(target=made.engine.start)
            starting.start()
            has_ended(made.containerd.pid, 5)
            made.containerd.crash()
            made.containerd.start()
            starting.join()
            for name in ("one", "two", "three"):
                seen = len(ticks(made, name))
                wait_until(lambda name=name, seen=seen: len(ticks(made, name)) > seen, "the log goes on")  # type: ignore[misc]
                numbers = ticks(made, name)
                assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("word", ["pause", "unpause"])
def test_containerd_dies_when_it_has_paused_or_unpaused(word: str) -> None:
    """Who asked was told that it failed; the container runs then, and can be paused and unpaused again."""
    need("root", "docker", "busybox", "ctr")
    with stack((), [VENV_BIN], OurContainerd) as made:
        made.docker("run", "-d", "--name", "toy", "busybox", "sleep", "1000")
        if word == "unpause":
            made.docker("pause", "toy")
        made.containerd.stop()
        # The first call is adoption's Connect, the second its State.
        made.containerd.env[FAULT] = "containerd.shims.answered:3"
        made.containerd.start()
        del made.containerd.env[FAULT]
        if made.containerd.process.returncode is None:
            made.fails(word, "toy")
        made.containerd.process.wait()
        made.containerd.start()
        wait_until(lambda: made.docker("exec", "toy", "echo", "on", check=False) == "on\n", "it runs")
        assert made.state("toy") == "running"
        made.docker("pause", "toy")
        made.docker("unpause", "toy")


@pytest.mark.parametrize("who", ["engine", "containerd"])
def test_a_container_goes_on_when_a_daemon_dies_over_its_commit(who: str) -> None:
    """It was paused for that, which is nobody's wish any more."""
    need("root", "docker", "busybox", "ctr")
    with stack((), [VENV_BIN], OurContainerd) as made:
        made.docker("run", "-d", "--name", "source", "busybox", "sh", "-c", TICKS)
        daemon = made.engine if who == "engine" else made.containerd
        daemon.stop()
        daemon.env.update({FAULT: "containerd.diff.packed"} if who == "containerd" else {})
        daemon.start()
        if who == "containerd":
            assert "does not answer" in made.fails("commit", "source")[1]
        else:
            ctr = made.containerd.ctr
            ctr("task", "pause", made.inspect("source")["Id"], namespace=NAMESPACE)  # as the engine does
            made.engine.crash()
        daemon.env.pop(FAULT, None)
        daemon.process.wait()
        daemon.start()
        wait_until(lambda: made.state("source") == "running", "it is unpaused")
        seen = len(ticks(made, "source"))
        wait_until(lambda: len(ticks(made, "source")) > seen, "it goes on")


def test_a_call_right_after_a_restart_of_containerd_is_answered(own_stack: Stack) -> None:
    """The engine may be pausing between two tries to connect just then."""
    for _ in range(3):
        own_stack.containerd.crash()
        failed = own_stack.ask("POST", "/containers/create", {"Image": "busybox"})
        assert failed[0] == 503 and "does not answer" in failed[1]["message"]
        own_stack.containerd.start()
        assert own_stack.ask("POST", "/containers/create", {"Image": "busybox"})[0] == 201


def test_restart_policies_after_a_start_of_the_engine(own_stack: Stack) -> None:
    for policy in ("always", "unless-stopped", "no"):
        own_stack.docker("run", "-d", "--restart", policy, "--name", policy, "busybox", "sleep", "100")
        own_stack.docker("stop", "-t", "0", policy)
    own_stack.engine.stop()
    own_stack.engine.start()
    own_stack.wait_state("always", "running")
    assert own_stack.state("unless-stopped") == "exited"
    assert own_stack.state("no") == "exited"


def test_a_start_that_was_under_way_leaves_nothing_behind(own_stack: Stack) -> None:
    """Killed while it starts a container: afterwards that runs or it does not, and nothing is half there."""
    engine = own_stack.engine
    before = Leftovers.snapshot(engine.folder)
    ids = []
    for round_ in range(4):
        name = f"half{round_}"
        ids.append(own_stack.docker("create", "--name", name, "busybox", "sleep", "100").strip())
        client = own_stack.netns.popen([peer("docker"), "start", name], env=own_stack.engine.env)
        own_stack.engine.crash()
        client.wait()
        own_stack.engine.start()
        assert own_stack.state(name) in ("created", "running")
        own_stack.docker("rm", "-f", name)
    wait_until(
        lambda: not Leftovers.snapshot(engine.folder).since(before).mounts, "mounts are as before", timeout=20
    )
    groups = [path for path in cgroups() if any(container in path for container in ids)]
    assert groups == []
    assert list((engine.exec_root / "netns").iterdir()) == []
    assert own_stack.containerd.ctr("containers", "ls", "-q", namespace=NAMESPACE).stdout == ""


def test_a_second_daemon_is_refused(own_stack: Stack) -> None:
    command = own_stack.engine.command()
    done = own_stack.netns.run(command, env=own_stack.engine.env, check=False)
    assert done.returncode == 1
    assert "another cutawayd is running" in done.stderr
    assert own_stack.engine.is_ready()


def test_a_stale_pid_file_and_socket_are_no_obstacle(own_stack: Stack) -> None:
    own_stack.engine.process.kill()  # leaves both
    assert own_stack.engine.pidfile.exists()
    own_stack.engine.start()
    assert own_stack.engine.is_ready()


def test_our_shim_keeps_the_last_output_for_an_engine_that_is_down() -> None:
    """The real shim lets go of the FIFOs at a process's end, and with them of what nobody has read yet."""
    need("root", "docker", "containerd", "runc", "busybox", "ctr")
    with stack(("--default-runtime", "runc"), [VENV_BIN]) as made:
        script = "until [ -e /tmp/go ]; do sleep 0.02; done; echo last words; exit 42"
        made.docker("run", "-d", "--name", "brief", "busybox", "sh", "-c", script)
        pid = made.inspect("brief")["State"]["Pid"]
        made.docker("exec", "brief", "sh", "-c", "(sleep 0.5; touch /tmp/go) &")
        made.engine.crash()
        wait_until(lambda: is_gone(pid), "the process ends", timeout=20)
        made.engine.start()
        wait_until(lambda: made.docker("logs", "brief") == "last words\n", "what was left is in the log")
        assert made.inspect("brief")["State"]["ExitCode"] == 42


def test_what_an_engine_before_had_begun_is_finished(own_stack: Stack) -> None:
    """An exec whose engine has died is reaped, and a --rm container that ends meanwhile goes."""
    script = "until [ -e /tmp/go ]; do sleep 0.02; done"
    own_stack.docker("run", "-d", "--rm", "--name", "going", "busybox", "sh", "-c", script)
    own_stack.docker("run", "-d", "--name", "stays", "busybox", "sleep", "100")
    own_stack.docker("exec", "-d", "stays", "sh", "-c", script)
    pid = own_stack.inspect("going")["State"]["Pid"]
    own_stack.docker("exec", "going", "sh", "-c", "(sleep 0.3; touch /tmp/go) &")
    own_stack.engine.crash()
    wait_until(lambda: is_gone(pid), "the process ends", timeout=20)
    own_stack.engine.start()
    wait_until(
        lambda: own_stack.docker("ps", "-a", "--format", "{{.Names}}") == "stays\n", "--rm is finished"
    )
    container = own_stack.inspect("stays")["Id"]
    own_stack.docker("exec", "stays", "touch", "/tmp/go")
    fifos = own_stack.engine.exec_root / "containerd" / container
    wait_until(lambda: len(list(fifos.iterdir())) == 2, "only the first process's FIFOs are left")
