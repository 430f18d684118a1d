"""Deaths: of the shim, of the container service, of the zygote."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from cutaway.pb import process_pb2
from shim.driver import ShimHost
from support.leftovers import Leftovers, mounts_below
from support.process import has_ended

pytestmark = pytest.mark.root


def test_a_killed_shims_container_runs_until_delete_ends_it(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["sleep", "100"], root={"path": "rootfs"})
    before = Leftovers.snapshot(host.base)
    shim = host.start(bundle)
    pid = shim.create(rootfs=[{"type": "bind", "source": str(host.rootfs), "options": ["rbind"]}])
    shim.task("Start")
    shim.crash()
    assert not has_ended(pid)
    deleted = host.delete(bundle)
    assert (deleted.pid, deleted.exit_status) == (pid, 137)
    assert deleted.exited_at.seconds > 0
    assert has_ended(pid, 5)
    assert mounts_below(bundle.path) == []
    assert host.delete(bundle).exit_status == 137, "it may be repeated"
    assert not Leftovers.snapshot(host.base).since(before)


def test_a_killed_shims_socket_is_replaced(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["true"])
    first = host.start(bundle)
    first.crash()
    second = host.start(bundle)
    assert second.address == first.address
    second.create()
    assert second.run_to_exit() == 0
    second.shutdown()


def test_a_shim_that_still_tells_its_last_events_is_in_nobodys_way(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["true"])
    first = host.start(bundle)
    first.create()
    host.events.hang_up()
    first_pid = first.pid
    first.run_to_exit()
    first.task("Delete")
    first.task("Shutdown")
    second = host.start(bundle)
    assert second.address == first.address
    assert second.pid != first_pid, "the one that is about to end takes no more containers"
    host.events.listen()
    second.create()
    assert second.run_to_exit() == 0
    assert has_ended(first_pid, 10)
    assert Path(second.address.removeprefix("unix://")).is_socket(), "it is not the first one's to remove"
    second.shutdown()


def test_delete_before_anything_was_made(host: ShimHost) -> None:
    assert host.delete(host.bundle("c1", ["true"])).pid == 0


def test_a_shim_that_dies_during_create_takes_the_runtime_along(warm_host: ShimHost) -> None:
    runtime = warm_host.base / "slow-runtime"
    started = warm_host.base / "started"
    os.mkfifo(started)
    runtime.write_text(f"#!/bin/sh\ncase $7 in create) echo $$ > {started}; exec sleep 100;; esac\n")
    runtime.chmod(0o755)
    warm_host.runtime = os.fspath(runtime)
    bundle = warm_host.bundle("c1", ["true"])
    shim = warm_host.start(bundle)
    shim_pid = shim.pid
    request = {"bundle": str(bundle.path), "options": {"type_url": "containerd.runc.v1.Options"}}
    request["options"]["value"] = warm_host.options().SerializeToString()  # type: ignore[index]
    shim.send("Create", **request)
    runtime_pid = int(started.read_text())
    assert shim.task("Connect").shim_pid == shim_pid, "other calls go on meanwhile"
    os.kill(shim_pid, signal.SIGKILL)
    assert has_ended(runtime_pid, 5)
    warm_host.delete(bundle)


def test_a_restarted_service_finds_the_shim_and_its_exits(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["sh", "-c", "read x; exit 5"])
    bundle.fifo("stdin")
    shim = host.start(bundle)
    pid = shim.create()
    shim.task("Start")
    host.events.wait("/tasks/start")
    shim.client.close()
    host.events.hang_up()
    with open(bundle.path / "stdin", "wb") as stdin:
        stdin.write(b"\n")
    assert has_ended(pid, 5)
    host.events.listen()
    again = host.reconnect(shim)
    assert again.task("Connect").task_pid == pid
    assert again.task("Wait").exit_status == 5
    host.events.wait("/tasks/exit")
    assert host.events.exits()["c1"].exit_status == 5
    again.shutdown()


def test_shims_live_on_without_the_zygote(warm_host: ShimHost) -> None:
    assert warm_host.zygote is not None
    shim = warm_host.start(warm_host.bundle("c1", ["sleep", "100"]))
    shim.create()
    shim.task("Start")
    warm_host.zygote.process.kill()
    warm_host.zygote.process.wait()
    shim.exec("e1", ["true"])
    shim.task("Start", exec_id="e1")
    assert shim.task("Wait", exec_id="e1").exit_status == 0
    assert shim.task("State").status == process_pb2.RUNNING
    shim.task("Kill", signal=9)
    shim.task("Wait")
    shim.shutdown()


def test_sigterm_ends_the_shim_in_good_order(host: ShimHost) -> None:
    shim = host.start(host.bundle("c1", ["true"]))
    os.kill(shim.pid, signal.SIGTERM)
    assert shim.client.is_closed()
    assert not Path(shim.address.removeprefix("unix://")).exists()
