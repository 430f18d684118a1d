"""Much at once and much in a row: nothing is refused, nothing grows."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc.aio
import pytest

from containerd.client import COMMIT, WRITE, Client, digest_of
from containerd.task_rig import Rig, beside, rig, script
from cutaway.pb import content_pb2
from cutaway.pb.content_pb2 import WriteContentRequest
from cutaway.pb.service import methods
from support.leftovers import WAITING, cgroups, mounts_below
from support.netns import Command
from support.peers import VENV_BIN
from support.process import children, descendants, is_zombie, name_of, processes_of, wait_until
from support.stack import OurContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

WRITERS = 1000
TASKS = int(os.environ.get("CUTAWAY_TEST_TASKS", "60"))
"""500 by hand."""


class FewFiles(OurContainerd):
    """Started as from a shell, with the soft limit of open files that most systems have."""

    soft = 128

    def command(self) -> Command:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        return ["prlimit", f"--nofile={self.soft}:{hard}", *super().command()]


@pytest.fixture(scope="module")
def few() -> Iterator[Rig]:
    with beside(FewFiles) as made:
        made.runtime = "io.containerd.cutaway.v1"
        yield made


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def write_at_once(address: Path, blobs: list[bytes]) -> None:
    """Every writer has sent its first half before any may send its second."""
    method = methods(content_pb2.DESCRIPTOR, "Content")["Write"]
    halfway = asyncio.Barrier(len(blobs))

    async def write(channel: grpc.aio.Channel, number: int, data: bytes) -> None:
        call = channel.stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )(metadata=(("containerd-namespace", "many"), ("containerd-lease", "held")), timeout=100)
        half = len(data) // 2
        await call.write(
            WriteContentRequest(action=WRITE, ref=f"many-{number}", total=len(data), data=data[:half])
        )
        assert (await call.read()).offset == half
        await halfway.wait()
        commit = WriteContentRequest(
            action=COMMIT, offset=half, data=data[half:], total=len(data), expected=digest_of(data)
        )
        await call.write(commit)
        assert (await call.read()).digest == digest_of(data)
        await call.done_writing()

    async with grpc.aio.insecure_channel(f"unix:{address}") as channel:
        await asyncio.gather(*(write(channel, number, data) for number, data in enumerate(blobs)))


def test_a_thousand_blobs_are_written_at_once(few: Rig) -> None:
    blobs = [os.urandom(3000) for _ in range(WRITERS)]
    pid = few.daemon.pid
    with Client.leased(few.daemon.address, "many") as client:
        before = descriptors(pid)
        asyncio.run(write_at_once(few.daemon.address, blobs))
        assert {info.digest for info in client.blobs()} == {digest_of(data) for data in blobs}
        assert client.read(digest_of(blobs[-1])) == blobs[-1]
        assert os.listdir(few.daemon.root / "content/ingest") == []
        wait_until(lambda: descriptors(pid) <= before + 1, "the files are closed")


@pytest.mark.parametrize("way", ["forked", "executed"])
def test_a_task_has_the_limit_that_the_daemon_was_started_with(few: Rig, way: str) -> None:
    """Raised is only what the daemon itself may open. (A shim in Go raises its own, and its tasks'.)"""
    program = script(few, "shim-by-exec", f'exec {VENV_BIN}/containerd-shim-cutaway-v1 "$@"')
    pid = few.running(way, runtime=few.runtime if way == "forked" else str(program))
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (soft,) = [line.split()[3] for line in limits if line.startswith("Max open files")]
    few.end(way)
    assert int(soft) == FewFiles.soft


def figures(on: Rig) -> dict[str, int]:
    """What may grow with the number of tasks that there have been."""
    pid = on.daemon.pid
    tree = descendants(pid)
    (zygote,) = [one for one in children()[pid] if name_of(one) == "cutaway-zygote"]
    return {
        "descriptors": descriptors(pid),
        "zygote's descriptors": descriptors(zygote),
        "mounts": len(mounts_below(on.daemon.folder)),
        "cgroups": len([path for path in cgroups(on.namespace) if path.count(on.namespace) == 1]),
        "processes": len(processes_of(on.daemon.folder)),
        "zombies": len([one for one in tree if is_zombie(one)]),
        "bundles": len(list(on.bundle("x").parent.iterdir())) + len(list(on.work("x").parent.iterdir())),
    }


def a_shim_waits(on: Rig) -> bool:
    """And its two children, which the zygote has forked ahead for the next start."""
    return sum(name_of(pid) == WAITING for pid in descendants(on.daemon.pid)) == 3


def memory(pid: int) -> int:
    """Kilobytes that a process has for itself."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def one_life(on: Rig, number: int) -> None:
    id = f"churn-{number}"
    spec = on.spec(id, ["true"])
    spec["root"] = {"path": "rootfs"}
    on.container(id, spec=spec)
    mount = {"type": "bind", "source": str(on.rootfs), "options": ["rbind", "rw"]}
    on.tasks("Create", container_id=id, rootfs=[mount])
    on.tasks("Start", container_id=id)
    assert on.tasks("Wait", container_id=id).exit_status == 0
    on.drop(id)


def test_nothing_grows_with_tasks_that_come_and_go(few: Rig) -> None:
    with ThreadPoolExecutor(4) as clients:
        list(clients.map(lambda number: one_life(few, number), range(8)))
        wait_until(lambda: not list(few.bundle("x").parent.iterdir()), "the bundles are gone")
        wait_until(lambda: a_shim_waits(few), "the zygote is at rest")
        before, used = figures(few), memory(few.daemon.pid)
        list(clients.map(lambda number: one_life(few, number), range(8, 8 + TASKS)))
    wait_until(lambda: figures(few) == before, f"{before} is {figures(few)} after {TASKS} tasks")
    assert len(os.listdir(f"/proc/{few.daemon.pid}/task")) < 40, "pools of threads have an end"
    grown = memory(few.daemon.pid) - used
    print(f"{TASKS} tasks: {before}, private memory grew by {grown} KiB")
    # Caches fill, arenas fragment: what counts is that a task leaves no more than a few hundred bytes.
    assert grown < 4096 + TASKS


def test_many_tasks_are_there_at_once(few: Rig) -> None:
    """More than the descriptors of the soft limit would be enough for."""
    ids = [f"crowd-{number}" for number in range(TASKS)]
    with ThreadPoolExecutor(4) as clients:
        list(clients.map(few.running, ids))
        assert sorted(few.statuses()) == sorted(ids)
        few.daemon.crash()
        few.daemon.start()
    with rig(few.daemon, few.rootfs.parent) as on, ThreadPoolExecutor(4) as clients:
        assert sorted(on.statuses()) == sorted(ids)
        assert set(clients.map(on.end, ids)) == {137}
        wait_until(lambda: not list(on.bundle("x").parent.iterdir()), "the bundles are gone", 20)
