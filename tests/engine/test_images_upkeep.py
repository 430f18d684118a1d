"""prune, system df and pull of all tags on our engine, by the real docker and by cutaway."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.side_by_side import CUTAWAY
from engine.engine_stack import Stack, stack
from support.images import Image, Layer, busybox_image, tar
from support.leftovers import temporary_base
from support.peers import need
from support.stack import OurContainerd, RealRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers]

LAYERS = 2  # of the images here, the lower one shared


@pytest.fixture(scope="module")
def server(shared_stack: Stack) -> Iterator[RealRegistry]:
    need("docker-registry")
    with RealRegistry(shared_stack.engine.folder.parent, shared_stack.netns) as made:
        yield made


def above_busybox(text: str) -> Image:
    return Image(
        (*busybox_image().layers, Layer(tar({text: text.encode() * 5000}))), {"Labels": {"text": text}}
    )


def load(stack: Stack, folder: Path, image: Image, *names: str) -> None:
    file = folder / "x.tar"
    file.write_bytes(image.docker_archive(*names))
    stack.docker("load", "-i", str(file))


def test_prune_takes_what_dangles_and_with_all_what_no_container_uses(
    engine_stack: Stack, base_dir: Path
) -> None:
    stack = engine_stack
    load(stack, base_dir, above_busybox("first"), "pruned:1")
    load(stack, base_dir, above_busybox("second"), "pruned:1")
    load(stack, base_dir, above_busybox("third"), "used:1")
    stack.docker("create", "--name", "user", "used:1", "x")
    stack.docker("create", "--name", "other", "busybox", "x")

    said = stack.engine.docker("image", "prune", "-f", program=CUTAWAY).stdout
    assert f"deleted: {above_busybox('first').id}\n" in said
    assert "pruned:1" not in said and "Total reclaimed space: 0B" not in said
    assert stack.docker("image", "prune", "-f") == "Total reclaimed space: 0B\n"

    for filters in ("label=text=other", "label!=text=second", "until=10000h"):
        stack.docker("image", "prune", "-a", "-f", "--filter", filters)
        kept = stack.docker("images", "-q", "pruned:1") != ""
        assert kept == (filters != "until=10000h"), filters
    load(stack, base_dir, above_busybox("second"), "pruned:1")
    said = stack.docker("image", "prune", "-a", "-f")
    assert said.startswith("Deleted Images:\nuntagged: pruned:1\n")
    assert f"deleted: {above_busybox('second').id}\n" in said
    assert stack.docker("images", "-q", "used:1") and stack.docker("images", "-q", "busybox")
    stack.docker("rm", "user")
    stack.docker("rmi", "used:1")


def test_disk_usage_adds_up(engine_stack: Stack, base_dir: Path) -> None:
    stack = engine_stack
    load(stack, base_dir, above_busybox("one"), "df:1")
    load(stack, base_dir, above_busybox("two"), "df:2")
    stack.docker(
        "run", "--name", "writer", "-v", "kept:/v", "df:1", "sh", "-c", "echo hello > /v/x; echo y > /y"
    )
    status, found = stack.ask("GET", "/system/df")
    assert status == 200
    images = {item["RepoTags"][0]: item for item in found["Images"]}
    shared = images["busybox:latest"]["SharedSize"]
    assert shared == images["busybox:latest"]["Size"] == images["df:1"]["SharedSize"] > 1_000_000
    own = sum(item["Size"] - item["SharedSize"] for item in images.values())
    assert found["LayersSize"] == shared + own
    assert images["df:1"]["Containers"] == 1 and images["df:2"]["Containers"] == 0
    (container,) = found["Containers"]
    assert 0 < container["SizeRw"] < container["SizeRootFs"]
    (volume,) = [item for item in found["Volumes"] if item["Name"] == "kept"]
    assert volume["UsageData"] == {"RefCount": 1, "Size": 6}
    assert stack.engine.docker("system", "df", program=CUTAWAY).stdout == stack.docker("system", "df")
    assert stack.engine.docker("system", "df", "-v", program=CUTAWAY).stdout == stack.docker(
        "system", "df", "-v"
    )
    assert set(stack.ask("GET", "/v1.42/system/df?type=volume")[1]["Images"] or []) == set()
    assert stack.ask("GET", "/system/df?type=nope")[0] == 400

    said = stack.docker("container", "prune", "-f")
    assert said.startswith("Deleted Containers:\n") and "Total reclaimed space: 0B" not in said
    stack.docker("volume", "rm", "kept")
    stack.docker("rmi", "df:1", "df:2")


def test_layers_size_is_what_du_finds() -> None:
    with stack(below=OurContainerd) as own, temporary_base() as folder:
        load(own, folder, above_busybox("one"), "df:1")
        load(own, folder, above_busybox("two"), "df:2")
        snapshots = sorted((own.containerd.root / "snapshots").glob("*/fs"))
        assert len(snapshots) == 3
        words = subprocess.run(["du", "-sB1", *snapshots], capture_output=True, text=True, check=True).stdout
        taken = sum(int(line.split()[0]) for line in words.splitlines())
        assert own.ask("GET", "/system/df")[1]["LayersSize"] == taken


def test_system_prune_leaves_what_is_in_use(engine_stack: Stack) -> None:
    stack = engine_stack
    stack.docker("run", "-d", "--name", "runs", "busybox", "sleep", "1000")
    stack.docker("create", "--name", "ended", "busybox", "x")
    said = stack.engine.docker("system", "prune", "-f", program=CUTAWAY).stdout
    assert said.startswith("Deleted Containers:\n")
    assert stack.docker("system", "prune", "-a", "-f", "--volumes") == "Total reclaimed space: 0B\n"
    assert stack.docker("ps", "-a", "--format", "{{.Names}}") == "runs\n"


@pytest.mark.parametrize("program", [None, CUTAWAY], ids=["docker", "cutaway"])
def test_pull_of_all_tags(engine_stack: Stack, server: RealRegistry, program: Path | None) -> None:
    server.push(above_busybox("one"), "many", "1")
    server.push(above_busybox("two"), "many", "2")
    name = f"{server.host}/many"
    said = engine_stack.engine.docker("pull", "-a", name, program=program).stdout
    assert f"Status: Downloaded newer image for {name}\n" in said and said.count("Digest: ") == 2
    again = engine_stack.engine.docker("pull", "-a", name, program=program).stdout
    assert f"Status: Image is up to date for {name}\n" in again
    assert engine_stack.docker("images", "--format", "{{.Tag}}", name).split() == ["1", "2"]
    engine_stack.docker("rmi", f"{name}:1", f"{name}:2")
    assert engine_stack.fails("pull", "-a", f"{server.host}/none")[0] == 1
