"""Daemon and shim, the real ones and ours in all four combinations: what is hard about tasks is the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from containerd.task_rig import (
    PROCESS,
    Reader,
    Rig,
    assert_nothing_left,
    beside,
    fields_of,
    fifo,
    process,
)
from cutaway.pb import runc_options_pb2
from support.peers import VENV_BIN
from support.process import children, has_ended, wait_until
from support.stack import Containerd, OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

OURS, REAL = "io.containerd.cutaway.v1", "io.containerd.runc.v2"
PAIRS = [(RealContainerd, REAL), (RealContainerd, OURS), (OurContainerd, REAL), (OurContainerd, OURS)]
MIB = 1 << 20


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: f"{pair[0].__name__}-{pair[1].split('.')[2]}")
def on(request: pytest.FixtureRequest) -> Iterator[Rig]:
    kind: type[Containerd]
    kind, shim = request.param
    with beside(kind, path_prefix=[VENV_BIN]) as made:
        made.runtime = shim
        yield made


def limited(on: Rig, id: str, *args: str, **resources: Any) -> dict[str, Any]:
    spec: dict[str, Any] = on.spec(id, args)
    spec["linux"]["resources"] |= resources
    return spec


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_exec_in_a_terminal_that_changes_its_size(on: Rig) -> None:
    on.running("screen")
    spec = process("sh", "-c", "stty size; read line; stty size; exit 9", terminal=True)
    spec["consoleSize"] = {"height": 33, "width": 44}
    given, out = fifo(on, "screen-in"), fifo(on, "screen-out")
    holder = os.open(given, os.O_RDWR | os.O_CLOEXEC)
    with Reader(out) as reader:
        on.tasks(
            "Exec",
            container_id="screen",
            exec_id="tty",
            terminal=True,
            stdin=str(given),
            stdout=str(out),
            spec=AnyMessage(type_url=PROCESS, value=json.dumps(spec).encode()),
        )
        on.tasks("Start", container_id="screen", exec_id="tty")
        assert reader.line() == "33 44"
        on.tasks("ResizePty", container_id="screen", exec_id="tty", width=101, height=55)
        os.write(holder, b"go\n")
        assert reader.line() == "go", "the terminal's echo"
        assert reader.line() == "55 101"
    assert on.tasks("Wait", container_id="screen", exec_id="tty").exit_status == 9
    os.close(holder)
    on.tasks("DeleteProcess", container_id="screen", exec_id="tty")
    assert on.end("screen") == 137


@pytest.mark.parametrize("victim", ["child", "init"])
def test_a_kill_for_memory_is_told(on: Rig, victim: str) -> None:
    hog = "/bin/busybox tail /dev/zero"
    script = f"{hog}; sleep 1000" if victim == "child" else f"exec {hog}"
    spec = limited(on, victim, "sh", "-c", script, memory={"limit": 16 * MIB, "swap": 16 * MIB})
    with on.events('topic~="/tasks/"') as events:
        on.running(victim, spec=spec)
        seen = events.until("/tasks/oom" if victim == "child" else "/tasks/exit")
        if "/tasks/oom" not in [event.topic for event in seen]:  # who comes first is open
            seen = events.until("/tasks/oom")
        oom = next(event for event in seen if event.topic == "/tasks/oom")
        assert fields_of(oom, "container_id") == (victim,)
    assert (on.end(victim) if victim == "child" else on.drop(victim)) == 137


def test_kill_of_all_reaches_everyone(on: Rig) -> None:
    """Without a pid namespace nobody dies with the init."""
    spec = limited(on, "crowd", "sh", "-c", "sleep 1000 & sleep 1000 & echo > /tmp/crowd; exec sleep 1000")
    spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "pid"]
    on.running("crowd", spec=spec)
    wait_until((on.rootfs / "tmp/crowd").exists, "all have begun")
    (on.rootfs / "tmp/crowd").unlink()
    pids = [one.pid for one in on.tasks("ListPids", container_id="crowd").processes]
    assert len(pids) == 3
    on.tasks("Kill", container_id="crowd", signal=9, all=True)
    assert on.tasks("Wait", container_id="crowd").exit_status == 137
    assert all(has_ended(pid, 10) for pid in pids)
    assert on.drop("crowd") == 137
    assert_nothing_left(on, "crowd")


def test_orphans_are_reaped(on: Rig) -> None:
    """A daemon that has forked twice becomes the shim's child where the container's init is not pid 1."""
    script = "(sh -c 'sleep 0.2 & echo $! > /tmp/orphan' &); exec sleep 1000"
    spec = limited(on, "breeder", "sh", "-c", script)
    spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "pid"]
    pid = on.running("breeder", spec=spec)
    told = on.rootfs / "tmp/orphan"
    wait_until(lambda: told.exists() and told.read_text().strip() != "", "the orphan has begun")
    assert has_ended(int(told.read_text()), 10)
    told.unlink()
    wait_until(lambda: children().get(parent(pid)) == [pid], "the shim has no child but the init")
    assert on.end("breeder") == 137


def test_execs_are_named_in_the_list_of_processes(on: Rig) -> None:
    pid = on.running("listed")
    on.exec("listed", "second", "sleep", "1000")
    second = on.tasks("Start", container_id="listed", exec_id="second").pid
    found = {one.pid: one.info for one in on.tasks("ListPids", container_id="listed").processes}
    assert set(found) == {pid, second}
    assert not found[pid].value
    assert found[second].type_url == "containerd.runc.v1.ProcessDetails"
    assert runc_options_pb2.ProcessDetails.FromString(found[second].value).exec_id == "second"
    on.tasks("Kill", container_id="listed", exec_id="second", signal=15)
    assert on.tasks("Wait", container_id="listed", exec_id="second").exit_status == 143
    on.tasks("DeleteProcess", container_id="listed", exec_id="second")
    assert on.end("listed") == 137


@pytest.mark.parametrize("label", ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"])
def test_a_group_shares_a_shim(on: Rig, label: str) -> None:
    names = ("first", "second")
    pids = []
    for name in names:
        spec = on.spec(name, ["sleep", "1000"])
        spec["annotations"] = {label: "first"}
        pids.append(on.running(name, spec=spec))
    shim = parent(pids[0])
    assert parent(pids[1]) == shim
    on.tasks("Kill", container_id="second", signal=9)
    on.tasks("Wait", container_id="second")
    assert on.drop("second") == 137
    assert on.tasks("Get", container_id="first").process.pid == pids[0]
    on.daemon.crash()
    on.daemon.start()
    on.exec("first", "again", "true")
    on.tasks("Start", container_id="first", exec_id="again")
    assert on.tasks("Wait", container_id="first", exec_id="again").exit_status == 0
    assert on.end("first") == 137
    assert has_ended(shim, 10)
    assert_nothing_left(on, "first")


def test_streams_outlive_the_daemon(on: Rig) -> None:
    given, out = fifo(on, "lasting-in"), fifo(on, "lasting-out")
    holder = os.open(given, os.O_RDWR | os.O_CLOEXEC)
    on.container("lasting", "sh", "-c", "while read line; do echo got $line; done; exit 4")
    with Reader(out) as reader:
        on.tasks("Create", container_id="lasting", stdin=str(given), stdout=str(out), stderr=str(out))
        on.tasks("Start", container_id="lasting")
        os.write(holder, b"one\n")
        assert reader.line() == "got one"
        on.daemon.crash()
        os.write(holder, b"two\n")
        assert reader.line() == "got two"
        on.daemon.start()
        os.write(holder, b"three\n")
        os.close(holder)
        assert reader.line() == "got three"
        on.tasks("CloseIO", container_id="lasting", stdin=True)
        assert on.tasks("Wait", container_id="lasting").exit_status == 4
    socket = Path((on.bundle("lasting") / "address").read_text().removeprefix("unix://"))
    assert socket.exists()
    assert on.drop("lasting") == 4
    assert_nothing_left(on, "lasting")
    wait_until(lambda: not socket.exists(), "the shim's socket is gone")


def test_update_changes_what_metrics_show(on: Rig) -> None:
    on.running("updated", spec=limited(on, "updated", "sleep", "1000", pids={"limit": 50}))
    resources = AnyMessage(
        type_url="types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
        value=json.dumps({"pids": {"limit": 77}}).encode(),
    )
    on.tasks("Update", container_id="updated", resources=resources)
    (metric,) = on.tasks("Metrics", filters=["id==updated"]).metrics
    assert b"\x10\x4d" in metric.data.value, "the limit's field and 77"
    assert on.end("updated") == 137
