"""Root filesystems that a task request asks to be mounted: many layers, several entries, other kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shim.bundles import unpack
from shim.driver import ShimHost, TaskError
from support.leftovers import mounts_below

pytestmark = [pytest.mark.root, pytest.mark.peers]

# As long as the paths of a containerd that was not moved anywhere.
SNAPSHOTS = "io.containerd.snapshotter.v1.overlayfs/snapshots"


def overlay(host: ShimHost, count: int, image: Path) -> dict[str, Any]:
    """An overlay of so many layers, each with a file of its own, over the image."""
    top = host.base / SNAPSHOTS
    names = [top / str(number) / "fs" for number in range(count - 1)]
    for number, name in enumerate(names):
        name.mkdir(parents=True)
        (name / f"of-{number}").touch()
    upper, work = top / "upper/fs", top / "upper/work"
    upper.mkdir(parents=True)
    work.mkdir()
    layers = ":".join(map(str, [*names, image]))
    options = ["index=off", f"workdir={work}", f"upperdir={upper}", f"lowerdir={layers}"]
    return {"type": "overlay", "source": "overlay", "options": options}


@pytest.mark.parametrize(
    ("count", "beside"),
    [(120, True), (120, False), (500, False)],
    ids=["by-short-names", "one-by-one", "500"],
)
def test_an_overlay_of_many_layers(warm_host: ShimHost, count: int, beside: bool) -> None:
    """With the image beside the others, what they have in common is all but a few bytes of a name."""
    image = warm_host.rootfs
    if beside:
        image = warm_host.base / SNAPSHOTS / "image/fs"
        unpack(image)
    script = f"ls -d /of-* | wc -l; test -e /of-{count - 2} && echo last; pwd > /written"
    bundle = warm_host.bundle("c1", ["sh", "-c", script], root={"path": "rootfs"})
    shim = warm_host.start(bundle)
    shim.create(rootfs=[overlay(warm_host, count, image)])
    assert shim.run_to_exit() == 0
    assert bundle.streams["stdout"].read_all().split() == [b"%d" % (count - 1), b"last"]
    assert (warm_host.base / SNAPSHOTS / "upper/fs/written").read_text() == "/\n"
    assert Path(f"/proc/{shim.pid}/cwd").readlink() == bundle.path, "the shim is where it was"
    shim.shutdown()
    assert mounts_below(bundle.path) == []


def test_more_layers_than_the_kernel_stacks(warm_host: ShimHost) -> None:
    bundle = warm_host.bundle("c1", ["true"], root={"path": "rootfs"})
    shim = warm_host.start(bundle)
    with pytest.raises(TaskError) as caught:
        shim.create(rootfs=[overlay(warm_host, 502, warm_host.rootfs)])
    assert caught.value.code == 3
    assert "overlay of 502 layers: " in caught.value.message
    assert mounts_below(bundle.path) == []
    shim.task("Shutdown")


def test_read_only_files_with_memory_inside(warm_host: ShimHost) -> None:
    script = "echo > /mnt/file && df /mnt | tail -n 1 && grep ' /mnt ' /proc/mounts; echo > /file"
    bundle = warm_host.bundle("c1", ["sh", "-c", script], root={"path": "rootfs"})
    (warm_host.rootfs / "mnt").mkdir(exist_ok=True)
    shim = warm_host.start(bundle)
    shim.create(
        rootfs=[
            {"type": "bind", "source": str(warm_host.rootfs), "options": ["rbind", "ro"]},
            {"type": "tmpfs", "source": "scratch", "target": "/mnt", "options": ["size=1m", "nodev"]},
        ]
    )
    assert len(mounts_below(bundle.path)) == 2
    assert shim.run_to_exit() != 0
    shown, mounted = bundle.streams["stdout"].read_all().decode().splitlines()
    assert shown.split()[:2] == ["scratch", "1024"]
    assert mounted.startswith("scratch /mnt tmpfs rw,nodev,relatime,size=1024k")
    assert b"Read-only file system" in bundle.streams["stderr"].read_all()
    shim.shutdown()
    assert mounts_below(bundle.path) == []


@pytest.mark.parametrize("option", ["loop", "X-containerd.mkfs.fs=ext4"])
def test_an_option_that_asks_for_a_helper_is_refused_by_name(warm_host: ShimHost, option: str) -> None:
    bundle = warm_host.bundle("c1", ["true"], root={"path": "rootfs"})
    shim = warm_host.start(bundle)
    with pytest.raises(TaskError) as caught:
        shim.create(rootfs=[{"type": "erofs", "source": "/layer.erofs", "options": ["ro", option]}])
    said = f"mount option {option!r} is not supported by this shim: invalid argument"
    assert caught.value.message == said
    shim.task("Shutdown")
