"""A disk that is full to the last byte: additions are refused in words, deletions work, and make room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from containerd import layers
from containerd.client import Client, digest_of
from containerd.task_rig import rig
from cutaway.pb import content_pb2, images_pb2, leases_pb2
from engine.engine_stack import Stack
from support.images import busybox_image
from support.netns import NetNs
from support.peers import VENV_BIN, need
from support.stack import OurContainerd, OurEngine
from support.storage import broken

pytestmark = [pytest.mark.root, pytest.mark.peers]

FULL = "metadata cannot be written: no space left on device"


@pytest.fixture
def small_disk(base_dir: Path) -> Iterator[Path]:
    root = base_dir / "ctd/root"
    root.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "small", root], check=True)
    yield root
    subprocess.run(["umount", root], check=False, capture_output=True)


def fill(disk: Path) -> Path:
    """Somebody else's file takes all that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return filler
    raise AssertionError("the disk has no end")


def refused(function: Callable[[], object]) -> str:
    """What is said about it; "" when it is done."""
    try:
        function()
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return str(error.details())
    return ""


def names(client: Client) -> set[str]:
    answer = client.call(images_pb2, "Images/List", images_pb2.ListImagesRequest())
    return {image.name for image in answer.images}


@pytest.mark.parametrize("crash", [False, True], ids=["living", "restarted"])
def test_what_is_there_can_be_deleted(base_dir: Path, netns: NetNs, small_disk: Path, crash: bool) -> None:
    root_label = {"containerd.io/gc.root": "x"}
    with OurContainerd(base_dir, netns) as daemon:
        with Client.leased(daemon.address) as client:
            digest = client.ingest(b"x" * (2 << 20), labels=root_label)
            client.apply(client.ingest(layers.base()), client.prepare("active"))
        filler = fill(daemon.root)
        with Client(daemon.address) as client:
            note = {"note": "n" * 4000}
            said = [refused(lambda at=at: client.image(f"i{at}", digest, note)) for at in range(2000)]  # type: ignore[misc]
            assert FULL in said, "there is an end to it"
            there = names(client)
            assert there == {f"i{at}" for at, why in enumerate(said) if not why}
            assert refused(lambda: client.prepare("another")) == FULL
            assert client.read(digest, 0, 10) == b"x" * 10
        if crash:
            daemon.crash()
            daemon.start()
        with Client(daemon.address) as client:
            for name in there:
                client.call(images_pb2, "Images/Delete", images_pb2.DeleteImageRequest(name=name))
            assert names(client) == set()
            client.remove("active")
            client.call(leases_pb2, "Leases/Delete", leases_pb2.DeleteRequest(id="held", sync=True))
            client.call(content_pb2, "Content/Delete", content_pb2.DeleteContentRequest(digest=digest))
            assert client.blobs() == []
            filler.unlink()
            client.image("again", client.ingest(b"again", labels=root_label))
            assert client.read(digest_of(b"again")) == b"again"
        assert "Traceback" not in daemon.log.read_text()
        assert broken(daemon.root) == []


def test_a_pull_that_does_not_fit_leaves_its_room(base_dir: Path, netns: NetNs, small_disk: Path) -> None:
    def room() -> int:
        found = os.statvfs(small_disk)
        return found.f_bavail * found.f_frsize

    with OurContainerd(base_dir, netns) as daemon, Client(daemon.address) as client:
        before = room()
        client.lease("pull")
        with Client(daemon.address, lease="pull") as pull:
            pull.ingest(layers.base(), "base")
            mounts = pull.prepare("extract")
            big = layers.Tar().add("file", data=os.urandom(9 << 20)).bytes()
            digest = pull.ingest(big, "layer")
            said = refused(lambda: pull.apply(digest, mounts))
            assert said.endswith('layer entry "file": No space left on device')
            assert refused(lambda: pull.ingest(os.urandom(9 << 20), "more")) == "No space left on device"
        client.call(leases_pb2, "Leases/Delete", leases_pb2.DeleteRequest(id="pull", sync=True))
        assert client.blobs() == []
        assert room() >= before - (1 << 20), "the database may have grown"
        assert broken(daemon.root) == []


def test_a_task_runs_and_ends_on_a_full_disk(base_dir: Path, netns: NetNs, small_disk: Path) -> None:
    with OurContainerd(base_dir, netns) as daemon, rig(daemon, base_dir) as on:
        on.runtime = "io.containerd.cutaway.v1"
        on.running("early")
        fill(daemon.root)
        assert on.end("early") == 137
        assert on.statuses() == {}


def test_the_engine_on_a_full_disk(base_dir: Path, netns: NetNs) -> None:
    """Containers end and are removed, new ones are refused in words, until there is room again."""
    need("docker", "busybox", "ctr")
    root = base_dir / "eng/root"
    root.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "small", root], check=True)
    with (
        OurContainerd(base_dir, netns, [VENV_BIN]) as below,
        OurEngine(base_dir, netns, below.address) as engine,
    ):
        made = Stack(engine, below, netns)
        made.load(busybox_image(), "docker.io/library/busybox:latest")
        made.docker("run", "--name", "old", "busybox", "true")
        made.docker("run", "-d", "--name", "lasting", "busybox", "sleep", "1000")
        filler = fill(root)
        code, said = made.fails("run", "--name", "new", "busybox", "true")
        assert code == 125 and "no space left on" in said.lower()
        made.docker("rm", "old")
        made.docker("kill", "lasting")
        assert made.docker("wait", "lasting") == "137\n"
        engine.crash()
        engine.start()
        listed = made.docker("ps", "-a", "--format", "{{.Names}} {{.Status}}")
        assert "lasting Exited (137)" in listed and "old" not in listed
        made.docker("rm", "lasting")
        filler.unlink()
        assert made.docker("run", "--rm", "busybox", "echo", "works") == "works\n"
        assert "Traceback" not in engine.log.read_text()
