"""Further processes in a container."""

from __future__ import annotations

import pytest

from cutaway.pb import process_pb2, runc_options_pb2
from shim.driver import Shim, ShimHost, TaskError

pytestmark = pytest.mark.root


@pytest.fixture
def running(host: ShimHost) -> Shim:
    shim = host.start(host.bundle("c1", ["sleep", "100"]))
    shim.create()
    shim.task("Start")
    return shim


def end(shim: Shim) -> None:
    shim.task("Kill", signal=9)
    shim.task("Wait")
    shim.shutdown()


def test_an_exec_from_add_to_delete(running: Shim) -> None:
    out = running.bundle.fifo("e1-stdout").open()
    running.exec("e1", ["sh", "-c", "echo in exec; exit 7"], stdout=str(out.path))
    state = running.task("State", exec_id="e1")
    assert (state.id, state.status, state.pid) == ("e1", process_pb2.CREATED, 0)
    started = running.task("Start", exec_id="e1")
    assert (running.bundle.path / "e1.pid").read_text() == str(started.pid)
    assert running.task("Wait", exec_id="e1").exit_status == 7
    assert out.read_all() == b"in exec\n"
    deleted = running.task("Delete", exec_id="e1")
    assert (deleted.pid, deleted.exit_status) == (started.pid, 7)
    assert not (running.bundle.path / "e1.pid").exists()
    with pytest.raises(TaskError, match="process does not exist e1: not found"):
        running.task("State", exec_id="e1")
    end(running)
    topics = ["create", "start", "exec-added", "exec-started", "exit", "exit", "delete"]
    assert running.host.events.topics == [f"/tasks/{topic}" for topic in topics]
    assert running.host.events.exits()["e1"].exit_status == 7


def test_an_exec_is_killed_by_itself(running: Shim) -> None:
    running.exec("e1", ["sleep", "100"])
    with pytest.raises(TaskError, match="process not created: failed precondition"):
        running.task("Kill", exec_id="e1", signal=9)
    pid = running.task("Start", exec_id="e1").pid
    details = {info.pid: info.info for info in running.task("Pids").processes}
    assert runc_options_pb2.ProcessDetails.FromString(details[pid].value).exec_id == "e1"
    with pytest.raises(TaskError, match="cannot delete a running process"):
        running.task("Delete", exec_id="e1")
    running.task("Kill", exec_id="e1", signal=15)
    assert running.task("Wait", exec_id="e1").exit_status == 143
    with pytest.raises(TaskError, match="process already finished: not found"):
        running.task("Kill", exec_id="e1", signal=9)
    assert running.task("State").status == process_pb2.RUNNING
    end(running)


def test_an_id_is_taken_once_and_is_a_file_name(running: Shim) -> None:
    running.exec("e1", ["true"])
    with pytest.raises(TaskError, match="id e1: already exists"):
        running.exec("e1", ["true"])
    with pytest.raises(TaskError, match="must be a file name: invalid argument"):
        running.exec("../escape", ["true"])
    end(running)


def test_a_program_that_is_not_there(running: Shim) -> None:
    running.exec("e1", ["/nonexistent"])
    with pytest.raises(TaskError, match=r"^OCI runtime exec failed: .*no such file or directory") as caught:
        running.task("Start", exec_id="e1")
    assert caught.value.code == 2
    running.task("Delete", exec_id="e1")
    end(running)


def test_the_inits_exit_comes_after_its_execs(running: Shim) -> None:
    running.exec("e1", ["sleep", "100"])
    running.exec("e2", ["sleep", "100"])
    for exec_id in ("e1", "e2"):
        running.task("Start", exec_id=exec_id)
    running.task("Kill", signal=9)
    assert running.task("Wait").exit_status == 137
    events = running.host.events
    events.wait("/tasks/exit", 3)
    assert set(list(events.exits())[:2]) == {"e1", "e2"}
    assert list(events.exits())[2] == "c1"
    with pytest.raises(TaskError, match="cannot exec in a stopped state"):
        running.exec("e3", ["true"])
    running.shutdown()


def test_a_descendant_that_outlives_its_exec_keeps_the_output_open(running: Shim) -> None:
    out = running.bundle.fifo("e1-stdout").open()
    gate = running.bundle.fifo("e1-stdin")
    script = "exec 3<&0; (read x <&3; echo late) & echo early"  # a job's own stdin is /dev/null
    running.exec("e1", ["sh", "-c", script], stdin=str(gate.path), stdout=str(out.path))
    running.task("Start", exec_id="e1")
    assert running.task("Wait", exec_id="e1").exit_status == 0
    assert out.read_until(b"early\n") == b"early\n"
    gate.path.write_bytes(b"\n")
    assert out.read_all() == b"late\n"
    running.task("Delete", exec_id="e1")
    end(running)


def test_many_execs_leave_nothing_behind(running: Shim) -> None:
    import os

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{running.pid}/fd"))

    before = descriptors()
    for number in range(8):
        out = running.bundle.fifo(f"s{number}").open()
        running.exec(f"e{number}", ["echo", str(number)], stdout=str(out.path))
        running.task("Start", exec_id=f"e{number}")
        running.task("Wait", exec_id=f"e{number}")
        assert out.read_all() == f"{number}\n".encode()
        running.task("Delete", exec_id=f"e{number}")
    assert descriptors() == before
    end(running)
