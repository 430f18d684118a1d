"""load, save and push through the real docker and through cutaway, and what others make of the results."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from cli.side_by_side import CUTAWAY
from engine.engine_stack import REAL_BELOW, Stack, stack
from support.images import Image, Layer, busybox_image, tar
from support.peers import need, peer, peer_path_env
from support.stack import OurContainerd, RealContainerd, RealDockerd, RealRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers]

BELOW: dict[str, type[RealContainerd | OurContainerd]] = {
    "containerd": RealContainerd,
    "cutaway": OurContainerd,
}


@pytest.fixture(scope="module", params=BELOW)
def rig(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Our engine over either containerd; busybox:latest is in it."""
    need("docker", "containerd", "containerd-shim-runc-v2", "runc", "busybox", "ctr")
    with stack(REAL_BELOW, below=BELOW[request.param]) as made:
        yield made


@pytest.fixture(scope="module")
def server(rig: Stack) -> Iterator[RealRegistry]:
    """A registry that the engine can reach."""
    need("docker-registry")
    with RealRegistry(rig.engine.folder.parent, rig.netns) as made:
        yield made


def two_layers() -> Image:
    return Image((*busybox_image().layers, Layer(tar({"second": b"2"}))), {"Cmd": ["cat", "/second"]})


def save(stack: Stack, folder: Path, *names: str, program: Path | None = None) -> Path:
    """An archive that our engine made."""
    file = folder / "saved.tar"
    stack.engine.docker("save", "-o", str(file), *names, program=program)
    return file


def run_peer(name: str, *arguments: str, folder: Path) -> str:
    env = {**peer_path_env(), "HOME": os.fspath(folder), "TMPDIR": os.fspath(folder)}
    done = subprocess.run(
        [peer(name), *arguments], check=False, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", [None, CUTAWAY], ids=["docker", "cutaway"])
def test_what_dockerd_saved_is_loaded_and_runs(
    rig: Stack, real_dockerd: RealDockerd, base_dir: Path, program: Path | None
) -> None:
    real_dockerd.load(two_layers(), "two:1", "two:2")
    file = base_dir / "two.tar"
    real_dockerd.docker("save", "-o", str(file), "two")
    real_id = real_dockerd.docker("image", "inspect", "-f", "{{.Id}}", "two:1").stdout
    real_dockerd.docker("rmi", "two:1", "two:2")

    said = rig.engine.docker("load", "-i", str(file), program=program).stdout
    assert said == "Loaded image: two:1\nLoaded image: two:2\n"
    assert rig.docker("image", "inspect", "-f", "{{.Id}}", "two:1") == real_id
    assert rig.docker("run", "--rm", "two:2") == "2"
    rig.docker("rmi", "two:1", "two:2")


def test_what_we_saved_is_loaded_by_dockerd_skopeo_and_podman(
    rig: Stack, real_dockerd: RealDockerd, base_dir: Path
) -> None:
    need("skopeo")
    rig.docker("tag", "busybox", "example.org/team/bb:3")
    file = save(rig, base_dir, "busybox:latest", "example.org/team/bb")
    said = real_dockerd.docker("load", "-i", str(file)).stdout
    assert sorted(said.splitlines()) == [
        "Loaded image: busybox:latest",
        "Loaded image: example.org/team/bb:3",
    ]
    assert (
        real_dockerd.docker("run", "--rm", "--network", "none", "example.org/team/bb:3", "echo", "x").stdout
        == "x\n"
    )
    real_dockerd.docker("rmi", "example.org/team/bb:3")

    one = save(rig, base_dir, "busybox")
    for kind in ("docker-archive", "oci-archive"):
        run_peer(
            "skopeo", "--insecure-policy", "copy", f"{kind}:{one}", f"dir:{base_dir}/{kind}", folder=base_dir
        )
        assert (base_dir / kind / "manifest.json").exists()
    rig.docker("rmi", "example.org/team/bb:3")


def test_round_trip_keeps_the_digest_and_every_tag(rig: Stack, base_dir: Path) -> None:
    rig.docker("tag", "busybox", "again:1")
    before = rig.docker("images", "--digests", "--no-trunc", "again")
    file = save(rig, base_dir, "again:1", program=CUTAWAY)
    with tarfile.open(file) as opened:
        names = opened.getnames()
        manifest = json.loads(_content(opened, "manifest.json"))
    assert {"oci-layout", "index.json", "manifest.json", "repositories"} <= set(names)
    assert manifest[0]["RepoTags"] == ["again:1"]
    rig.docker("rmi", "again:1")
    assert rig.engine.docker("load", "-i", str(file), program=CUTAWAY).stdout == "Loaded image: again:1\n"
    assert rig.docker("images", "--digests", "--no-trunc", "again") == before
    rig.docker("rmi", "again:1")


def test_names_win_over_ids_and_ids_bring_no_name(rig: Stack, base_dir: Path) -> None:
    rig.docker("tag", "busybox", "cafe:1")
    identity = rig.docker("image", "inspect", "-f", "{{.Id}}", "busybox").strip()
    told = {}
    for name in ("cafe", "cafe:1", identity, identity[7:19]):
        with tarfile.open(save(rig, base_dir, name)) as opened:
            (item,) = json.loads(_content(opened, "manifest.json"))
        assert item["Config"] == f"blobs/{identity.replace(':', '/')}"
        told[name] = item["RepoTags"]
    assert list(told.values()) == [["cafe:1"], ["cafe:1"], None, None]
    with tarfile.open(save(rig, base_dir, "busybox", "cafe", identity)) as opened:
        (item,) = json.loads(_content(opened, "manifest.json"))
    assert item["RepoTags"] == ["busybox:latest", "cafe:1"]
    assert rig.fails("save", "-o", str(base_dir / "none"), "busybox", "nope")[1].startswith(
        "Error response from daemon: No such image: nope"
    )
    assert not (base_dir / "none").exists()
    rig.docker("rmi", "cafe:1")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_compressed_archives(rig: Stack, base_dir: Path, compress: Callable[[bytes], bytes]) -> None:
    file = base_dir / "packed"
    file.write_bytes(compress(two_layers().docker_archive("packed:1")))
    assert rig.docker("load", "-q", "-i", str(file)) == "Loaded image: packed:1\n"
    rig.docker("rmi", "packed:1")


def test_image_without_a_name_is_told_by_its_id_and_a_name_moves(rig: Stack, base_dir: Path) -> None:
    file = base_dir / "x.tar"
    file.write_bytes(two_layers().docker_archive())
    assert rig.docker("load", "-i", str(file)) == f"Loaded image ID: {two_layers().id}\n"
    file.write_bytes(two_layers().docker_archive("moved:1"))
    rig.docker("load", "-i", str(file))
    other = Image((Layer(tar({"other": b"3"})),), {})
    file.write_bytes(other.docker_archive("moved:1"))
    assert rig.docker("load", "-i", str(file)) == (
        f"The image moved:1 already exists, renaming the old one with ID {two_layers().id} to empty string\n"
        "Loaded image: moved:1\n"
    )
    rig.docker("rmi", "moved:1", two_layers().id)


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_pushed_image_is_what_was_there(rig: Stack, server: RealRegistry, docker: bool) -> None:
    need("skopeo")
    kind = "docker" if docker else "oci"
    digest = server.push(two_layers(), f"origin/{kind}", "1", docker=docker)
    origin, copy = f"{server.host}/origin/{kind}:1", f"{server.host}/copies/{kind}:1"
    rig.docker("pull", origin)
    rig.docker("tag", origin, copy)
    said = rig.engine.docker("push", copy, program=CUTAWAY).stdout.splitlines()
    assert said[0] == f"The push refers to repository [{server.host}/copies/{kind}]"
    steps = sorted(line.partition(": ")[2] for line in said[1:-1] if not line.endswith("Waiting"))
    assert [step.partition("/")[0] for step in steps if step != "Preparing"] == ["Mounted from origin"] * 2
    assert said[-1].startswith(f"1: digest: {digest} size: ")
    again = rig.docker("push", copy)
    assert again.count("Layer already exists") == 2
    for name in (origin, copy):
        rig.docker("rmi", name)
    rig.docker("pull", copy)
    assert rig.docker("run", "--rm", copy) == "2"
    rig.docker("rmi", copy)


def test_push_refusals_are_dockers(rig: Stack, server: RealRegistry) -> None:
    assert rig.fails("push", f"{server.host}/none:1") == (
        1,
        f"An image does not exist locally with the tag: {server.host}/none\n",
    )
    rig.docker("tag", "busybox", f"{server.host}/some:1")
    rig.docker("tag", "busybox", f"{server.host}/some:2")
    assert rig.fails("push", f"{server.host}/some:9") == (1, f"tag does not exist: {server.host}/some:9\n")
    said = rig.engine.docker("push", "-a", f"{server.host}/some", program=CUTAWAY).stdout
    assert [line[:9] for line in said.splitlines() if "digest" in line] == ["1: digest", "2: digest"]
    rig.docker("rmi", f"{server.host}/some:1", f"{server.host}/some:2")


def _content(opened: tarfile.TarFile, name: str) -> bytes:
    file = opened.extractfile(name)
    assert file is not None
    return file.read()
