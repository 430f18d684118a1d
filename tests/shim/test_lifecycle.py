"""A task's life as the container service sees it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cutaway.pb import process_pb2
from shim.driver import Shim, ShimHost, TaskError
from support.leftovers import Leftovers, mounts_below
from support.process import has_ended, wait_until

pytestmark = pytest.mark.root

NEVER = -62135596800


def refused(shim: Shim, name: str, **fields: object) -> str:
    """The words of a refusal."""
    with pytest.raises(TaskError) as caught:
        shim.task(name, **fields)
    return caught.value.message


def test_one_run_from_start_to_delete(host: ShimHost) -> None:
    before = Leftovers.snapshot(host.base)
    bundle = host.bundle("c1", ["sh", "-c", "echo out; echo err >&2; exit 3"])
    shim = host.start(bundle)
    assert shim.address == (bundle.path / "address").read_text()
    pid = shim.create()
    assert (bundle.path / "init.pid").read_text() == str(pid)
    connected = shim.task("Connect")
    assert connected.task_pid == pid
    state = shim.task("State")
    assert (state.id, state.bundle, state.pid) == ("c1", str(bundle.path), pid)
    assert state.status == process_pb2.CREATED
    assert state.exited_at.seconds == NEVER

    waiting = shim.send("Wait")
    assert shim.task("Start").pid == pid
    waited = shim.receive("Wait", waiting)
    assert waited.exit_status == 3
    assert bundle.streams["stdout"].read_all() == b"out\n"
    assert bundle.streams["stderr"].read_all() == b"err\n"
    assert shim.task("State").status == process_pb2.STOPPED

    deleted = shim.task("Delete")
    assert (deleted.pid, deleted.exit_status, deleted.exited_at) == (pid, 3, waited.exited_at)
    shim.task("Shutdown")
    assert shim.client.is_closed()
    host.events.wait("/tasks/delete")
    assert host.events.topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert host.events.exits()["c1"].exited_at == waited.exited_at
    assert has_ended(connected.shim_pid, 5)
    assert host.delete(bundle).exit_status == 137
    assert not Leftovers.snapshot(host.base).since(before)


def test_refusals_are_one_line_in_containerds_words(warm_host: ShimHost) -> None:
    shim = warm_host.start(warm_host.bundle("c1", ["sleep", "100"]))
    assert refused(shim, "State") == "container not created: not found"
    assert refused(shim, "Delete") == "container not created: not found"
    shim.create()
    assert refused(shim, "Pause") == "cannot pause task in created state: failed precondition"
    assert refused(shim, "State", exec_id="x") == "process does not exist x: not found"
    shim.task("Start")
    assert refused(shim, "Start") == "cannot start a running process: failed precondition"
    assert refused(shim, "Delete") == "cannot delete a running process: failed precondition"
    assert refused(shim, "Resume") == "cannot resume a running process: failed precondition"
    shim.task("Kill", signal=9)
    shim.task("Wait")
    said = "cannot checkpoint a stopped container: failed precondition"
    assert refused(shim, "Checkpoint") == said
    assert refused(shim, "Kill", signal=9) == "process already finished: not found"
    assert refused(shim, "Start") == "cannot start a stopped process: failed precondition"
    shim.shutdown()


def test_a_signal_gives_128_and_its_number(host: ShimHost) -> None:
    shim = host.start(host.bundle("c1", ["sleep", "100"]))
    shim.create()
    shim.task("Start")
    shim.task("Kill", signal=9)
    assert shim.task("Wait").exit_status == 137
    shim.shutdown()


def test_kill_before_start_ends_a_created_container(host: ShimHost) -> None:
    shim = host.start(host.bundle("c1", ["sleep", "100"]))
    shim.create()
    shim.task("Kill", signal=9)
    assert shim.task("Wait").exit_status == 137
    shim.shutdown()
    assert "/tasks/start" not in host.events.topics


def test_pause_and_resume(host: ShimHost) -> None:
    shim = host.start(host.bundle("c1", ["sleep", "100"]))
    shim.create()
    shim.task("Start")
    shim.task("Pause")
    assert shim.task("State").status == process_pb2.PAUSED
    assert refused(shim, "Pause") == "cannot pause a paused container: failed precondition"
    shim.task("Resume")
    assert shim.task("State").status == process_pb2.RUNNING
    shim.task("Kill", signal=9)
    shim.task("Wait")
    shim.shutdown()
    topics = [topic for topic in host.events.topics if topic in ("/tasks/paused", "/tasks/resumed")]
    assert topics == ["/tasks/paused", "/tasks/resumed"]


def test_a_failed_create_tells_the_runtimes_reason_and_leaves_nothing(host: ShimHost) -> None:
    before = Leftovers.snapshot(host.base)
    bundle = host.bundle("c1", ["/nonexistent"])
    shim = host.start(bundle)
    with pytest.raises(TaskError) as caught:
        shim.create()
    assert caught.value.code == 2
    assert caught.value.message.startswith("OCI runtime create failed: ")
    assert 'exec: "/nonexistent": stat /nonexistent: no such file or directory' in caught.value.message
    assert refused(shim, "Delete") == "container not created: not found"
    assert os.read(bundle.streams["stderr"].fd, 100) == b"", "the runtime's words are not the container's"
    shim.task("Shutdown")
    assert shim.client.is_closed()
    host.delete(bundle)
    assert host.events.topics == []
    assert not Leftovers.snapshot(host.base).since(before)


def test_a_missing_runtime_is_named(warm_host: ShimHost) -> None:
    warm_host.runtime = "no-such-runtime"
    bundle = warm_host.bundle("c1", ["true"])
    shim = warm_host.start(bundle)
    with pytest.raises(TaskError) as caught:
        shim.create()
    assert caught.value.message == (
        f"OCI runtime create failed: unable to retrieve OCI runtime error (open {bundle.path}/log.json: "
        'no such file or directory): exec: "no-such-runtime": executable file not found in $PATH'
    )
    shim.task("Shutdown")


def test_pids_and_stats(host: ShimHost) -> None:
    from cutaway.pb import cgroups_v1_pb2, cgroups_v2_pb2

    shim = host.start(host.bundle("c1", ["sleep", "100"]))
    pid = shim.create()
    shim.task("Start")
    assert [info.pid for info in shim.task("Pids").processes] == [pid]
    stats = shim.task("Stats").stats
    types = {m.DESCRIPTOR.full_name: m for m in (cgroups_v1_pb2.Metrics, cgroups_v2_pb2.Metrics)}
    metrics = types[stats.type_url].FromString(stats.value)
    assert metrics.pids.current == 1
    shim.task("Kill", signal=9)
    shim.task("Wait")
    shim.shutdown()


def test_update_changes_a_limit(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["sleep", "100"], linux={"resources": {"pids": {"limit": 50}}})
    shim = host.start(bundle)
    shim.create()
    shim.task("Start")
    stream = shim.send("Update", resources={"type_url": "x", "value": b'{"pids": {"limit": 77}}'})
    shim.receive("Update", stream)
    assert b"\x10\x4d" in shim.task("Stats").stats.value  # PidsStat.limit = 77, the same field in v1 and v2
    shim.task("Kill", signal=9)
    shim.task("Wait")
    shim.shutdown()


def test_the_root_filesystem_is_mounted_and_unmounted(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["cat", "/upper"], root={"path": "rootfs"})
    upper, work = host.base / "upper", host.base / "work"
    upper.mkdir()
    work.mkdir()
    (upper / "upper").write_text("from the upper layer\n")
    overlay = {
        "type": "overlay",
        "source": "overlay",
        "options": ["index=off", f"workdir={work}", f"upperdir={upper}", f"lowerdir={host.rootfs}"],
    }
    shim = host.start(bundle)
    shim.create(rootfs=[overlay])
    assert mounts_below(bundle.path) == [str(bundle.path / "rootfs")]
    assert shim.run_to_exit() == 0
    assert bundle.streams["stdout"].read_all() == b"from the upper layer\n"
    shim.shutdown()
    assert mounts_below(bundle.path) == []


def test_an_unmountable_root_filesystem_is_an_error_and_leaves_no_mount(warm_host: ShimHost) -> None:
    bundle = warm_host.bundle("c1", ["true"], root={"path": "rootfs"})
    shim = warm_host.start(bundle)
    good = {"type": "bind", "source": str(warm_host.rootfs), "options": ["rbind", "ro"]}
    bad = {"type": "bind", "source": "/nonexistent", "options": ["rbind"]}
    with pytest.raises(TaskError) as caught:
        shim.create(rootfs=[good, bad])
    assert "failed to mount rootfs component /nonexistent (bind): " in caught.value.message
    assert "no such file or directory" in caught.value.message
    assert mounts_below(bundle.path) == []
    shim.task("Shutdown")


def test_several_containers_share_a_shim_that_ends_with_the_last(warm_host: ShimHost) -> None:
    group = {"io.containerd.runc.v2.group": "pod"}
    first_bundle = warm_host.bundle("c1", ["sleep", "100"], annotations=group)
    second_bundle = warm_host.bundle("c2", ["sleep", "100"], annotations=group)
    first, second = warm_host.start(first_bundle), warm_host.start(second_bundle)
    assert first.address == second.address
    assert first.pid == second.pid
    for shim in (first, second):
        shim.create()
        shim.task("Start")
    waits = [shim.send("Wait") for shim in (first, second)]
    first.task("Kill", signal=9)
    assert first.receive("Wait", waits[0]).exit_status == 137
    first.task("Delete")
    first.task("Shutdown")
    assert second.task("State").status == process_pb2.RUNNING
    second.task("Kill", signal=15)
    second.task("Kill", signal=9)
    assert second.receive("Wait", waits[1]).exit_status == 137
    second.shutdown()


def test_an_exit_right_after_start_is_told_after_it(host: ShimHost) -> None:
    for number in range(5):
        shim = host.start(host.bundle(f"c{number}", ["true"]))
        shim.create()
        assert shim.run_to_exit() == 0
        shim.shutdown()
    host.events.wait("/tasks/delete", 5)
    assert host.events.topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"] * 5


def test_without_a_pid_namespace_the_others_die_with_the_init(host: ShimHost) -> None:
    namespaces = [{"type": kind} for kind in ("mount", "uts", "ipc")]
    bundle = host.bundle("c1", ["sh", "-c", "sleep 1000 & echo $!; exit 0"], linux={"namespaces": namespaces})
    shim = host.start(bundle)
    shim.create()
    assert shim.run_to_exit() == 0
    left = int(bundle.streams["stdout"].read_all())
    assert has_ended(left, 5)
    shim.shutdown()


def test_out_of_memory_is_told(host: ShimHost) -> None:
    limit = {"resources": {"memory": {"limit": 16 << 20}}}
    bundle = host.bundle("c1", ["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"], linux=limit)
    shim = host.start(bundle)
    shim.create()
    assert shim.run_to_exit() == 137
    shim.shutdown()
    host.events.wait("/tasks/delete")
    assert "/tasks/oom" in host.events.topics


def test_the_shim_is_a_daemon_that_the_kernel_takes_before_the_service(host: ShimHost) -> None:
    shim = host.start(host.bundle("c1", ["true"]))
    pid = shim.pid
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[3]) == pid, "it leads a session of its own"
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == min(own + 1, 1000)
    assert os.readlink(f"/proc/{pid}/cwd") == str(shim.bundle.path)
    shown = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    assert shown[:2] == ["containerd-shim-cutaway-v1", "-id=c1"]
    assert os.readlink(f"/proc/{pid}/fd/1") == "/dev/null"
    assert os.readlink(f"/proc/{pid}/fd/2") == str(shim.bundle.path / "log")
    assert os.stat(shim.address.removeprefix("unix://")).st_mode & 0o777 == 0o600
    shim.task("Shutdown")
    assert shim.client.is_closed()
    wait_until(lambda: not os.path.exists(shim.address.removeprefix("unix://")), "the socket is removed")
