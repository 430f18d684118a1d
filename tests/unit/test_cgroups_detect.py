"""Recognising a machine's cgroup layout, and where a configuration's path leads in it."""

from __future__ import annotations

import pytest

from cutaway.errors import FailedPrecondition
from cutaway.linux.cgroups import detect

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
LEGACY = "32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def test_unified() -> None:
    layout = detect.parse(V2)
    assert layout.mode == detect.UNIFIED
    assert layout.mounts == {"": "/sys/fs/cgroup"}


def test_hybrid() -> None:
    layout = detect.parse(HYBRID)
    assert layout.mode == detect.HYBRID
    assert layout.mounts["cpu"] == layout.mounts["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"
    assert layout.mounts["name=systemd"] == "/sys/fs/cgroup/systemd"
    assert "xattr" not in layout.mounts


def test_legacy() -> None:
    assert detect.parse(LEGACY).mode == detect.LEGACY


def test_a_second_mount_elsewhere_does_not_win() -> None:
    elsewhere = "50 23 0:26 / /mnt/cg rw - cgroup2 cgroup2 rw\n"
    assert detect.parse(elsewhere + V2).mounts[""] == "/sys/fs/cgroup"
    assert detect.parse(V2 + elsewhere).mounts[""] == "/sys/fs/cgroup"


def test_without_cgroups_the_error_says_what_to_do() -> None:
    with pytest.raises(FailedPrecondition, match="mount -t cgroup2"):
        detect.parse("31 23 0:28 / /tmp rw - tmpfs tmpfs rw\n")


def test_inside_a_container_paths_count_from_what_is_mounted() -> None:
    layout = detect.parse("30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    assert detect.below(layout, "", "/docker/abc/inner") == "/sys/fs/cgroup/inner"
    assert detect.below(layout, "", "/docker/abcd") == "/sys/fs/cgroup/docker/abcd"


@pytest.mark.parametrize(
    ("path", "inner"),
    [
        (None, "id"),
        ("", "id"),
        ("/docker/x", "/docker/x"),
        ("docker/x", "docker/x"),
        ("/../../etc", "/etc"),
        ("../../etc", "etc"),
        ("/a/../../b", "/b"),
    ],
)
def test_no_path_leads_out_of_the_hierarchy(path: str | None, inner: str) -> None:
    assert detect.inner_path(path, "id") == inner
