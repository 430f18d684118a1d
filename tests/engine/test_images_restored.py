"""Layers whose blobs were taken from containerd's content store: push and save pack them again."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.engine_stack import NAMESPACE, REAL_BELOW, Stack, stack
from engine.test_images_making import BELOW
from support.images import Image, Layer, busybox_image, tar
from support.peers import need
from support.stack import OurContainerd, RealDockerd, RealRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture(scope="module", params=BELOW)
def rig(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Our engine over either containerd; busybox:latest is in it."""
    need("docker", "containerd", "containerd-shim-runc-v2", "runc", "busybox", "ctr", "docker-registry")
    with stack(REAL_BELOW, below=BELOW[request.param]) as made:
        yield made


@pytest.fixture(autouse=True)
def leases(rig: Stack) -> Iterator[None]:
    """What is kept for the next push would be there for the next test."""
    yield
    for lease in rig.containerd.ctr("leases", "ls", "-q", namespace=NAMESPACE).stdout.split():
        rig.containerd.ctr("leases", "rm", "--sync", lease, namespace=NAMESPACE)


@pytest.fixture
def committed(rig: Stack) -> Iterator[str]:
    """The ID of an image whose upper layer containerd has packed."""
    script = "mkdir -p /a/b; echo new > /a/b/c; ln -s x /y; chmod 4711 /a/b/c; mkfifo /f"
    if isinstance(rig.containerd, OurContainerd):
        script += "; rm /etc/group"  # containerd 1.6 gives a whiteout the time at which it packs
    rig.docker("run", "--name", "work", "--network", "none", "busybox", "sh", "-ec", script)
    yield rig.docker("commit", "work", "made:1").strip()
    rig.docker("rm", "work")
    rig.docker("rmi", "made:1", check=False)


def layers(rig: Stack, diff_ids: list[str]) -> list[str]:
    """The blobs of layers, by what they are uncompressed."""
    listed = rig.containerd.ctr("content", "ls", namespace=NAMESPACE).stdout.splitlines()
    return [
        line.split()[0]
        for line in listed
        for diff_id in diff_ids
        if f"containerd.io/uncompressed={diff_id}" in line
    ]


def diff_ids(rig: Stack, name: str) -> list[str]:
    found: list[str] = rig.ask("GET", f"/images/{name}/json")[1]["RootFS"]["Layers"]
    return found


def lose(rig: Stack, blobs: list[str]) -> None:
    assert blobs
    rig.containerd.ctr("content", "rm", *blobs, namespace=NAMESPACE)


def test_what_was_packed_here_comes_out_the_same(
    rig: Stack, committed: str, real_dockerd: RealDockerd, base_dir: Path
) -> None:
    upper = layers(rig, diff_ids(rig, "made:1")[1:])
    lose(rig, upper)
    with RealRegistry(rig.engine.folder.parent, rig.netns) as server:
        name = f"{server.host}/again:1"
        rig.docker("tag", "made:1", name)
        assert "1: digest: sha256:" in rig.docker("push", name)
        rig.docker("rmi", name)
        rig.docker("pull", name)
        assert rig.docker("image", "inspect", "-f", "{{.Id}}", name).strip() == committed
        rig.docker("rmi", name)
    lose(rig, layers(rig, diff_ids(rig, "made:1")[1:]))
    file = base_dir / "made.tar"
    rig.docker("save", "-o", str(file), "made:1")
    real_dockerd.docker("load", "-i", str(file))
    assert real_dockerd.docker("image", "inspect", "-f", "{{.Id}}", "made:1").stdout.strip() == committed
    told = real_dockerd.docker("run", "--rm", "--network", "none", "made:1", "cat", "/a/b/c").stdout
    assert told == "new\n"
    real_dockerd.docker("rmi", "made:1")


def test_under_another_compression_the_image_is_the_same(rig: Stack, committed: str, base_dir: Path) -> None:
    """Loaded from plain tar files: what is packed again is compressed, under a manifest of its own."""
    file = base_dir / "made.tar"
    with RealRegistry(rig.engine.folder.parent, rig.netns) as server:
        name = f"{server.host}/other:1"
        rig.docker("save", "-o", str(file), "made:1")
        plain(file)
        rig.docker("rmi", "made:1")
        rig.docker("load", "-i", str(file))
        (upper,) = diff_ids(rig, "made:1")[1:]
        assert upper in layers(rig, [upper])
        lose(rig, [upper])
        rig.docker("tag", "made:1", name)
        rig.docker("push", name)
        rig.docker("rmi", name, "made:1")
        rig.docker("pull", name)
        assert rig.docker("image", "inspect", "-f", "{{.Id}}", name).strip() == committed
        assert rig.docker("run", "--rm", "--network", "none", name, "cat", "/a/b/c") == "new\n"
        rig.docker("rmi", name)


def plain(file: Path) -> None:
    """Make of an archive one whose layers are not compressed, as dockerd's are."""
    with tarfile.open(file) as opened:
        (item,) = json.loads(opened.extractfile("manifest.json").read())  # type: ignore[union-attr]
        parts = {name: opened.extractfile(name).read() for name in (item["Config"], *item["Layers"])}  # type: ignore[union-attr]
    for name in item["Layers"]:
        if parts[name].startswith(b"\x1f\x8b"):
            parts[name] = gzip.decompress(parts[name])
    file.write_bytes(tar({**parts, "manifest.json": json.dumps([item]).encode()}))


def test_what_comes_out_as_another_one_is_told_and_nothing_is_written(rig: Stack, base_dir: Path) -> None:
    """Two files in an order that no file system keeps."""
    image = Image((*busybox_image().layers, Layer(tar({"z": b"1", "a": b"2"}))), {"Cmd": ["x"]})
    file = base_dir / "x.tar"
    file.write_bytes(image.docker_archive("foreign:1"))
    rig.docker("load", "-i", str(file))
    file.unlink()
    lose(rig, [image.layers[1].diff_id])
    for code, said in (rig.fails("save", "-o", str(file), "foreign:1"), rig.fails("push", "foreign:1")):
        assert code == 1
        assert f"layer {image.layers[1].diff_id} of {image.id} is not here, and packed again" in said
    assert not file.exists()
    assert "restore-" not in rig.containerd.ctr("leases", "ls", namespace=NAMESPACE).stdout
    assert rig.docker("run", "--rm", "--network", "none", "foreign:1", "cat", "/z") == "1"
    rig.docker("rmi", "foreign:1")
