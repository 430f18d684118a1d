"""Tasks by gRPC, side by side: what containerd does is asserted on it, and then on ours."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from containerd.task_rig import (
    Reader,
    Refused,
    Rig,
    assert_nothing_left,
    beside,
    fields_of,
    fifo,
    refused,
)
from support.leftovers import mounts_below
from support.stack import OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

CREATED, RUNNING, STOPPED, PAUSED = 1, 2, 3, 4
NEVER = -62135596800
RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"


@pytest.fixture(scope="module", params=[RealContainerd, OurContainerd])
def on(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A rig on containerd, then on cutaway-containerd."""
    with beside(request.param) as made:
        yield made


# Life of a task


def test_life_of_a_task(on: Rig) -> None:
    on.container("life", "sh", "-c", "exit 7")
    with on.events(f"namespace=={on.namespace},topic~=|^/tasks/|") as events:
        created = on.tasks("Create", container_id="life")
        assert created.container_id == "life"
        found = on.tasks("Get", container_id="life").process
        assert (found.id, found.container_id, found.pid) == ("life", "", created.pid)
        assert (found.status, found.exited_at.seconds) == (CREATED, NEVER)
        assert on.tasks("Start", container_id="life").pid == created.pid
        ended = on.tasks("Wait", container_id="life")
        assert ended.exit_status == 7
        found = on.tasks("Get", container_id="life").process
        assert (found.status, found.exit_status, found.exited_at) == (STOPPED, 7, ended.exited_at)
        deleted = on.tasks("Delete", container_id="life")
        assert (deleted.id, deleted.pid) == ("", created.pid)
        assert (deleted.exit_status, deleted.exited_at) == (7, ended.exited_at)
        topics = [event.topic for event in events.until("/tasks/delete")]
    assert topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    on.containers("Delete", id="life")
    assert_nothing_left(on, "life")


def test_events_say_what_happened(on: Rig) -> None:
    on.container("told", "sh", "-c", "exit 3")
    with on.events("topic~=|^/tasks/|,event.container_id==told") as events:
        pid = on.tasks("Create", container_id="told").pid
        on.tasks("Start", container_id="told")
        created, started, exited = events.until("/tasks/exit")
        on.drop("told")
        (deleted,) = events.until("/tasks/delete")
    assert fields_of(created, "container_id", "pid", "bundle") == ("told", pid, str(on.bundle("told")))
    assert fields_of(started, "container_id", "pid") == ("told", pid)
    assert fields_of(exited, "container_id", "id", "pid", "exit_status") == ("told", "told", pid, 3)
    assert fields_of(deleted, "container_id", "pid", "exit_status") == ("told", pid, 3)
    assert {event.namespace for event in (created, started, exited, deleted)} == {on.namespace}
    assert exited.event.type_url == "containerd.events.TaskExit"


def test_task_can_be_made_again_after_its_end(on: Rig) -> None:
    on.container("again", "true")
    for _ in range(2):
        on.tasks("Create", container_id="again")
        on.tasks("Start", container_id="again")
        assert on.tasks("Wait", container_id="again").exit_status == 0
        on.tasks("Delete", container_id="again")
    on.containers("Delete", id="again")


def test_created_task_can_be_deleted(on: Rig) -> None:
    on.container("unborn", "true")
    on.tasks("Create", container_id="unborn")
    assert on.drop("unborn") == 0
    assert_nothing_left(on, "unborn")


def test_rootfs_is_mounted_by_the_shim_and_unmounted_at_the_end(on: Rig) -> None:
    spec = on.spec("mounted", ["sh", "-c", "exit 5"])
    spec["root"] = {"path": "rootfs"}
    on.container("mounted", spec=spec)
    mount = {"type": "bind", "source": str(on.rootfs), "options": ["rbind", "rw"]}
    on.tasks("Create", container_id="mounted", rootfs=[mount])
    assert mounts_below(on.bundle("mounted")) == [str(on.bundle("mounted") / "rootfs")]
    on.tasks("Start", container_id="mounted")
    on.tasks("Wait", container_id="mounted")
    assert on.drop("mounted") == 5
    assert_nothing_left(on, "mounted")
    assert (on.rootfs / "bin/busybox").exists()


def test_list_shows_the_tasks_of_a_namespace(on: Rig) -> None:
    on.running("listed")
    on.container("taskless", "true")
    assert on.statuses() == {"listed": RUNNING}
    assert on.api(on.tasks.file, "Tasks", namespace="elsewhere")("List").tasks == []
    on.containers("Delete", id="taskless")
    on.end("listed")


def test_pause_and_resume(on: Rig) -> None:
    on.running("paused")
    on.tasks("Pause", container_id="paused")
    assert on.tasks("Get", container_id="paused").process.status == PAUSED
    with refused("UNKNOWN", "cannot pause a paused container: unknown"):
        on.tasks("Pause", container_id="paused")
    with refused("UNKNOWN", "cannot exec in a paused state: unknown"):
        on.exec("paused", "e", "true")
    with refused("UNKNOWN", "failed to delete task: cannot delete a paused process: unknown"):
        on.tasks("Delete", container_id="paused")
    on.tasks("Resume", container_id="paused")
    assert on.tasks("Get", container_id="paused").process.status == RUNNING
    on.end("paused")


def test_pids_metrics_and_update(on: Rig) -> None:
    pid = on.running("measured")
    assert [found.pid for found in on.tasks("ListPids", container_id="measured").processes] == [pid]
    (metric,) = on.tasks("Metrics", filters=["id==measured"]).metrics
    assert metric.id == "measured"
    assert metric.data.type_url in ("io.containerd.cgroups.v1.Metrics", "io.containerd.cgroups.v2.Metrics")
    assert metric.data.value
    assert on.tasks("Metrics", filters=["id==other"]).metrics == []
    resources = AnyMessage(type_url=RESOURCES, value=b'{"memory":{"limit":67108864}}')
    on.tasks("Update", container_id="measured", resources=resources)
    assert b"67108864" in memory_limit(on, "measured")
    on.end("measured")


def memory_limit(on: Rig, id: str) -> bytes:
    paths = (f"memory/{on.namespace}/{id}/memory.limit_in_bytes", f"{on.namespace}/{id}/memory.max")
    return next(path.read_bytes() for path in map(Path("/sys/fs/cgroup").joinpath, paths) if path.exists())


def test_signal_reaches_the_process(on: Rig) -> None:
    script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.01; done"
    out = fifo(on, "signalled")
    with Reader(out) as reader:
        on.container("signalled", "sh", "-c", script)
        on.tasks("Create", container_id="signalled", stdout=str(out), stderr=str(out))
        on.tasks("Start", container_id="signalled")
        assert reader.line() == "ready"
        on.tasks("Kill", container_id="signalled", signal=signal.SIGTERM)
        assert on.tasks("Wait", container_id="signalled").exit_status == 42
        on.drop("signalled")


def test_stdin_is_carried_and_closed(on: Rig) -> None:
    given, out = fifo(on, "stdin"), fifo(on, "stdout")
    on.container("fed", "sh", "-c", "while read line; do echo got $line; done; exit 9")
    with Reader(out) as reader, os.fdopen(os.open(given, os.O_RDWR | os.O_CLOEXEC), "wb", 0) as writer:
        on.tasks("Create", container_id="fed", stdin=str(given), stdout=str(out), stderr=str(out))
        on.tasks("Start", container_id="fed")
        writer.write(b"one\n")
        assert reader.line() == "got one"
    on.tasks("CloseIO", container_id="fed", stdin=True)
    assert on.tasks("Wait", container_id="fed").exit_status == 9
    on.drop("fed")


def test_terminal_is_resized(on: Rig) -> None:
    out = fifo(on, "tty")
    on.container("tty", "sh", "-c", "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done",
                 terminal=True)  # fmt: skip
    with Reader(out) as reader:
        on.tasks("Create", container_id="tty", stdout=str(out), terminal=True)
        on.tasks("Start", container_id="tty")
        assert reader.line() == "ready"
        on.tasks("ResizePty", container_id="tty", width=123, height=45)
        assert reader.line() == "45 123"
        on.tasks("Wait", container_id="tty")
        on.drop("tty")


# Execs


def test_life_of_an_exec(on: Rig) -> None:
    on.running("host")
    with on.events("topic~=|^/tasks/|,event.container_id==host") as events:
        on.exec("host", "e1", "sh", "-c", "exit 6")
        found = on.tasks("Get", container_id="host", exec_id="e1").process
        assert (found.id, found.pid, found.status) == ("e1", 0, CREATED)
        with refused("ALREADY_EXISTS", "id e1: already exists"):
            on.exec("host", "e1", "true")
        pid = on.tasks("Start", container_id="host", exec_id="e1").pid
        assert on.tasks("Wait", container_id="host", exec_id="e1").exit_status == 6
        with refused("NOT_FOUND", "process already finished: not found"):
            on.tasks("Kill", container_id="host", exec_id="e1", signal=9)
        deleted = on.tasks("DeleteProcess", container_id="host", exec_id="e1")
        assert (deleted.id, deleted.pid, deleted.exit_status) == ("e1", pid, 6)
        added, started, exited = events.until("/tasks/exit")
    assert (added.topic, started.topic) == ("/tasks/exec-added", "/tasks/exec-started")
    assert fields_of(exited, "container_id", "id", "pid", "exit_status") == ("host", "e1", pid, 6)
    on.end("host")


def test_exec_that_fails_to_start(on: Rig) -> None:
    on.running("hostess")
    on.exec("hostess", "e", "nosuch")
    with pytest.raises(Refused) as caught:
        on.tasks("Start", container_id="hostess", exec_id="e")
    assert caught.value.code == "UNKNOWN"
    assert caught.value.text.endswith('exec: "nosuch": executable file not found in $PATH: unknown')
    on.tasks("DeleteProcess", container_id="hostess", exec_id="e")
    on.end("hostess")


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("Get", {}),
        ("Start", {}),
        ("Wait", {}),
        ("Kill", {"signal": 9}),
        ("CloseIO", {"stdin": True}),
        ("CloseIO", {}),
        ("ResizePty", {"width": 1, "height": 1}),
        ("DeleteProcess", {}),
    ],
)
def test_missing_exec(on: Rig, method: str, fields: dict[str, Any]) -> None:
    on.running("empty")
    with refused("NOT_FOUND", "process does not exist none: not found"):
        on.tasks(method, container_id="empty", exec_id="none", **fields)
    on.end("empty")


def test_exec_id_is_an_identifier(on: Rig) -> None:
    on.running("strict")
    rule = "must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$: invalid argument"
    with refused("INVALID_ARGUMENT", f'invalid exec id ../x: identifier "../x" {rule}'):
        on.exec("strict", "../x", "true")
    with refused("INVALID_ARGUMENT", "exec id cannot be empty"):
        on.exec("strict", "", "true")
    on.end("strict")
