"""A container from create to delete, and the verbs that its status allows and forbids."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runc.bundles import CONTROLLERS, Bundle, Runtime, cgroups_named
from support.process import has_ended, wait_until

pytestmark = [pytest.mark.root, pytest.mark.peers]

STATE_KEYS = ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "owner"]


def test_created_then_running_then_stopped_then_gone(
    runtime: Runtime, bundle: Bundle, name: str, place: Path
) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    pid_file = place / "pid"
    assert runtime.detached("create", "--bundle", bundle, "--pid-file", pid_file, name).code == 0
    state = runtime.state(name)
    pid = int(pid_file.read_text())
    assert (state["status"], state["pid"]) == ("created", pid)
    assert (runtime.root / name / "exec.fifo").is_fifo()
    assert cgroups_named(name)

    assert runtime("start", name).code == 0
    assert runtime.status(name) == "running"
    assert not (runtime.root / name / "exec.fifo").exists()

    assert runtime("kill", name, "KILL").code == 0
    assert has_ended(pid, 10)
    state = runtime.state(name)
    assert (state["status"], state["pid"]) == ("stopped", 0)

    assert runtime("delete", name).code == 0
    assert runtime("state", name).error == "container does not exist"
    assert not (runtime.root / name).exists()
    assert not cgroups_named(name)


def test_state_has_runcs_keys_in_runcs_order(runtime: Runtime, bundle: Bundle, name: str) -> None:
    runtime.detached("create", "--bundle", bundle, name)
    state = runtime.state(name)
    assert list(state) == STATE_KEYS
    assert state["bundle"] == os.fspath(bundle.path)
    assert state["rootfs"] == os.fspath(bundle.rootfs)
    assert state["owner"] == ""


def test_annotations_are_in_the_state(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.config["annotations"] = {"org.example.key": "värde"}
    runtime.detached("create", "--bundle", bundle, name)
    assert runtime.state(name)["annotations"] == {"org.example.key": "värde"}


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)])
def test_run_ends_with_the_programs_exit_code(
    runtime: Runtime, bundle: Bundle, name: str, script: str, code: int
) -> None:
    # Not as the first process of its pid namespace, which a signal of its own would not kill.
    bundle.shell(f"sh -c '{script}'; exit $?")
    assert runtime("run", "--bundle", bundle, name).code == code
    assert runtime("state", name).code == 1


def test_run_passes_output_and_errors_through(runtime: Runtime, bundle: Bundle, name: str) -> None:
    result = runtime("run", "--bundle", bundle.shell("cat; echo err >&2"), name, stdin="in\n")
    assert (result.out, result.err) == ("in\n", "err\n")


def test_run_detached_leaves_the_container(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    assert runtime.detached("run", "--detach", "--bundle", bundle, name).code == 0
    assert runtime.status(name) == "running"


def test_run_keep_leaves_the_stopped_container(runtime: Runtime, bundle: Bundle, name: str) -> None:
    assert runtime("run", "--keep", "--bundle", bundle, name).code == 0
    assert runtime.status(name) == "stopped"
    assert runtime("delete", name).code == 0


def test_run_passes_signals_on(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.shell("trap 'exit 9' TERM; echo ready; while true; do sleep 0.05; done")
    command = runtime.command("run", "--bundle", bundle, name)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 9


@pytest.mark.parametrize(
    ("status", "words", "message"),
    [
        ("running", ["start"], "cannot start an already running container"),
        ("stopped", ["start"], "cannot start a container that has stopped"),
        ("stopped", ["kill"], "container not running"),
        ("stopped", ["pause"], "container not running"),
        ("running", ["resume"], "container not paused"),
        ("running", ["delete"], "cannot delete container {name} that is not stopped: running"),
        ("stopped", ["exec", "true"], "exec failed: cannot exec in a stopped container"),
    ],
)
def test_what_a_status_forbids(
    runtime: Runtime, bundle: Bundle, name: str, status: str, words: list[str], message: str
) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    if status == "stopped":
        runtime("kill", name, "KILL")
        runtime.wait_for(name, "stopped")
    result = runtime(words[0], name, *words[1:])
    assert result.error == message.format(name=name)
    assert result.code == (255 if words[0] == "exec" else 1)


@pytest.mark.parametrize(
    "verb", ["state", "start", "kill", "delete", "pause", "resume", "ps", "events", "exec"]
)
def test_a_container_that_does_not_exist(runtime: Runtime, verb: str) -> None:
    words = {"exec": ["true"]}.get(verb, [])
    result = runtime(verb, "no-such-container", *words)
    assert result.error == ("exec failed: " if verb == "exec" else "") + "container does not exist"
    assert result.code == (255 if verb == "exec" else 1)


def test_delete_force_of_what_does_not_exist_is_fine(runtime: Runtime) -> None:
    assert runtime("delete", "--force", "no-such-container").code == 0


def test_delete_force_ends_a_running_container(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    assert runtime("delete", "--force", name).code == 0
    assert not cgroups_named(name)


def test_delete_of_a_created_container_kills_its_init(
    runtime: Runtime, bundle: Bundle, name: str, place: Path
) -> None:
    runtime.detached("create", "--bundle", bundle, "--pid-file", place / "pid", name)
    assert runtime("delete", name).code == 0
    assert has_ended(int((place / "pid").read_text()), 10)


def test_a_name_is_taken_once(runtime: Runtime, bundle: Bundle, name: str) -> None:
    runtime.detached("create", "--bundle", bundle, name)
    result = runtime.detached("create", "--bundle", bundle, name)
    assert (result.code, result.error) == (1, "runc create failed: container with given ID already exists")
    assert runtime.status(name) == "created"


@pytest.mark.parametrize("bad", ["a/b", "..", "a b", "ä"])
def test_a_name_must_be_plain(runtime: Runtime, bundle: Bundle, bad: str) -> None:
    result = runtime("create", "--bundle", bundle, bad)
    assert (result.code, result.error) == (1, "runc create failed: invalid container ID format")


@pytest.mark.parametrize("number", ["TERM", "SIGTERM", "term", "15"])
def test_kill_takes_names_and_numbers(runtime: Runtime, bundle: Bundle, name: str, number: str) -> None:
    bundle.shell("trap 'exit 0' TERM; touch /ready/now; while true; do sleep 0.05; done")
    ready = bundle.path / "ready"
    ready.mkdir()
    bundle.mount("/ready", "none", os.fspath(ready), "bind")
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    wait_until((ready / "now").exists, "the trap is set")
    assert runtime("kill", name, number).code == 0
    runtime.wait_for(name, "stopped")


def test_kill_of_an_unknown_signal(runtime: Runtime, bundle: Bundle, name: str) -> None:
    runtime.detached("create", "--bundle", bundle, name)
    assert runtime("kill", name, "FOO").error == 'unknown signal "FOO"'


def test_kill_all_after_the_end_is_no_error(runtime: Runtime, bundle: Bundle, name: str) -> None:
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    runtime.wait_for(name, "stopped")
    assert runtime("kill", "--all", name, "KILL").code == 0


def test_pause_and_resume(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    assert runtime("pause", name).code == 0
    assert runtime.status(name) == "paused"
    assert runtime("exec", name, "true").error.startswith("exec failed: cannot exec in a paused container")
    assert runtime("resume", name).code == 0
    assert runtime.status(name) == "running"


def test_a_paused_container_can_be_deleted_by_force(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    runtime("pause", name)
    assert runtime("delete", "--force", name).code == 0
    assert not cgroups_named(name)


def test_list_shows_each_container(runtime: Runtime, bundle: Bundle, name: str) -> None:
    assert runtime("list").out == "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
    assert runtime("list", "--format", "json").out == "null\n"
    runtime.detached("create", "--bundle", bundle, name)
    state = runtime.state(name)
    table = runtime("list").out.splitlines()
    assert table[1].split() == [
        name, str(state["pid"]), "created", os.fspath(bundle.path), state["created"], "root",
    ]  # fmt: skip
    assert json.loads(runtime("list", "-f", "json").out) == [{**state, "owner": "root"}]
    assert runtime("list", "-q").out == f"{name}\n"
    assert runtime("list", "--format", "xml").error == "invalid format option"


def test_ps_shows_the_hosts_pids(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    pid = runtime.state(name)["pid"]
    assert json.loads(runtime("ps", "--format", "json", name).out) == [pid]
    lines = runtime("ps", name).out.splitlines()
    assert lines[0].split()[:2] == ["UID", "PID"]
    assert lines[1].split()[1] == str(pid)


def test_update_from_stdin_and_by_options(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    limit = json.dumps({"memory": {"limit": 64 << 20}})
    assert runtime("update", "--resources", "-", name, stdin=limit).code == 0
    assert _limits(runtime, name)["memory"]["usage"]["limit"] == 64 << 20
    assert runtime("update", "--memory", "32m", "--pids-limit", "17", name).code == 0
    assert _limits(runtime, name)["memory"]["usage"]["limit"] == 32 << 20
    assert _limits(runtime, name)["pids"]["limit"] == 17


def _limits(runtime: Runtime, name: str) -> dict[str, Any]:
    event = json.loads(runtime("events", "--stats", name).out)
    assert (event["type"], event["id"]) == ("stats", name)
    found: dict[str, Any] = event["data"]
    return found


def test_events_end_with_the_container(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    ours.detached("run", "--detach", "--bundle", bundle, name)
    command = ours.command("events", "--interval", "20ms", name)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as events:
        assert events.stdout is not None
        assert json.loads(events.stdout.readline())["type"] == "stats"
        ours("kill", name, "KILL")
        assert events.wait(20) == 0


def test_a_default_root_is_used_without_root(ours: Runtime, bundle: Bundle, name: str) -> None:
    command = [
        str(ours.program),
        "run",
        "--detach",
        "--bundle",
        os.fspath(bundle.shell("exec sleep 1000")),
        name,
    ]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=30)
    try:
        assert Path(f"/run/cutaway-runc/{name}/state.json").stat().st_mode & 0o777 == 0o600
    finally:
        subprocess.run([ours.program, "delete", "--force", name], check=True, timeout=30)
    assert not Path(f"/run/cutaway-runc/{name}").exists()


@pytest.fixture
def frozen_cgroup(name: str) -> Iterator[str]:
    """A cgroup that is there already, and frozen: its path below the hierarchies."""
    v1 = (CONTROLLERS / "freezer").is_dir()
    group = (CONTROLLERS / "freezer" if v1 else CONTROLLERS) / name
    group.mkdir()
    switch, on, off = ("freezer.state", "FROZEN", "THAWED") if v1 else ("cgroup.freeze", "1", "0")
    (group / switch).write_text(on)
    yield f"/{name}"
    (group / switch).write_text(off)
    group.rmdir()


def test_a_frozen_cgroup_is_refused(runtime: Runtime, bundle: Bundle, name: str, frozen_cgroup: str) -> None:
    bundle.linux["cgroupsPath"] = frozen_cgroup
    result = runtime("create", "--bundle", bundle, name)
    assert (result.code, result.error) == (1, "runc create failed: container's cgroup unexpectedly frozen")
    assert runtime("state", name).error == "container does not exist"


def test_a_cgroup_with_processes_is_warned_about(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["cgroupsPath"] = f"/{name}"
    bundle.process["args"] = ["sleep", "1000"]
    assert runtime.detached("run", "--detach", "--bundle", bundle, name).err == ""
    second = runtime.detached("run", "--detach", "--bundle", bundle, f"{name}-2")
    assert second.code == 0
    warning = second.err.splitlines()[0]
    assert "level=warning" in warning
    assert "container's cgroup is not empty: 1 process(es) found" in warning


def test_spec_has_the_namespaces_that_runcs_has(runtime: Runtime, place: Path) -> None:
    assert runtime("spec", "--bundle", place).code == 0
    found = json.loads((place / "config.json").read_text())
    kinds = [entry["type"] for entry in found["linux"]["namespaces"]]
    v2 = ["cgroup"] if (CONTROLLERS / "cgroup.controllers").exists() else []
    assert kinds == ["pid", "network", "ipc", "uts", "mount", *v2]
    assert runtime("spec", "--bundle", place).error == "File config.json exists. Remove it first"


def test_exec_goes_to_no_cgroup_but_the_containers(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    result = runtime("exec", "--cgroup", "..", name, "true")
    assert result.code == 255
    assert " .. is not a sub cgroup path" in result.error
    result = runtime("exec", "--cgroup", "nonexistent", name, "true")
    assert result.code == 255
    assert " adding pid " in result.error
    assert "/nonexistent/cgroup.procs: no such file or directory" in result.error


def test_debug_tells_each_step(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    ours.detached("run", "--detach", "--bundle", bundle, name)
    said = ours("exec", name, "true", options=["--debug"]).err
    assert 'level=debug msg="parent: start a process in the namespaces of process ' in said
    assert 'level=debug msg="process: find true"' in said
    ours("delete", "--force", name)
    bundle.process["args"] = ["true"]
    said = ours("run", "--bundle", bundle, name, options=["--debug"]).err
    assert 'level=debug msg="parent: make cgroup ' in said
    assert 'level=debug msg="init: mount proc at /proc"' in said
