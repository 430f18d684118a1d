"""Options, races and shims that die: what containerd makes of them is asserted on it, and then on ours."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from containerd.task_rig import (
    Refused,
    Rig,
    assert_nothing_left,
    beside,
    fields_of,
    fifo,
    refused,
    runtime_options,
    script,
    shims,
)
from support.peers import VENV_BIN, peer
from support.process import wait_until
from support.stack import OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

CREATED = 1


@pytest.fixture(scope="module", params=[RealContainerd, OurContainerd])
def on(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A rig on containerd, then on cutaway-containerd."""
    with beside(request.param) as made:
        yield made


# Options


def test_options_of_the_runtime_reach_the_shim(on: Rig) -> None:
    log = on.daemon.folder / "called"
    program = script(on, "runc-noted", f'echo "$@" >> {log}; exec {peer("runc")} "$@"')
    wrapped = runtime_options(program, str(on.daemon.folder / "runcroot"))
    on.container("optioned", "true", options=wrapped)
    on.tasks("Create", container_id="optioned")
    on.drop("optioned")
    assert f"--root {on.daemon.folder}/runcroot/{on.namespace} " in log.read_text()


def test_options_of_the_task_win(on: Rig) -> None:
    program = script(on, "runc-plain", f'touch {on.daemon.folder}/plain; exec {peer("runc")} "$@"')
    wrapped = runtime_options(program)
    bad = runtime_options("/nosuch")
    on.container("overruled", "true", options=bad)
    on.tasks("Create", container_id="overruled", options=wrapped)
    on.drop("overruled")
    assert (on.daemon.folder / "plain").exists()


# Races


def test_two_deletions_at_once(on: Rig) -> None:
    on.container("raced", "true")
    on.tasks("Create", container_id="raced")
    on.tasks("Start", container_id="raced")
    on.tasks("Wait", container_id="raced")
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(on.tasks, "Delete", container_id="raced") for _ in range(4)]
    errors = [call.exception() for call in calls]
    assert errors.count(None) == 1
    assert all(isinstance(error, Refused) for error in errors if error is not None)
    assert_nothing_left(on, "raced")
    on.containers("Delete", id="raced")


def test_many_tasks_at_once(on: Rig) -> None:
    names = [f"many{number}" for number in range(6)]
    for name in names:
        on.container(name, "sh", "-c", f"exit {name[-1]}")

    def live(name: str) -> int:
        on.tasks("Create", container_id=name)
        on.tasks("Start", container_id=name)
        on.tasks("Wait", container_id=name)
        return on.drop(name)

    with ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(live, names)) == list(range(6))
    for name in names:
        assert_nothing_left(on, name)


def test_creation_given_up_by_its_client_leaves_nothing(on: Rig) -> None:
    gate = fifo(on, "gate")
    slow = f'case "$*" in *" create "*) read line < {gate};; esac; exec {peer("runc")} "$@"'
    wrapped = runtime_options(script(on, "runc-slow", slow))
    on.container("given-up", "true", options=wrapped)
    creating = on.tasks.begin("Create", container_id="given-up")
    called = threading.Event()

    def open_gate() -> None:
        with gate.open("w") as writer:  # somebody reads: the runtime is being called
            called.set()
            creating.cancel()
            writer.write("go\n")

    threading.Thread(target=open_gate).start()
    assert called.wait(20)
    left = (on.bundle("given-up"), on.work("given-up"))
    wait_until(lambda: not any(path.exists() for path in left), "bundle is gone", timeout=30)
    assert_nothing_left(on, "given-up")
    on.containers("Delete", id="given-up")


@pytest.mark.parametrize("shim", ["cutaway-v1", "runc-v2"])
def test_creation_that_goes_on_after_its_client_leaves_nothing(on: Rig, shim: str) -> None:
    """What the shim is at when the client gives up comes to its end, and is undone then, not before."""
    name, id = f"containerd-shim-{shim}", f"goes-on-{shim}"
    program = VENV_BIN / name if shim == "cutaway-v1" else peer(name)
    gate = fifo(on, f"gate-{id}")
    slow = f'case "$*" in *" create "*) read line < {gate};; esac; exec {peer("runc")} "$@"'
    on.container(id, "true", runtime=str(program), options=runtime_options(script(on, f"runc-{id}", slow)))
    creating = on.tasks.begin("Create", container_id=id)
    with gate.open("w") as writer:
        creating.cancel()
        with suppress(AssertionError):  # when it is undone too early
            wait_until(lambda: not on.bundle(id).exists(), "bundle is gone", timeout=2)
        writer.write("go\n")
    assert_nothing_left(on, id)
    state = Path("/run/containerd/runc") / on.namespace / id
    wait_until(lambda: not state.exists(), "the runtime knows nothing of it")
    on.containers("Delete", id=id)


def test_two_creations_at_once(on: Rig) -> None:
    on.container("contested", "sleep", "1000")
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(on.tasks, "Create", container_id="contested") for _ in range(4)]
    assert [call.exception() for call in calls].count(None) == 1
    assert on.statuses()["contested"] == CREATED
    on.tasks("Start", container_id="contested")
    on.end("contested")


# Shims that die


def test_shim_that_is_killed(on: Rig) -> None:
    pid = on.running("orphaned")
    with on.events("topic~=|^/tasks/|,event.container_id==orphaned") as events:
        (shim,) = shims(on, "orphaned")
        os.kill(shim, signal.SIGKILL)
        exited, deleted = events.until("/tasks/delete")
    assert exited.topic == "/tasks/exit"
    assert fields_of(exited, "container_id", "id", "exit_status") == ("orphaned", "orphaned", 137)
    assert fields_of(deleted, "container_id", "exit_status") == ("orphaned", 137)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the task's process is gone")
    wait_until(lambda: "orphaned" not in on.statuses(), "the task is gone")
    with refused("NOT_FOUND", "task orphaned not found"):
        on.tasks("Get", container_id="orphaned")
    assert_nothing_left(on, "orphaned")
    on.tasks("Create", container_id="orphaned")
    on.drop("orphaned")


def test_wait_ends_with_the_shim(on: Rig) -> None:
    on.running("widowed")
    waiting = on.tasks.begin("Wait", container_id="widowed")
    on.tasks("Get", container_id="widowed")
    (shim,) = shims(on, "widowed")
    os.kill(shim, signal.SIGKILL)
    error = waiting.exception(timeout=20)
    assert (error.code().name, error.details()) == ("UNKNOWN", "ttrpc: closed: unknown")
    wait_until(lambda: not on.bundle("widowed").exists(), "bundle is gone")
    on.containers("Delete", id="widowed")
