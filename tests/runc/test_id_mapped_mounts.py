"""Id-mapped mounts: runtime-spec's `idmap`, `ridmap` and mappings of single mounts, as runc 1.2 has them.

The reference here, runc 1.1.5, has none: ours alone.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runc.bundles import Bundle, Runtime
from runc.test_namespaces import map_ids

pytestmark = [pytest.mark.root, pytest.mark.peers]

OVERFLOW = "65534:65534"


def mapping(inside: int, outside: int, size: int) -> list[dict[str, int]]:
    return [{"containerID": inside, "hostID": outside, "size": size}]


def out(runtime: Runtime, bundle: Bundle, name: str) -> str:
    result = runtime("run", "--bundle", bundle, name)
    assert (result.code, result.err) == (0, "")
    return result.out


def owned(path: Path, uid: int, gid: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.chown(path, uid, gid)
    return path


@pytest.fixture
def volume(place: Path) -> Path:
    """A directory whose files belong to 100:200 and to root."""
    place.chmod(0o711)
    owned(place / "volume/user", 100, 200)
    owned(place / "volume/root", 0, 0)
    return place / "volume"


def bind(bundle: Bundle, source: Path, *options: str, **maps: Any) -> Bundle:
    """Mount it at /mnt, with `uidMappings` and `gidMappings` of its own."""
    bundle.mount("/mnt", "none", os.fspath(source), *options)
    bundle.config["mounts"][-1].update(maps)
    return bundle.shell("stat -c %n=%u:%g /mnt/*")


def test_maps_of_a_mount(ours: Runtime, bundle: Bundle, name: str, volume: Path) -> None:
    """Without a user namespace too: what the map has not gets the overflow ids."""
    maps = {"uidMappings": mapping(100, 1000, 10), "gidMappings": mapping(190, 2000, 20)}
    found = out(ours, bind(bundle, volume, "bind", **maps), name)
    assert found.split() == [f"/mnt/root={OVERFLOW}", "/mnt/user=1000:2010"]


def test_what_is_written_belongs_to_whom_the_map_says(
    ours: Runtime, bundle: Bundle, name: str, volume: Path
) -> None:
    maps = {"uidMappings": mapping(300, 0, 1), "gidMappings": mapping(400, 0, 1)}
    os.chown(volume, 300, 400)  # the kernel lets nobody write to what belongs to nobody
    out(ours, bind(bundle, volume, "rbind", **maps).shell("echo x > /mnt/new"), name)
    found = (volume / "new").stat()
    assert (found.st_uid, found.st_gid) == (300, 400)


def test_the_map_is_the_containers_when_none_is_given(
    ours: Runtime, bundle: Bundle, name: str, volume: Path
) -> None:
    found = out(ours, bind(map_ids(bundle), volume, "bind", "idmap"), name)
    assert found.split() == ["/mnt/root=0:0", "/mnt/user=100:200"]


def test_a_map_of_its_own_in_a_user_namespace(ours: Runtime, bundle: Bundle, name: str, volume: Path) -> None:
    maps = {"uidMappings": mapping(100, 200005, 1), "gidMappings": mapping(200, 200006, 1)}
    found = out(ours, bind(map_ids(bundle), volume, "bind", **maps), name)
    assert found.split() == [f"/mnt/root={OVERFLOW}", "/mnt/user=5:6"]


def test_the_map_of_a_user_namespace_that_is_joined(
    ours: Runtime, bundle: Bundle, name: str, volume: Path, place: Path
) -> None:
    other = map_ids(Bundle(place / "other"))
    other.process["args"] = ["sleep", "1000"]
    assert ours.detached("run", "--detach", "--bundle", other, f"{name}-other").code == 0
    os.chown(bundle.rootfs, 200000, 200000)
    bundle.namespace("user", f"/proc/{ours.state(f'{name}-other')['pid']}/ns/user")
    found = out(ours, bind(bundle, volume, "bind", "idmap"), name)
    assert found.split() == ["/mnt/root=0:0", "/mnt/user=100:200"]


def test_a_source_in_the_root_itself(ours: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    """Which the runtime must map: init is root in a user namespace, and the root's file system is not its."""
    owned(map_ids(bundle).rootfs / "inner/user", 100, 200)
    found = out(ours, bind(bundle, bundle.rootfs / "inner", "bind", "idmap"), name)
    assert found.split() == ["/mnt/user=100:200"]


@pytest.mark.parametrize("covered", ["/inner", "/inner/below", "/"])
def test_a_source_in_the_root_that_is_covered(
    ours: Runtime, bundle: Bundle, name: str, volume: Path, covered: str
) -> None:
    """The runtime does not see what init has mounted: better no mount than another's files."""
    (map_ids(bundle).rootfs / "inner/below").mkdir(parents=True)
    source = bundle.rootfs / ("inner" if covered != "/" else "")
    bundle.mount(covered if covered != "/" else "/inner", "none", os.fspath(volume), "bind")
    result = ours("run", "--bundle", bind(bundle, source, "bind", "idmap"), name)
    assert result.code == 1
    assert "of the root itself, and a mount on" in result.error
    assert not os.listdir(ours.root)


@pytest.fixture
def tree(volume: Path) -> Iterator[Path]:
    """The volume, with a mount in it whose file belongs to 100:200 as well."""
    (volume / "zub").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "cw-test", volume / "zub"], check=True)
    try:
        owned(volume / "zub/user", 100, 200)
        yield volume
    finally:
        subprocess.run(["umount", volume / "zub"], check=True)


@pytest.mark.parametrize(("option", "below"), [("idmap", "100:200"), ("ridmap", "1000:2000")])
def test_only_ridmap_maps_what_is_mounted_below(
    ours: Runtime, bundle: Bundle, name: str, tree: Path, option: str, below: str
) -> None:
    maps = {"uidMappings": mapping(100, 1000, 1), "gidMappings": mapping(200, 2000, 1)}
    bind(bundle, tree, "rbind", option, **maps).shell("stat -c %u:%g /mnt/user /mnt/zub/user")
    assert out(ours, bundle, name).split() == ["1000:2000", below]


def test_it_goes_with_the_other_options(ours: Runtime, bundle: Bundle, name: str, volume: Path) -> None:
    maps = {"uidMappings": mapping(100, 1000, 1), "gidMappings": mapping(200, 2000, 1)}
    bind(bundle, volume, "rbind", "ridmap", "ro", "noexec", "shared", **maps)
    line = out(ours, bundle.shell("stat -c %u:%g /mnt/user; grep ' /mnt ' /proc/self/mountinfo"), name)
    assert line.startswith("1000:2000\n")
    assert "ro,noexec,relatime,idmapped shared:" in line


@pytest.mark.parametrize(
    ("kind", "options", "maps", "why"),
    [
        (
            "tmpfs",
            ["idmap"],
            {"uidMappings": mapping(0, 1, 1), "gidMappings": mapping(0, 1, 1)},
            "id-mapped mounts are only supported for bind-mounts",
        ),
        ("none", ["bind", "idmap"], {}, "id-mapped mounts must have both uid and gid mappings specified"),
        (
            "none",
            ["bind"],
            {"uidMappings": mapping(0, 1, 1)},
            "id-mapped mounts must have both uid and gid mappings specified",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    ours: Runtime,
    bundle: Bundle,
    name: str,
    volume: Path,
    kind: str,
    options: list[str],
    maps: dict[str, Any],
    why: str,
) -> None:
    bundle.mount("/mnt", kind, os.fspath(volume), *options)
    bundle.config["mounts"][-1].update(maps)
    result = ours("run", "--bundle", bundle, name)
    assert result.error == f"runc run failed: invalid mount mounts[4] (/mnt): {why}"


def test_a_file_system_that_cannot_is_named(ours: Runtime, bundle: Bundle, name: str) -> None:
    maps = {"uidMappings": mapping(0, 1, 1), "gidMappings": mapping(0, 1, 1)}
    result = ours("run", "--bundle", bind(bundle, Path("/proc/sys"), "bind", **maps), name)
    assert result.code == 1
    assert (
        "failed to set MOUNT_ATTR_IDMAP on /proc/sys: invalid argument "
        "(maybe the filesystem used doesn't support idmap mounts on this kernel?)"
    ) in result.error


def test_a_map_that_the_kernel_refuses_is_an_error(
    ours: Runtime, bundle: Bundle, name: str, volume: Path
) -> None:
    overlapping = mapping(0, 100, 10) + mapping(5, 300, 10)
    maps = {"uidMappings": overlapping, "gidMappings": overlapping}
    result = ours("run", "--bundle", bind(bundle, volume, "bind", **maps), name)
    assert f"failed to create userns for {volume} id-mapping: write /proc/" in result.error
    assert "invalid argument" in result.error
    assert not os.path.exists(ours.root / name)
