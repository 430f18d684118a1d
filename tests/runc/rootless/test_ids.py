"""Whose ids a user's container has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runc.bundles import Bundle, Runtime, cgroups_named
from runc.rootless.parts import (
    RANGES,
    SHOW_MAPS,
    SINGLE,
    map_ranges,
    out,
    sleeping,
)
from runc.rootless.users import COUNT, ID, SUBORDINATE, User

pytestmark = [pytest.mark.root, pytest.mark.peers]


def test_one_id_needs_no_helper(user: User, runtime: Runtime, bundle: Bundle, name: str) -> None:
    runtime.prefix = user.prefix(PATH="/usr/bin:/bin")
    assert out(runtime, bundle.shell(SHOW_MAPS), name).split() == SINGLE
    assert cgroups_named(name) == []


def test_ranges_are_mapped_by_the_helpers(runtime: Runtime, bundle: Bundle, name: str) -> None:
    map_ranges(bundle).process["user"] = {"uid": 7, "gid": 8}
    found = out(
        runtime, bundle.shell(f"{SHOW_MAPS}; touch /dev/shm/x; stat -c %u:%g /dev/shm/x"), name
    ).split()
    ranges = ["0", str(ID), "1", "1", str(SUBORDINATE), str(COUNT)]
    assert found == ["uid=7", "gid=8", *ranges, *ranges, "allow", "7:8"]


def test_root_may_be_a_subordinate_id(ours: Runtime, bundle: Bundle, name: str) -> None:
    maps = [{"containerID": 0, "hostID": SUBORDINATE, "size": COUNT}]
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = maps
    os.chown(bundle.rootfs, SUBORDINATE, SUBORDINATE)
    sleeping(ours, bundle, name)
    assert ours("exec", name, "cat", "/proc/self/uid_map").out.split() == ["0", str(SUBORDINATE), str(COUNT)]
    assert Path(f"/proc/{ours.state(name)['pid']}").stat().st_uid == SUBORDINATE


def test_without_helpers_ranges_are_refused(user: User, ours: Runtime, bundle: Bundle, name: str) -> None:
    ours.prefix = user.prefix(PATH="/usr/bin:/bin")
    result = ours("run", "--bundle", map_ranges(bundle), name)
    assert result.error.startswith(
        "runc run failed: unable to start container process: "
        "mapping tool not present: newuidmap is not in $PATH"
    )
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_ids_that_are_not_the_users_are_refused(ours: Runtime, bundle: Bundle, name: str, kind: str) -> None:
    others = [RANGES[0], {"containerID": 1, "hostID": 300_000, "size": 10}]
    map_ranges(bundle).linux[f"{kind}Mappings"] = others
    result = ours("run", "--bundle", bundle, name)
    assert result.error == (
        "runc run failed: unable to start container process: "
        f"failed to use new{kind}map (see /etc/sub{kind}): {kind} range [1-11) -> [300000-300010) not allowed"
    )
    assert result.err.count("\n") == 1


def test_maps_that_the_kernel_refuses_are_an_error(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["uidMappings"] = [RANGES[0], RANGES[0]]
    result = ours("run", "--bundle", bundle, name)
    assert result.error.endswith("/uid_map: invalid argument")
