"""Hooks: which run when, what they are told, and what their failure does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runc.bundles import Bundle, Runtime, cgroups_named
from support.process import has_ended

pytestmark = [pytest.mark.root, pytest.mark.peers]

POINTS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


@pytest.fixture
def notes(place: Path, bundle: Bundle) -> Path:
    """A directory where hooks write, in the same place inside the container."""
    path = place / "notes"
    path.mkdir()
    bundle.mount(os.fspath(path), "none", os.fspath(path), "bind")
    return path


def note(notes: Path, point: str, more: str = "") -> dict[str, Any]:
    """A hook that writes what it finds: the state on stdin, its directory, its place in the order."""
    script = f"cat > {notes}/{point}; pwd > {notes}/{point}.cwd; echo {point} >> {notes}/order; {more}"
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}


def test_every_point_in_order_with_the_state(
    runtime: Runtime, bundle: Bundle, name: str, notes: Path
) -> None:
    bundle.config["hooks"] = {point: [note(notes, point)] for point in POINTS}
    bundle.config["annotations"] = {"key": "value"}
    bundle.shell(f"echo program >> {notes}/order")
    runtime.detached("create", "--bundle", bundle, name)
    pid = runtime.state(name)["pid"]
    order = (notes / "order").read_text().split()
    assert order[:3] == ["prestart", "createRuntime", "createContainer"]
    # The specification has poststart run in `start`; runc 1.1 runs it at the end of `create` already.
    assert order[3:] == ([] if runtime.ours else ["poststart"])
    runtime("start", name)
    runtime.wait_for(name, "stopped")
    runtime("delete", name)

    order = (notes / "order").read_text().split()
    assert [point for point in order if point != "poststart"] == [
        "prestart", "createRuntime", "createContainer", "startContainer", "program", "poststop",
    ]  # fmt: skip
    assert "poststart" in order
    for point in POINTS:
        state = json.loads((notes / point).read_text())
        assert state["id"] == name
        assert state["bundle"] == os.fspath(bundle.path)
        assert state["annotations"] == {"key": "value"}
        if point in ("prestart", "createRuntime"):
            assert (state["status"], state["pid"]) == ("creating", pid)
        if point in ("createContainer", "startContainer"):  # as they see it
            status = "creating" if point == "createContainer" else "created"
            assert (state["status"], state["pid"]) == (status, 1)
    assert (notes / "prestart.cwd").read_text() == f"{bundle.path}\n"
    assert (notes / "createContainer.cwd").read_text() == f"{bundle.rootfs}\n"
    assert (notes / "startContainer.cwd").read_text() == "/\n"
    stopped = json.loads((notes / "poststop").read_text())
    assert stopped["status"] == "stopped"
    assert not stopped.get("pid")


def test_hooks_of_the_runtime_run_in_its_namespaces_and_find_the_containers(
    runtime: Runtime, bundle: Bundle, name: str, notes: Path
) -> None:
    read = f"readlink /proc/self/ns/net > {notes}/own"
    bundle.config["hooks"] = {
        "prestart": [note(notes, "prestart", read)],
        "createContainer": [note(notes, "createContainer", f"readlink /proc/self/ns/net > {notes}/inside")],
    }
    assert runtime("run", "--bundle", bundle, name).code == 0
    assert (notes / "own").read_text().strip() == os.readlink("/proc/self/ns/net")
    assert (notes / "inside").read_text() != (notes / "own").read_text()


def test_a_hook_without_env_gets_the_runtimes(
    runtime: Runtime, bundle: Bundle, name: str, notes: Path
) -> None:
    script = f"echo $MARK > {notes}/mark"
    bundle.config["hooks"] = {"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    assert runtime("run", "--bundle", bundle, name, env={"MARK": "passed on"}).code == 0
    assert (notes / "mark").read_text() == "passed on\n"


def test_a_hook_inside_without_env_gets_the_programs(
    runtime: Runtime, bundle: Bundle, name: str, notes: Path
) -> None:
    bundle.process["env"] += ["INSIDE=1"]
    for point in ("createContainer", "startContainer"):
        script = f'umask > {notes}/{point}; echo "$INSIDE$MARK" >> {notes}/{point}'
        hook = {"path": "/bin/sh", "args": ["sh", "-c", script]}
        bundle.config.setdefault("hooks", {})[point] = [hook]
    assert runtime("run", "--bundle", bundle, name, env={"MARK": "host's"}).code == 0
    for point in ("createContainer", "startContainer"):
        assert (notes / point).read_text() == "0022\n1\n"


def test_a_hook_with_an_empty_env_gets_none(runtime: Runtime, bundle: Bundle, name: str, notes: Path) -> None:
    script = f"echo [$MARK] > {notes}/mark"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": []}
    bundle.config["hooks"] = {"prestart": [hook]}
    assert runtime("run", "--bundle", bundle, name, env={"MARK": "passed on"}).code == 0
    assert (notes / "mark").read_text() == "[]\n"


def test_a_hook_need_not_read_its_state(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.config["annotations"] = {"long": "x" * 200_000}
    bundle.config["hooks"] = {"prestart": [{"path": "/bin/true"}]}
    assert runtime("run", "--bundle", bundle, name).code == 0


SHELL = {"path": "/bin/sh", "args": ["sh", "-c", "echo said; echo oops >&2; exit 3"]}
FAILURES = [
    (SHELL, "error running hook #0: error running hook: exit status 3, stdout: said\n, stderr: oops\n"),
    ({"path": "/no/hook"}, "error running hook #0: fork/exec /no/hook: no such file or directory"),
    (
        {"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1},
        "error running hook #0: hook ran past specified timeout of 1.0s",
    ),
]


@pytest.mark.parametrize("point", ["prestart", "createRuntime", "createContainer"])
@pytest.mark.parametrize(("hook", "message"), FAILURES)
def test_a_failing_hook_fails_the_create_and_nothing_is_left(
    runtime: Runtime, bundle: Bundle, name: str, point: str, hook: dict[str, Any], message: str
) -> None:
    bundle.config["hooks"] = {point: [hook]}
    result = runtime("run", "--bundle", bundle, name)
    prefix = "runc run failed: unable to start container process: error during container init: "
    assert (result.code, result.error) == (1, prefix + message)
    assert not cgroups_named(name)
    assert runtime("list", "-q").out == ""


@pytest.mark.parametrize("point", ["prestart", "createRuntime", "createContainer"])
def test_the_poststop_hooks_run_after_a_failed_create(
    runtime: Runtime, bundle: Bundle, name: str, notes: Path, point: str
) -> None:
    bundle.config["hooks"] = {point: [{"path": "/bin/false"}], "poststop": [note(notes, "poststop")]}
    assert runtime("run", "--bundle", bundle, name).code == 1
    state = json.loads((notes / "poststop").read_text())
    assert (state["id"], state["status"]) == (name, "stopped")


def test_no_poststop_hook_runs_for_a_name_that_is_taken(
    runtime: Runtime, bundle: Bundle, name: str, notes: Path
) -> None:
    runtime.detached("create", "--bundle", bundle, name)
    bundle.config["hooks"] = {"poststop": [note(notes, "poststop")]}
    assert runtime("run", "--bundle", bundle, name).code == 1
    assert not (notes / "poststop").exists()


def test_a_failing_poststart_hook_ends_the_container(
    ours: Runtime, bundle: Bundle, name: str, place: Path, notes: Path
) -> None:
    bundle.config["hooks"] = {"poststart": [{"path": "/bin/false"}], "poststop": [note(notes, "poststop")]}
    bundle.process["args"] = ["sleep", "1000"]
    ours.detached("create", "--bundle", bundle, "--pid-file", place / "pid", name)
    result = ours("start", name)
    assert result.code == 1
    assert result.error.startswith("error running hook #0: error running hook: exit status 1")
    assert has_ended(int((place / "pid").read_text()), 10)
    assert ours("state", name).error == "container does not exist"
    assert json.loads((notes / "poststop").read_text())["status"] == "stopped"
    assert not cgroups_named(name)


def test_a_failing_poststop_hook_does_not_keep_the_container(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    bundle.config["hooks"] = {"poststop": [{"path": "/bin/false"}]}
    result = runtime("run", "--bundle", bundle, name)
    assert result.code == 0
    assert "error running hook #0" in result.err
    assert not cgroups_named(name)


def test_the_poststop_hooks_after_one_that_fails_run(
    ours: Runtime, bundle: Bundle, name: str, notes: Path
) -> None:
    bundle.config["hooks"] = {"poststop": [{"path": "/bin/false"}, note(notes, "poststop")]}
    result = ours("run", "--bundle", bundle, name)
    assert result.code == 0
    assert "level=warning" in result.err
    assert (notes / "order").read_text() == "poststop\n"


def test_a_hook_may_ask_for_the_state(ours: Runtime, bundle: Bundle, name: str, notes: Path) -> None:
    call = f"{ours.program} --root {ours.root} state {name} > {notes}/state"
    bundle.config["hooks"] = {"createRuntime": [note(notes, "createRuntime", call)]}
    assert ours("run", "--bundle", bundle, name).code == 0
    assert json.loads((notes / "state").read_text())["status"] == "creating"


def test_a_hook_that_a_signal_ends(runtime: Runtime, bundle: Bundle, name: str) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "kill -KILL $$"]}
    bundle.config["hooks"] = {"createRuntime": [hook]}
    result = runtime("create", "--bundle", bundle, name)
    assert "error running hook: signal: killed, stdout: , stderr: " in result.error
