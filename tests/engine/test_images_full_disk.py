"""Pulls and loads onto a disk that is too small: one line, nothing left of them, and the next one works."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cutaway import errors
from cutaway.engine.images import ImageService
from cutaway.registry.reference import parse
from engine.image_stack import BOTH, Stack, running
from registry.fake import FakeRegistry, small_image
from support.images import Image, Layer
from support.netns import NetNs
from support.stack import Containerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

MB = 1 << 20
DISK = 24 * MB


@pytest.fixture(params=BOTH)
def containerd(request: pytest.FixtureRequest, base_dir: Path, netns: NetNs) -> Iterator[Containerd]:
    root = base_dir / f"img-{request.param[:4]}" / "root"
    root.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "small", root], check=True)
    try:
        yield from running(request.param, base_dir, netns)
    finally:
        subprocess.run(["umount", "-l", root], check=False, capture_output=True)


def of(data: bytes) -> Image:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        entry = tarfile.TarInfo("large")
        entry.size = len(data)
        opened.addfile(entry, io.BytesIO(data))
    return Image((small_image("below").layers[0], Layer(buffer.getvalue())), {"Cmd": ["x"]})


# What does not fit: the blob itself, or what is in it. Zeros take hardly any room as long as they are packed.
TOO_LARGE: dict[str, Callable[[], bytes]] = {
    "blob": lambda: os.urandom(DISK + MB),
    "what is in it": lambda: bytes(DISK + 20 * MB),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_a_pull_that_does_not_fit(containerd: Containerd, request: pytest.FixtureRequest, what: str) -> None:
    stack = Stack(containerd, request.node.name)
    large = of(TOO_LARGE[what]())

    async def work(images: ImageService, registry: FakeRegistry) -> None:
        registry.add(large, "large")
        registry.add(small_image("below"), "small")
        for _ in range(2):
            with pytest.raises(errors.CutawayError, match=r"(?i)no space left on device") as caught:
                await images.pull(parse(registry.reference("large")))
            assert "\n" not in str(caught.value)
            assert not any(stack.left().values())
        good = large.blobs()[1]
        assert sum(path.endswith(good.digest) for path in registry.paths()) == 1
        image = await images.pull(parse(registry.reference("small")))
        assert image.diff_ids == (large.layers[0].diff_id,)

    stack.run(work)
    assert "Traceback" not in containerd.log.read_text()
