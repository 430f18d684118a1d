"""Bundles and what is found by a runtime's name; what needs a mount is tested with the daemon."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.containerd.tasks import runtimes, usermap
from cutaway.containerd.tasks.bundles import Bundle, existing
from cutaway.errors import AlreadyExists, Unknown


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    before = os.umask(0o022)
    yield Bundle(tmp_path / "state", tmp_path / "root", "ns", "c1")
    os.umask(before)


def mapping(container: int, host: int) -> dict[str, object]:
    one = {"containerID": container, "hostID": host, "size": 9}
    return {"ociVersion": "1.0.2", "linux": {"gidMappings": [one]}}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_bundle_is_what_shims_expect(bundle: Bundle, tmp_path: Path) -> None:
    bundle.create(b"{}", "/bin/shim")
    assert bundle.path == tmp_path / "state/io.containerd.runtime.v2.task/ns/c1"
    assert sorted(path.name for path in bundle.path.iterdir()) == [
        "config.json", "log", "rootfs", "shim-binary-path", "work",
    ]  # fmt: skip
    assert (bundle.path / "config.json").read_bytes() == b"{}"
    assert (bundle.path / "work").readlink() == bundle.work
    assert bundle.read("shim-binary-path") == "/bin/shim"
    assert stat.S_ISFIFO(bundle.log.stat().st_mode)
    assert [mode(path) for path in (bundle.path, bundle.path / "rootfs", bundle.log)] == [0o700, 0o711, 0o700]


def test_second_bundle_of_a_name_is_refused_and_the_first_stays(bundle: Bundle) -> None:
    bundle.create(b"first", "/bin/shim")
    with pytest.raises(AlreadyExists, match="already exists"):
        bundle.create(b"second", "/bin/shim")
    assert bundle.read("config.json") == "first"


def test_failed_bundle_leaves_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "mkfifo", full)
    with pytest.raises(OSError, match="No space"):
        bundle.create(b"{}", "/bin/shim")
    assert list(bundle.path.parent.iterdir()) == []
    assert list(bundle.work.parent.iterdir()) == []


def test_what_an_earlier_task_left_in_work_goes(bundle: Bundle) -> None:
    bundle.work.mkdir(parents=True)
    (bundle.work / "old").touch()
    bundle.create(b"{}", "/bin/shim")
    assert list(bundle.work.iterdir()) == []


def test_removing_does_not_follow_links(bundle: Bundle, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    bundle.create(b"{}", "/bin/shim")
    (bundle.path / "rootfs").rmdir()
    (bundle.path / "link").symlink_to(precious)
    bundle.remove()
    bundle.remove()
    assert not bundle.path.exists()
    assert not bundle.work.exists()
    assert (precious / "file").exists()


def test_rootfs_that_is_not_empty_is_not_emptied(bundle: Bundle) -> None:
    bundle.create(b"{}", "/bin/shim")
    (bundle.path / "rootfs/file").touch()
    with pytest.raises(OSError, match="not empty"):
        bundle.remove()
    assert (bundle.path / "rootfs/file").exists()


def test_existing_bundles_are_found_and_ruins_cleared(bundle: Bundle) -> None:
    bundle.create(b"{}", "/bin/shim")
    for ruin in (bundle.path.with_name(".c2"), bundle.work.with_name(".c2"), bundle.work.with_name("c3")):
        ruin.mkdir()
    assert existing(bundle.state, bundle.root) == [bundle]
    assert [path.name for path in bundle.path.parent.iterdir()] == ["c1"]
    assert [path.name for path in bundle.work.parent.iterdir()] == ["c1"]


def test_nothing_exists_at_first(tmp_path: Path) -> None:
    assert existing(tmp_path / "state", tmp_path / "root") == []


def test_nobody_lives_in_an_empty_bundle(bundle: Bundle) -> None:
    bundle.create(b"{}", "/bin/shim")
    assert bundle.inhabitants() == []


@pytest.mark.parametrize(
    ("runtime", "name"),
    [
        ("io.containerd.runc.v2", "containerd-shim-runc-v2"),
        ("io.containerd.cutaway.v1", "containerd-shim-cutaway-v1"),
        ("a.b", "containerd-shim-a-b"),
    ],
)
def test_binary_name(runtime: str, name: str) -> None:
    assert runtimes.binary_name(runtime) == name


def test_shim_is_found_on_the_path_then_beside_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("path", "own"):
        (tmp_path / folder).mkdir()
        program = tmp_path / folder / "containerd-shim-x-v1"
        program.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr("sys.argv", [str(tmp_path / "own/cutaway-containerd")])
    assert runtimes.resolve("io.containerd.x.v1") == str(tmp_path / "path/containerd-shim-x-v1")
    (tmp_path / "path/containerd-shim-x-v1").unlink()
    assert runtimes.resolve("io.containerd.x.v1") == str(tmp_path / "own/containerd-shim-x-v1")


@pytest.mark.parametrize("runtime", ["", "x", "../../bin/sh.v1", "io.containerd.nosuch.v1", "/nosuch"])
def test_runtime_without_a_shim(runtime: str) -> None:
    with pytest.raises(Unknown, match="failed to start shim: failed to resolve runtime path: "):
        runtimes.resolve(runtime)


@pytest.mark.parametrize(
    ("spec", "group"),
    [
        ({}, 0),
        ({"ociVersion": "1.0.2", "linux": {"gidMappings": []}}, 0),
        (
            {
                "ociVersion": "1.0.2",
                "linux": {"gidMappings": [{"containerID": 0, "hostID": 1000, "size": 9}]},
            },
            1000,
        ),
        (
            {
                "ociVersion": "1.0.2",
                "linux": {"gidMappings": [{"containerID": 5, "hostID": 1000, "size": 9}]},
            },
            0,
        ),
        ({"linux": {"gidMappings": "many"}}, 0),
    ],
)
def test_group_of_a_containers_root(spec: dict[str, object], group: int) -> None:
    assert usermap.root_group(json.dumps(spec).encode()) == group


@given(st.binary(max_size=100))
def test_no_spec_breaks_the_search_for_a_group(rubbish: bytes) -> None:
    assert usermap.root_group(b'{"linux":{"gidMappings":' + rubbish) == 0
