"""What may be done to a container in which state, in Docker's words and with its statuses."""

from __future__ import annotations

import pytest

from engine.engine_stack import NAMESPACE, Stack
from support.leftovers import Leftovers, cgroups
from support.process import wait_until

pytestmark = [pytest.mark.root, pytest.mark.peers]


def sleeping(stack: Stack, name: str, *flags: str) -> str:
    return stack.docker("run", "-d", "--name", name, *flags, "busybox", "sleep", "100").strip()


def test_starting_twice_and_stopping_twice_change_nothing(engine_stack: Stack) -> None:
    sleeping(engine_stack, "box")
    assert engine_stack.ask("POST", "/containers/box/start") == (304, None)
    assert engine_stack.ask("POST", "/containers/box/stop?t=0") == (204, None)
    assert engine_stack.ask("POST", "/containers/box/stop") == (304, None)
    assert engine_stack.ask("POST", "/containers/box/start") == (204, None)


def test_a_start_with_a_body_is_refused(engine_stack: Stack) -> None:
    engine_stack.docker("create", "--name", "box", "busybox")
    status, answer = engine_stack.ask("POST", "/containers/box/start", {"Binds": []})
    assert (status, "non-empty request body" in answer["message"]) == (400, True)


def test_stop_asks_first(engine_stack: Stack) -> None:
    script = "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    engine_stack.docker("run", "-d", "--name", "polite", "busybox", "sh", "-c", script)
    engine_stack.wait_log("polite", "ready")
    engine_stack.docker("stop", "polite")
    assert engine_stack.inspect("polite")["State"]["ExitCode"] == 5
    assert "asked" in engine_stack.docker("logs", "polite")


def test_stop_uses_the_container_s_signal_then_kills(engine_stack: Stack) -> None:
    script = "trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done"
    engine_stack.docker("run", "-d", "--name", "deaf", "--stop-signal", "USR1", "busybox", "sh", "-c", script)
    engine_stack.wait_log("deaf", "ready")
    engine_stack.docker("stop", "-t", "1", "deaf")
    assert engine_stack.inspect("deaf")["State"]["ExitCode"] == 137
    assert "usr1" in engine_stack.docker("logs", "deaf")


def test_kill_sends_any_signal(engine_stack: Stack) -> None:
    script = "trap 'echo got it' HUP; echo ready; while :; do sleep 0.05; done"
    engine_stack.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", script)
    engine_stack.wait_log("box", "ready")
    engine_stack.docker("kill", "-s", "HUP", "box")
    engine_stack.wait_log("box", "got it")
    assert engine_stack.ask("POST", "/containers/box/kill?signal=NO") == (
        400,
        {"message": "Invalid signal: NO"},
    )


def test_what_a_stopped_container_refuses(engine_stack: Stack) -> None:
    container = engine_stack.docker("create", "--name", "box", "busybox", "true").strip()
    stopped = f"Container {container} is not running"
    ask = engine_stack.ask
    assert ask("POST", "/containers/box/kill") == (
        409,
        {"message": f"Cannot kill container: box: {stopped}"},
    )
    assert ask("POST", "/containers/box/pause") == (409, {"message": stopped})
    assert ask("POST", "/containers/box/resize?h=1&w=1") == (409, {"message": stopped})
    assert ask("POST", "/containers/box/exec", {"Cmd": ["true"]}) == (409, {"message": stopped})
    assert ask("GET", "/containers/box/top") == (409, {"message": stopped})
    assert ask("POST", "/containers/box/unpause") == (
        500,
        {"message": f"Container {container} is not paused"},
    )


def test_pause_freezes(engine_stack: Stack) -> None:
    container = sleeping(engine_stack, "box")
    engine_stack.docker("pause", "box")
    assert engine_stack.docker("ps", "--format", "{{.Status}}").endswith("(Paused)\n")
    assert engine_stack.ask("POST", "/containers/box/pause") == (
        409,
        {"message": f"Container {container} is already paused"},
    )
    assert "is paused, unpause" in engine_stack.fails("exec", "box", "true")[1]
    engine_stack.docker("unpause", "box")
    assert engine_stack.docker("exec", "box", "echo", "thawed") == "thawed\n"
    engine_stack.docker("pause", "box")
    engine_stack.docker("rm", "-f", "box")


def test_removal_of_a_running_container_needs_force(engine_stack: Stack) -> None:
    container = sleeping(engine_stack, "box")
    words = (
        f"You cannot remove a running container {container}. "
        "Stop the container before attempting removal or force remove"
    )
    assert engine_stack.ask("DELETE", "/containers/box") == (409, {"message": words})
    assert engine_stack.ask("DELETE", "/containers/box?force=1") == (204, None)
    assert engine_stack.ask("DELETE", "/containers/box") == (404, {"message": "No such container: box"})


def test_force_removes_a_container_that_removes_itself(engine_stack: Stack) -> None:
    sleeping(engine_stack, "box", "--rm")
    engine_stack.docker("rm", "-f", "box")
    assert engine_stack.docker("ps", "-aq") == ""


def test_references(engine_stack: Stack) -> None:
    container = engine_stack.docker("create", "--name", "some_name", "busybox").strip()
    for reference in (container, container[:12], container[:4], "some_name", "%2Fsome_name"):
        assert engine_stack.ask("GET", f"/containers/{reference}/json")[1]["Id"] == container
    for bad in ("none", container[:4] + "zz", container.upper()):
        assert engine_stack.ask("GET", f"/containers/{bad}/json")[0] == 404


def test_on_failure_restarts_as_often_as_told(engine_stack: Stack) -> None:
    engine_stack.docker(
        "run", "-d", "--restart", "on-failure:2", "--name", "again", "busybox", "sh", "-c", "echo run; exit 1"
    )
    engine_stack.wait_state("again", "exited")
    assert engine_stack.inspect("again")["RestartCount"] == 2
    assert engine_stack.docker("logs", "again") == "run\n" * 3


def test_a_stopped_container_is_not_restarted(engine_stack: Stack) -> None:
    sleeping(engine_stack, "box", "--restart", "always")
    engine_stack.docker("kill", "box")
    engine_stack.wait_state("box", "exited")
    engine_stack.docker("start", "box")
    engine_stack.docker("exec", "box", "kill", "1")  # sleep as process 1 ignores it
    engine_stack.docker("stop", "-t", "0", "box")
    assert engine_stack.state("box") == "exited"


def test_restart_makes_a_new_process(engine_stack: Stack) -> None:
    sleeping(engine_stack, "box", "--rm")
    before = engine_stack.inspect("box")["State"]["Pid"]
    engine_stack.docker("restart", "-t", "0", "box")
    after = engine_stack.inspect("box")["State"]
    assert after["Running"]
    assert after["Pid"] != before


def test_limits_reach_the_cgroup_and_can_be_changed(engine_stack: Stack) -> None:
    container = sleeping(engine_stack, "box", "--memory", "64m", "--pids-limit", "50")
    engine_stack.docker("update", "--memory", "96m", "--memory-swap", "200m", "box")
    assert engine_stack.inspect(container)["HostConfig"]["Memory"] == 96 << 20
    rows = engine_stack.docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", "box")
    assert rows.startswith("box ")
    assert rows.endswith("/ 96MiB\n")


def test_an_out_of_memory_kill_is_told(engine_stack: Stack) -> None:
    script = "head -c 100000000 /dev/zero | tail"
    code, _ = engine_stack.fails(
        "run", "--name", "greedy", "--memory", "8m", "--memory-swap", "8m", "busybox", "sh", "-c", script
    )
    assert code == 137 or code == 1
    wait_until(lambda: engine_stack.inspect("greedy")["State"]["OOMKilled"], "it is told", timeout=5)


def test_wait_conditions(engine_stack: Stack) -> None:
    engine_stack.docker("create", "--name", "box", "busybox", "sh", "-c", "exit 6")
    assert engine_stack.ask("POST", "/containers/box/wait") == (200, {"StatusCode": 0})
    status, answer = engine_stack.ask("POST", "/containers/box/wait?condition=later")
    assert (status, answer) == (400, {"message": 'invalid condition: "later"'})
    engine_stack.docker("start", "box")
    wait_until(lambda: engine_stack.state("box") == "exited", "it has ended")
    assert engine_stack.ask("POST", "/v1.41/containers/box/wait") == (200, {"Error": None, "StatusCode": 6})


def test_nothing_is_left_of_containers_that_ran_or_could_not(engine_stack: Stack) -> None:
    engine = engine_stack.engine
    engine_stack.docker("run", "--rm", "busybox", "true")
    before = Leftovers.snapshot(engine.folder)
    listed = {
        what: listing(engine_stack, *what.split()) for what in ("containers ls", "tasks ls", "snapshots ls")
    }
    names: list[str] = []
    for command in (["true"], ["nosuch"], ["/etc/passwd"]):
        container = engine_stack.docker("create", "busybox", *command).strip()
        names.append(container)
        engine_stack.engine.docker("start", "-a", container, check=False)
        engine_stack.docker("rm", container)
    engine_stack.fails("run", "--rm", "--network", "nope", "busybox")
    engine_stack.fails("run", "--rm", "-v", "/etc/passwd:/etc", "busybox", "true")
    engine_stack.fails("run", "--rm", "-u", "nobodyhere", "busybox", "true")
    wait_until(
        lambda: not str(Leftovers.snapshot(engine.folder).since(before)), "all is as before", timeout=20
    )
    assert [path for path in cgroups() if any(name in path for name in names)] == []
    for what, text in listed.items():
        assert listing(engine_stack, *what.split()) == text
    for folder in (engine.root / "containers", engine.exec_root / "containerd", engine.exec_root / "netns"):
        assert list(folder.iterdir()) == []


def listing(stack: Stack, *words: str) -> str:
    return stack.containerd.ctr(*words, namespace=NAMESPACE).stdout
