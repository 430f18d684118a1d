"""Looking into an overlay without mounting it anywhere, by the new calls and by the old."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from cutaway.engine import rootfs_view
from cutaway.engine.rootfs_view import open_in_root, open_rootfs
from cutaway.errors import FailedPrecondition, InvalidArgument, NotFound

pytestmark = pytest.mark.root


@dataclass
class Mount:
    type: str
    source: str
    options: list[str]


@pytest.fixture(params=["new calls", "old calls"])
def layers(request: pytest.FixtureRequest, base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A writable layer over two others; with the old calls fsopen is as on a kernel without it."""
    if request.param == "old calls":

        def absent(layers: list[str]) -> int:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(rootfs_view, "_fsmount_overlay", absent)
    for name in ("upper", "work", "one:colon", "two"):
        (base_dir / name).mkdir()
    (base_dir / "two/both").write_text("two")
    (base_dir / "one:colon/both").write_text("one")
    (base_dir / "two/deep").write_text("deep")
    (base_dir / "upper/link").symlink_to("/deep")
    return base_dir


def overlay(folder: Path) -> Mount:
    lower = f"{folder}/one\\:colon:{folder}/two"
    options = ["index=off", f"workdir={folder}/work", f"upperdir={folder}/upper", f"lowerdir={lower}"]
    return Mount("overlay", "overlay", options)


def content(root: int, path: str) -> str:
    with os.fdopen(open_in_root(root, path)) as file:
        return file.read()


def mounted(place: Path) -> list[str]:
    """What is mounted below a folder of the test's own; elsewhere others mount."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(place) in line]


def test_layers_lie_over_one_another(layers: Path) -> None:
    with open_rootfs([overlay(layers)]) as root:
        assert content(root, "both") == "one"
        assert content(root, "link") == "deep"
        with pytest.raises(NotFound):
            open_in_root(root, "absent")


def test_the_view_is_read_only_and_nowhere(layers: Path) -> None:
    before, descriptors = mounted(layers), set(os.listdir("/proc/self/fd"))
    with open_rootfs([overlay(layers)]) as root:
        assert mounted(layers) == before
        with pytest.raises(OSError, match="Read-only"):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=root)
    assert mounted(layers) == before
    assert set(os.listdir("/proc/self/fd")) == descriptors


def test_a_container_that_runs_on_the_layers_is_no_obstacle(layers: Path) -> None:
    (layers / "merged").mkdir()
    options = ",".join(overlay(layers).options).encode()
    target = os.fsencode(layers / "merged")
    assert rootfs_view._libc.mount(b"overlay", target, b"overlay", 0, options) == 0
    (layers / "merged/fresh").write_text("written by the container")
    with open_rootfs([overlay(layers)]) as root:
        assert content(root, "fresh") == "written by the container"


def test_one_layer_and_a_bind_need_no_mount(base_dir: Path) -> None:
    (base_dir / "file").write_text("here")
    for mount in (
        Mount("overlay", "overlay", [f"lowerdir={base_dir}"]),
        Mount("bind", str(base_dir), ["rbind", "ro"]),
    ):
        with open_rootfs([mount]) as root:
            assert content(root, "file") == "here"


def test_a_missing_layer(layers: Path) -> None:
    mount = overlay(layers)
    mount.options[-1] = f"lowerdir={layers}/gone:{layers}/two"
    with pytest.raises(FailedPrecondition), open_rootfs([mount]):
        pass


@pytest.mark.parametrize(
    ("mounts", "error"),
    [
        ([], InvalidArgument),
        ([Mount("tmpfs", "tmpfs", [])], InvalidArgument),
        ([Mount("overlay", "overlay", [])], InvalidArgument),
        ([Mount("bind", "/does/not/exist", [])], FailedPrecondition),
        ([Mount("bind", "/", []), Mount("bind", "/", [])], InvalidArgument),
    ],
)
def test_what_is_no_root_file_system(mounts: list[Mount], error: type[Exception]) -> None:
    with pytest.raises(error), open_rootfs(mounts):
        pass


def test_many_layers_with_long_paths(base_dir: Path) -> None:
    folder = base_dir / ("x" * 100) / ("y" * 100) / ("z" * 100)
    names = [f"{folder}/{number}" for number in range(3)]
    for name in names:
        Path(name).mkdir(parents=True)
    (folder / "2/file").write_text("at the bottom")
    with open_rootfs([Mount("overlay", "overlay", ["lowerdir=" + ":".join(names)])]) as root:
        assert content(root, "file") == "at the bottom"
