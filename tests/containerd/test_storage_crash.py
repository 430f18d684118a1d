"""SIGKILL in the middle of writes, lost files, full disks: what is left is whole, and clients go on."""

from __future__ import annotations

import gzip
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from containerd import layers
from containerd.client import COMMIT, LAYER, STAT, WRITE, Client, digest_of
from cutaway.pb import content_pb2, images_pb2, leases_pb2
from cutaway.pb.content_pb2 import WriteContentRequest as Request
from support.netns import NetNs
from support.stack import OurContainerd
from support.storage import broken

pytestmark = pytest.mark.root


class Load:
    """Clients that write as much as they can until the daemon is gone."""

    def __init__(self, address: Path, round: int) -> None:
        self._address = address
        self._round = round
        self._stop = threading.Event()
        self._done = threading.Semaphore(0)
        jobs = (self._blobs, self._snapshots, self._layers)
        self._threads = [
            threading.Thread(target=self._run, args=(job, at)) for at, job in enumerate(jobs * 2)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait(self, steps: int) -> None:
        """Until so many steps were done by all together."""
        for _ in range(steps):
            assert self._done.acquire(timeout=30)

    def join(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def _run(self, job: Callable[[Client, str], None], at: int) -> None:
        count = 0
        lease = f"load-{self._round}-{at}"
        with suppress(grpc.RpcError), Client.leased(self._address, lease=lease) as client:
            while not self._stop.is_set():
                job(client, f"{self._round}-{at}-{count}")
                count += 1

    def _blobs(self, client: Client, name: str) -> None:
        client.lease(name)
        with Client(self._address, lease=name) as leased:
            digest = leased.ingest(name.encode() * 100_000)
        self._done.release()
        client.image(name, digest)
        client.call(leases_pb2, "Leases/Delete", leases_pb2.DeleteRequest(id=name, sync=True))
        self._done.release()
        client.call(images_pb2, "Images/Delete", images_pb2.DeleteImageRequest(name=name, sync=True))
        self._done.release()

    def _snapshots(self, client: Client, name: str) -> None:
        client.prepare(f"a{name}")
        self._done.release()
        client.commit(f"a{name}", name)
        client.prepare(f"b{name}", name)
        self._done.release()
        client.remove(f"b{name}")
        self._done.release()

    def _layers(self, client: Client, name: str) -> None:
        digest = client.ingest(
            layers.Tar().add(name, data=b"x" * 300_000).bytes(), labels={"containerd.io/gc.root": "x"}
        )
        self._done.release()
        client.apply(digest, client.prepare(f"l{name}"))
        self._done.release()


def test_nothing_is_half_there_after_a_crash(base_dir: Path, netns: NetNs) -> None:
    daemon = OurContainerd(base_dir, netns)
    try:
        for round in range(6):
            daemon.start()
            load = Load(daemon.address, round)
            load.start()
            # A different moment each time, with everything under way.
            load.wait(10 + 7 * round)
            daemon.crash()
            load.join()
            daemon.start()
            daemon.stop()  # it collects in the background, which would come between two looks
            assert broken(daemon.root) == []
    finally:
        daemon.close()


def test_a_write_goes_on_after_a_crash(base_dir: Path, netns: NetNs) -> None:
    data = os.urandom(3 << 20)
    with OurContainerd(base_dir, netns) as daemon:
        with Client(daemon.address) as client:
            client.write(Request(action=WRITE, ref="r", total=len(data), data=data[: 2 << 20]))
        daemon.crash()
        daemon.start()
        with Client(daemon.address) as client:
            (answer,) = client.write(Request(action=STAT, ref="r"))
            assert (answer.offset, answer.digest) == (2 << 20, digest_of(data[: 2 << 20]))
            client.write(
                Request(action=WRITE, ref="r", offset=2 << 20, data=data[2 << 20 :]),
                Request(action=COMMIT, offset=len(data), expected=digest_of(data)),
            )
            assert client.read(digest_of(data)) == data


def test_what_a_damaged_disk_lost_is_forgotten(base_dir: Path, netns: NetNs) -> None:
    with OurContainerd(base_dir, netns) as daemon:
        with Client.leased(daemon.address) as client:
            lost, cut, kept = client.ingest(b"lost"), client.ingest(b"cut short"), client.ingest(b"kept")
            client.prepare("a")
            client.commit("a", "base")
            client.prepare("b", "base")
            client.prepare("other")
        daemon.stop()
        blobs = daemon.root / "content/blobs/sha256"
        (blobs / lost.removeprefix("sha256:")).unlink()
        os.truncate(blobs / cut.removeprefix("sha256:"), 3)
        (blobs / ("0" * 64)).write_text("nobody's")
        os.rename(daemon.root / "snapshots/1", base_dir / "gone")
        (daemon.root / "snapshots/77/fs").mkdir(parents=True)
        daemon.start()
        with Client(daemon.address) as client:
            assert [info.digest for info in client.blobs()] == [kept]
            assert os.listdir(daemon.root / "snapshots") == ["3"]
        assert broken(daemon.root) == []


def test_a_second_daemon_is_refused_at_once(base_dir: Path, netns: NetNs) -> None:
    with OurContainerd(base_dir, netns) as first:
        again = netns.run([*first.command(), "--address", f"{base_dir}/other"], env=first.env, check=False)
        assert (again.returncode, again.stdout) == (1, "")
        assert again.stderr == (
            f"cutaway-containerd: another cutaway-containerd (pid {first.pid}) uses {first.root}: "
            "stop it, or choose another --root\n"
        )
        assert first.ctr("version").returncode == 0
        assert first.stop() == 0
        assert not os.path.exists(first.address)


@pytest.fixture
def small_disk(base_dir: Path) -> Iterator[Path]:
    """A daemon's root on a disk of 16 MiB."""
    root = base_dir / "ctd/root"
    root.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "small", root], check=True)
    yield root
    subprocess.run(["umount", root], check=False, capture_output=True)


def test_a_full_disk_is_said_and_survived(base_dir: Path, netns: NetNs, small_disk: Path) -> None:
    def refuses(function: Callable[[], object]) -> str:
        with pytest.raises(grpc.RpcError) as caught:
            function()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return str(caught.value.details())

    with OurContainerd(base_dir, netns) as daemon, Client(daemon.address) as client:
        assert daemon.root == small_disk
        kept = client.ingest(b"kept", labels={"containerd.io/gc.root": "x"})
        assert refuses(lambda: client.ingest(os.urandom(20 << 20), "big")) == "No space left on device"
        client.call(content_pb2, "Content/Abort", content_pb2.AbortRequest(ref="big"))
        layer = client.ingest(gzip.compress(layers.Tar().add("file", data=bytes(20 << 20)).bytes()))
        said = refuses(lambda: client.apply(layer, client.prepare("x"), f"{LAYER}+gzip"))
        assert said.endswith('layer entry "file": No space left on device')
        client.collect()
        assert [info.digest for info in client.blobs()] == [kept]
        assert client.read(client.ingest(os.urandom(4 << 20)))
        assert "Traceback" not in daemon.log.read_text()
        assert broken(daemon.root) == []
