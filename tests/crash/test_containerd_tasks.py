"""The daemon ends or is killed while tasks run, start or end; the next one finds what there is.

What containerd does as well is asserted on it first. What a crash leaves half-made is cleaned up by ours
only: there the steps in between are brought about by programs that wait on a FIFO.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from containerd.task_rig import (
    Events,
    Reader,
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
from support.leftovers import mounts_below
from support.peers import peer
from support.process import has_ended, wait_until
from support.stack import OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

CREATED, RUNNING, STOPPED, PAUSED = 1, 2, 3, 4


@pytest.fixture(scope="module", params=[RealContainerd, OurContainerd])
def on(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A rig on containerd, then on cutaway-containerd."""
    with beside(request.param) as made:
        yield made


@pytest.fixture(scope="module", params=["io.containerd.runc.v2", "io.containerd.cutaway.v1"])
def ours(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A rig on cutaway-containerd, with the shim of runc and with ours, which is forked."""
    with beside(OurContainerd) as made:
        made.runtime = request.param
        yield made


# What goes on


@pytest.mark.parametrize("end", ["stop", "crash"])
def test_running_task_goes_on(on: Rig, end: str) -> None:
    pid = on.running("lasting")
    getattr(on.daemon, end)()
    assert Path(f"/proc/{pid}").exists()
    on.daemon.start()
    found = on.tasks("Get", container_id="lasting").process
    assert (found.pid, found.status) == (pid, RUNNING)
    on.exec("lasting", "e", "sh", "-c", "exit 3")
    on.tasks("Start", container_id="lasting", exec_id="e")
    assert on.tasks("Wait", container_id="lasting", exec_id="e").exit_status == 3
    on.tasks("DeleteProcess", container_id="lasting", exec_id="e")
    assert on.end("lasting") == 137
    assert_nothing_left(on, "lasting")


def test_exit_while_the_daemon_is_down_is_kept(on: Rig) -> None:
    gate, out = fifo(on, "leave"), fifo(on, "left")
    on.container("leaving", "sh", "-c", "echo ready; read line; exit 12")
    holder = os.open(gate, os.O_RDWR | os.O_CLOEXEC)
    with Reader(out) as reader:
        on.tasks("Create", container_id="leaving", stdin=str(gate), stdout=str(out), stderr=str(out))
        pid = on.tasks("Start", container_id="leaving").pid
        assert reader.line() == "ready"
        on.daemon.crash()
        os.write(holder, b"go\n")
        os.close(holder)
        assert has_ended(pid, 10)
        on.daemon.start()
    # A shim tells its events in the end; ours are told to whoever comes back a moment later, too.
    with Events(on.event_service.stream("Subscribe", filters=["event.container_id==leaving"])) as events:
        (exited,) = events.until("/tasks/exit")
        assert fields_of(exited, "id", "pid", "exit_status") == ("leaving", pid, 12)
    found = on.tasks("Get", container_id="leaving").process
    assert (found.status, found.exit_status) == (STOPPED, 12)
    assert on.tasks("Wait", container_id="leaving").exit_status == 12
    assert on.drop("leaving") == 12
    assert_nothing_left(on, "leaving")


def test_events_of_adopted_tasks_arrive(on: Rig) -> None:
    on.running("telling")
    on.daemon.crash()
    on.daemon.start()
    with on.events("topic~=|^/tasks/|,event.container_id==telling") as events:
        on.tasks("Kill", container_id="telling", signal=9)
        (exited,) = events.until("/tasks/exit")
        assert fields_of(exited, "id", "exit_status") == ("telling", 137)
        on.drop("telling")
        (deleted,) = events.until("/tasks/delete")
    assert deleted.namespace == on.namespace


def test_created_and_paused_tasks_are_kept(on: Rig) -> None:
    on.container("made", "true")
    on.tasks("Create", container_id="made")
    on.running("halted")
    on.tasks("Pause", container_id="halted")
    on.daemon.crash()
    on.daemon.start()
    assert on.statuses() == {"made": CREATED, "halted": PAUSED}
    on.tasks("Resume", container_id="halted")
    on.end("halted")
    on.tasks("Start", container_id="made")
    on.tasks("Wait", container_id="made")
    on.drop("made")


def test_shim_that_dies_meanwhile_is_cleaned_up(on: Rig) -> None:
    pid = on.running("buried")
    (shim,) = shims(on, "buried")
    on.daemon.crash()
    os.kill(shim, signal.SIGKILL)
    on.daemon.start()
    with refused("NOT_FOUND", "task buried not found"):
        on.tasks("Get", container_id="buried")
    assert has_ended(pid, 10)
    assert_nothing_left(on, "buried")
    on.tasks("Create", container_id="buried")
    on.drop("buried")


def test_shim_that_dies_after_adoption_is_noticed(on: Rig) -> None:
    on.running("adopted")
    on.daemon.crash()
    on.daemon.start()
    with on.events("topic~=|^/tasks/|") as events:
        (shim,) = shims(on, "adopted")
        os.kill(shim, signal.SIGKILL)
        exited, _ = events.until("/tasks/delete")
    assert fields_of(exited, "id", "exit_status") == ("adopted", 137)
    assert_nothing_left(on, "adopted")
    on.containers("Delete", id="adopted")


# What is cleaned up


def crash_at(on: Rig, gate: Path, id: str, **fields: object) -> None:
    """Begin a creation and kill the daemon once somebody reads the gate; let that one go on then."""
    creating = on.tasks.begin("Create", container_id=id, **fields)
    reached = threading.Event()

    def wait_for_reader() -> None:
        # Who has died with the daemon needs no word.
        with suppress(BrokenPipeError), gate.open("w") as writer:
            reached.set()
            assert killed.wait(20)
            writer.write("go\n")

    killed = threading.Event()
    thread = threading.Thread(target=wait_for_reader)
    thread.start()
    assert reached.wait(20)
    on.daemon.crash()
    killed.set()
    thread.join(20)
    assert creating.exception(20) is not None


def test_crash_while_the_shim_starts(ours: Rig) -> None:
    gate = fifo(ours, "starting")
    real = peer("containerd-shim-runc-v2")
    slow = f'case "$*" in *start) read line < {gate};; esac; exec {real} "$@"'
    ours.container("starting", "true", runtime=str(script(ours, "slow-shim", slow)))
    crash_at(ours, gate, "starting")
    ours.daemon.start()
    assert_nothing_left(ours, "starting")
    ours.containers("Delete", id="starting")


def test_crash_while_the_runtime_creates(ours: Rig) -> None:
    gate = fifo(ours, "creating")
    slow = f'case "$*" in *" create "*) read line < {gate};; esac; exec {peer("runc")} "$@"'
    options = runtime_options(script(ours, "slow-runc", slow))
    spec = ours.spec("creating", ["sleep", "1000"])
    spec["root"] = {"path": "rootfs"}
    ours.container("creating", spec=spec, options=options)
    mount = {"type": "bind", "source": str(ours.rootfs), "options": ["rbind", "rw"]}
    crash_at(ours, gate, "creating", rootfs=[mount])
    ours.daemon.start()
    # The shim had been asked. If it has gone on without us there is a task now, otherwise nothing.
    if ours.statuses():
        assert ours.statuses() == {"creating": CREATED}
        ours.drop("creating")
    else:
        ours.containers("Delete", id="creating")
    assert_nothing_left(ours, "creating")
    assert (ours.rootfs / "bin/busybox").exists()


def slow_to_delete(on: Rig, id: str) -> tuple[Path, Path]:
    """A task that has ended, and whose shim's `delete` waits for a line from a FIFO; that and the shim."""
    gate = fifo(on, id)
    slow = f'case "$*" in *delete) read line < {gate};; esac; exec {peer("containerd-shim-runc-v2")} "$@"'
    shim = script(on, f"slow-{id}", slow)
    on.container(id, "true", runtime=str(shim))
    on.tasks("Create", container_id=id)
    on.tasks("Start", container_id=id)
    on.tasks("Wait", container_id=id)
    return gate, shim


def test_deletion_is_answered_before_the_shim_is_gone(ours: Rig) -> None:
    gate, _ = slow_to_delete(ours, "again")
    assert ours.tasks("Delete", container_id="again").exit_status == 0
    assert ours.statuses() == {}
    again = ours.tasks.begin("Create", container_id="again")
    with gate.open("w") as writer:
        assert ours.bundle("again").exists()
        assert not again.done()
        writer.write("go\n")
    assert again.result(20).pid > 0
    with pytest.raises(Refused, match="already exists"):
        ours.tasks("Create", container_id="again")
    ours.tasks("Delete", container_id="again")
    gate.write_text("go\n")
    ours.containers("Delete", id="again")
    assert_nothing_left(ours, "again")


def test_crash_while_a_task_is_deleted(ours: Rig) -> None:
    gate, shim = slow_to_delete(ours, "deleting")
    assert ours.tasks("Delete", container_id="deleting").exit_status == 0
    with gate.open("w") as writer:
        ours.daemon.crash()
        shim.write_text(f'#!/bin/sh\nexec {peer("containerd-shim-runc-v2")} "$@"\n')
        writer.write("go\n")
    ours.daemon.start()
    assert_nothing_left(ours, "deleting")
    ours.containers("Delete", id="deleting")


@pytest.mark.parametrize("lacking", ["shim-binary-path", "address", "log"])
def test_bundle_that_lacks_a_file(ours: Rig, lacking: str) -> None:
    """As a crash leaves it, or someone who tidies /run."""
    pid = ours.running("lacking")
    ours.daemon.crash()
    (ours.bundle("lacking") / lacking).unlink()
    ours.daemon.start()
    if lacking == "address":
        assert has_ended(pid, 10)
        ours.containers("Delete", id="lacking")
    else:
        assert ours.statuses() == {"lacking": RUNNING}
        ours.end("lacking")
    assert_nothing_left(ours, "lacking")


def test_half_removed_and_unfinished_bundles_go(ours: Rig) -> None:
    ours.daemon.stop()
    bundles = ours.bundle("x").parent
    bundles.mkdir(parents=True, exist_ok=True)
    for name in (".half", "unfinished"):
        (bundles / name / "rootfs").mkdir(parents=True)
    (bundles / "unfinished/config.json").write_text("{")
    ours.work("stale").mkdir(parents=True)
    ours.daemon.start()
    assert list(bundles.iterdir()) == []
    assert list(ours.work("stale").parent.iterdir()) == []


def test_files_under_a_forgotten_mount_survive(ours: Rig) -> None:
    ours.daemon.stop()
    rootfs = ours.bundle("forgotten") / "rootfs"
    rootfs.mkdir(parents=True)
    ours.daemon.netns.run(["mount", "--bind", ours.rootfs, rootfs])
    assert mounts_below(rootfs)
    ours.daemon.start()
    assert not rootfs.parent.exists()
    assert (ours.rootfs / "bin/busybox").exists()


def test_shim_that_hangs_does_not_hold_up_the_daemon(ours: Rig) -> None:
    ours.running("hanging")
    ours.running("well")
    (shim,) = shims(ours, "hanging")
    ours.daemon.crash()
    os.kill(shim, signal.SIGSTOP)
    ours.daemon.start()
    assert ours.statuses() == {"well": RUNNING}
    assert has_ended(shim, 10)
    assert_nothing_left(ours, "hanging")
    ours.containers("Delete", id="hanging")
    ours.end("well")


def test_daemon_told_to_end_lets_a_deletion_end(ours: Rig) -> None:
    ours.container("ending", "true")
    ours.tasks("Create", container_id="ending")
    ours.tasks("Start", container_id="ending")
    ours.tasks("Wait", container_id="ending")
    deleting = ours.tasks.begin("Delete", container_id="ending")
    wait_until(lambda: deleting.done() or "ending" not in ours.statuses(), "deletion has begun")
    assert ours.daemon.stop() == 0
    assert not ours.bundle("ending").exists()
    ours.daemon.start()
    assert_nothing_left(ours, "ending")
    try:
        ours.tasks("Get", container_id="ending")
    except Refused as error:
        assert error.code == "NOT_FOUND"


@pytest.mark.parametrize("again", ["another task", "another daemon"])
def test_clean_up_that_is_killed_is_done_again(ours: Rig, again: str) -> None:
    """What the runtime still has of the container must not be in the way of the next one for ever."""
    broken = script(ours, "no-clean-up", 'case "$*" in *delete) kill -9 $$;; esac; exec "$SHIM" "$@"')
    real = peer("containerd-shim-runc-v2")
    broken.write_text(broken.read_text().replace("$SHIM", str(real)))
    pid = ours.running("lost", runtime=str(broken))
    (shim,) = shims(ours, "lost")
    with ours.events('topic=="/tasks/delete"') as events:
        os.kill(shim, signal.SIGKILL)
        events.until("/tasks/delete")
    assert ours.bundle("lost").exists()
    broken.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    if again == "another daemon":
        ours.daemon.stop()
        ours.daemon.start()
        assert not ours.bundle("lost").exists()
    ours.tasks("Create", container_id="lost")
    assert has_ended(pid, 10)
    assert ours.tasks("Delete", container_id="lost").exit_status == 0
    ours.containers("Delete", id="lost")
    assert_nothing_left(ours, "lost")
