"""Trees of directories, mounts of snapshots, and what is made of broken ones."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd import trees as described
from cutaway.containerd.metadata.database import Database
from cutaway.containerd.metadata.snapshots import Kind, Space
from cutaway.containerd.mounts import Mount
from cutaway.containerd.snapshots import trees
from cutaway.containerd.snapshots.copying import copy
from cutaway.containerd.snapshots.snapshotters import Native, Overlay
from cutaway.containerd.snapshots.store import SnapshotStore, repair
from cutaway.containerd.workers import Workers
from cutaway.errors import FailedPrecondition, InvalidArgument, NotFound

DEPTH = 1200  # beyond the interpreter's recursion limit, and PATH_MAX by far


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A tree whose deepest directory has no path that the kernel takes, nor pytest could remove."""
    root = tmp_path / "deep"
    root.mkdir()
    yield dig(root)
    trees.remove(root)


def dig(root: Path) -> Path:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for level in range(DEPTH):
        os.mkdir("deep-name", dir_fd=fd)
        inner = os.open("deep-name", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
        if level % 100 == 0:
            os.symlink("/etc/passwd", "link", dir_fd=fd)
            os.mkdir("aside", dir_fd=fd)
    os.close(fd)
    return root


def test_a_tour_sees_everything_at_any_depth(deep: Path) -> None:
    steps = list(trees.tour(deep))
    assert sum(step.name == "deep-name" for step in steps) == DEPTH
    assert sum(step.name == "link" for step in steps) == DEPTH / 100
    assert sum(step.name == "" for step in steps) == DEPTH + DEPTH / 100 + 1


def test_a_deep_tree_is_measured_copied_and_removed(deep: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    try:
        copy(deep, target)
        assert trees.usage(target)[1] == trees.usage(deep)[1] == DEPTH + 2 * DEPTH // 100 + 1
    finally:
        trees.remove(target)
    assert list(tmp_path.iterdir()) == [deep]
    assert len(os.listdir("/proc/self/fd")) == before


def test_removing_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").touch()
    (tmp_path / "tree/in").mkdir(parents=True)
    (tmp_path / "tree/in/link").symlink_to(tmp_path / "outside")
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    trees.remove(tmp_path / "tree")
    trees.remove(tmp_path / "link")
    trees.remove(tmp_path / "none")
    assert [str(one.relative_to(tmp_path)) for one in sorted(tmp_path.rglob("*"))] == [
        "outside",
        "outside/file",
    ]


def test_names_that_are_in_the_way_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "tree/a/b/c").mkdir(parents=True)
    (tmp_path / "tree/.removing-1/x").mkdir(parents=True)
    (tmp_path / "tree/a/.removing-2").touch()
    (tmp_path / "tree/.removing-2").touch()
    trees.remove(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_usage_counts_a_file_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(50_000))
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    size, inodes = trees.usage(tmp_path)
    assert 50_000 <= size < 70_000
    assert inodes == 2


def test_a_copy_is_the_same_tree(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "d/e").mkdir(parents=True)
    target.mkdir()
    (source / "d/file").write_bytes(os.urandom(100_000))
    (source / "d/hard").hardlink_to(source / "d/file")
    (source / "link").symlink_to("nowhere")
    (source / "empty").touch()
    os.mkfifo(source / "fifo")
    os.chmod(source / "d/file", 0o4751)
    os.chmod(source / "d/e", 0o1700)
    for path in ("d/file", "d/e", "d", "empty", ".", "fifo", "link"):
        os.utime(source / path, ns=(10**18, 10**18 + 123), follow_symlinks=False)
    copy(source, target)
    assert described.describe(target) == described.describe(source)
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(source.stat().st_mode)


def test_overlay_mounts_are_containerds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda _path: True)
    overlay = Overlay(tmp_path)
    folder = str(tmp_path)
    assert overlay.mounts(1, Kind.ACTIVE, []) == [Mount("bind", f"{folder}/1/fs", ("rw", "rbind"))]
    assert overlay.mounts(1, Kind.VIEW, []) == [Mount("bind", f"{folder}/1/fs", ("ro", "rbind"))]
    assert overlay.mounts(2, Kind.VIEW, [1]) == [Mount("bind", f"{folder}/1/fs", ("ro", "rbind"))]
    lower = f"lowerdir={folder}/2/fs:{folder}/1/fs"
    assert overlay.mounts(3, Kind.VIEW, [2, 1]) == [Mount("overlay", "overlay", ("index=off", lower))]
    (mount,) = overlay.mounts(3, Kind.ACTIVE, [2, 1])
    assert mount.options == ("index=off", f"workdir={folder}/3/work", f"upperdir={folder}/3/fs", lower)
    assert mount.option("upperdir") == f"{folder}/3/fs"


def test_a_kernel_without_the_index_option_is_not_given_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 4.13."""
    monkeypatch.setattr(os.path, "exists", lambda _path: False)
    (mount,) = Overlay(tmp_path).mounts(3, Kind.VIEW, [2, 1])
    assert mount.options == (f"lowerdir={tmp_path}/2/fs:{tmp_path}/1/fs",)


def test_native_mounts_are_binds(tmp_path: Path) -> None:
    native = Native(tmp_path)
    assert native.mounts(2, Kind.ACTIVE, [1]) == [Mount("bind", f"{tmp_path}/2/fs", ("rbind", "rw"))]
    assert native.mounts(2, Kind.VIEW, [1]) == [Mount("bind", f"{tmp_path}/1/fs", ("rbind", "ro"))]


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
def test_failures_leave_no_directory(tmp_path: Path, snapshotter: str) -> None:
    space = Space("ns", snapshotter)

    async def run() -> None:
        database, workers = Database(tmp_path / "db"), Workers(2)
        store = SnapshotStore(tmp_path / "snapshots", database, workers)
        await store.create(space, "a", "", Kind.ACTIVE, {}, "")
        await store.commit(space, "a", "base", {}, "")
        await store.create(space, "b", "base", Kind.ACTIVE, {}, "")
        for name, parent, lease in (
            ("b", "base", ""),
            ("c", "b", ""),
            ("c", "none", ""),
            ("c", "base", "none"),
        ):
            with pytest.raises((NotFound, FailedPrecondition, InvalidArgument, Exception)):
                await store.create(space, name, parent, Kind.ACTIVE, {}, lease)
        assert sorted(os.listdir(store.root)) == ["1", "2"]
        # As after a transaction that could not be committed: the id is free, its directory is there.
        (store.root / "3/fs/left").mkdir(parents=True)
        await store.create(space, "c", "base", Kind.ACTIVE, {}, "")
        assert list((store.root / "3/fs").iterdir()) == []
        await store.remove(space, "c", "")
        (store.root / "new-left").mkdir()
        repair(store.root, database)
        assert sorted(os.listdir(store.root)) == ["1", "2"]
        with pytest.raises(InvalidArgument, match="snapshotter not loaded: x"):
            await store.stat(Space("ns", "x"), "a")
        workers.close()
        database.close()

    asyncio.run(run())
