"""Images, content and snapshots by the real `ctr`: the daemon does what containerd does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd import layers, trees
from support.images import Image, Layer
from support.netns import NetNs
from support.peers import need
from support.stack import Containerd, OurContainerd, RealContainerd, RealRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture(scope="module")
def ours(session_base: Path, session_netns: NetNs) -> Iterator[OurContainerd]:
    need("ctr")
    with OurContainerd(session_base, session_netns, name="own") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def reference(registry: RealRegistry) -> str:
    image = Image(
        tuple(Layer(data) for data in (layers.base(), layers.changes(), layers.more())), {"Env": []}
    )
    registry.push(image, "library/layers")
    return f"{registry.host}/library/layers:latest"


def layers_of(daemon: Containerd, reference: str) -> list[Path]:
    """The directories of a pulled image, topmost first."""
    daemon.ctr("images", "pull", "--plain-http", reference)
    config = daemon.ctr("snapshots", "ls").stdout.splitlines()[1:]
    parents = {fields[1] for line in config if len(fields := line.split()) == 3}
    (top,) = [line.split()[0] for line in config if line.split()[0] not in parents]
    daemon.ctr("snapshots", "prepare", "look", top)
    mounts = daemon.ctr("snapshots", "mounts", "/x", "look").stdout
    daemon.ctr("snapshots", "rm", "look")
    return [Path(one) for one in mounts.split("lowerdir=")[1].split()[0].split(":")]


def test_layers_are_unpacked_as_by_containerd(
    ours: OurContainerd, real_containerd: RealContainerd, reference: str
) -> None:
    mine, theirs = layers_of(ours, reference), layers_of(real_containerd, reference)
    assert len(mine) == len(theirs) == 3
    for one, other in zip(mine, theirs, strict=True):
        assert trees.describe(one) == trees.describe(other)
