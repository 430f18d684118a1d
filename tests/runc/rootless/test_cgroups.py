"""Cgroups that a user has, and those that are missing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runc.bundles import CONTROLLERS, Bundle, Config, Runtime, cgroups_named
from runc.rootless.parts import (
    IN_INIT,
    map_ranges,
    out,
    sleeping,
)
from runc.rootless.users import ID
from support.leftovers import remove_cgroups

pytestmark = [pytest.mark.root, pytest.mark.peers]


LIMITS: dict[str, tuple[Config, str]] = {
    "pids": ({"pids": {"limit": 20}}, "pids"),
    "memory": ({"memory": {"limit": 32 << 20}}, "memory"),
    "cpu": ({"cpu": {"shares": 200}}, "cpu"),
    "cpuset": ({"cpu": {"cpus": "0"}}, "cpuset"),
    "blkio": ({"blockIO": {"weight": 100}}, "blkio"),
    "hugetlb": ({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}, "hugetlb"),
    "net_cls": ({"network": {"classID": 0x100001}}, "net_cls"),
    "net_prio": ({"network": {"priorities": [{"name": "lo", "priority": 1}]}}, "net_prio"),
    "rdma": ({"rdma": {"mlx": {"hcaHandles": 1}}}, "rdma"),
}


@pytest.fixture
def cgroup_v1() -> None:
    if not (CONTROLLERS / "pids").is_dir():
        pytest.skip("needs cgroup v1")


@pytest.mark.usefixtures("cgroup_v1")
@pytest.mark.parametrize("case", LIMITS)
def test_a_limit_without_a_cgroup_is_refused(runtime: Runtime, bundle: Bundle, name: str, case: str) -> None:
    resources, controller = LIMITS[case]
    bundle.linux["resources"] = resources
    result = runtime("run", "--bundle", bundle, name)
    assert (result.code, result.error) == (
        1,
        f"runc run failed: {IN_INIT}error setting cgroup config for procHooks process: "
        f"cannot set {controller} limit: container could not join or create cgroup",
    )


def test_device_rules_without_a_cgroup_are_passed_over(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    out(runtime, bundle, name)


@pytest.mark.usefixtures("cgroup_v1")
def test_a_cgroup_that_cannot_be_made_is_an_error(runtime: Runtime, bundle: Bundle, name: str) -> None:
    why = "runc run failed: unable to start container process: unable to apply cgroup configuration: mkdir "
    result = runtime("run", "--bundle", bundle, name, options=["--rootless=false"])
    assert result.error.startswith(f"{why}{CONTROLLERS}/")
    assert result.error.endswith(f"/{name}: permission denied")
    bundle.linux["cgroupsPath"] = f"/{name}/inner"
    result = runtime("run", "--bundle", bundle, name)
    assert result.error.startswith(f"{why}{CONTROLLERS}/")
    assert result.error.endswith(f"/{name}: permission denied")


def test_rootless_takes_a_truth_value_or_auto(runtime: Runtime, bundle: Bundle, name: str) -> None:
    for value in ("auto", "true", "1"):
        assert runtime("run", "--bundle", bundle, name, options=["--rootless", value]).code == 0
    result = runtime("run", "--bundle", bundle, name, options=["--rootless", "perhaps"])
    assert result.error == 'runc run failed: strconv.ParseBool: parsing "perhaps": invalid syntax'


@pytest.mark.usefixtures("cgroup_v1")
def test_commands_on_a_container_without_cgroup(runtime: Runtime, bundle: Bundle, name: str) -> None:
    sleeping(runtime, bundle, name)
    may_fail = "may fail if you don't have the full access to cgroups"
    for words, message in (
        (["ps", name], "unable to get all container pids: lstat : no such file or directory"),
        (["pause", name], "cannot toggle freezer: cgroups not configured for container"),
        (["resume", name], "container not paused"),
    ):
        result = runtime(*words)
        assert (result.code, result.error) == (1, message)
        assert f"runc {words[0]} {may_fail}" in result.err
    result = runtime("update", "--pids-limit", "10", name)
    assert (result.code, result.error) == (
        1,
        "cannot set pids limit: container could not join or create cgroup",
    )
    data = json.loads(runtime("events", "--stats", name).out)["data"]
    assert data["memory"]["usage"] == {"limit": 0, "failcnt": 0}
    assert data["pids"] == {}
    assert runtime("kill", "--all", name, "USR1").code == 1
    assert runtime.status(name) == "running"
    assert runtime("delete", "--force", name).code == 0


def test_kill_all_without_a_cgroup_ends_them(ours: Runtime, bundle: Bundle, name: str) -> None:
    sleeping(ours, bundle, name)
    assert ours("kill", "--all", name, "KILL").code == 0
    ours.wait_for(name, "stopped")


@pytest.fixture
def delegated(name: str) -> Iterator[str]:
    """A path that is the user's in every v1 hierarchy, and in the v2 one beside them."""
    folder = f"{name}-user"
    for hierarchy in CONTROLLERS.iterdir():
        directory = hierarchy / folder
        directory.mkdir()
        for path in (directory, directory / "cgroup.procs", directory / "tasks"):
            if path.exists():
                os.chown(path, ID, ID)
    for file in ("cpuset.cpus", "cpuset.mems"):
        (CONTROLLERS / "cpuset" / folder / file).write_text((CONTROLLERS / "cpuset" / file).read_text())
    yield f"/{folder}/{name}"
    remove_cgroups(folder)


@pytest.mark.usefixtures("cgroup_v1")
@pytest.mark.parametrize("ranges", [False, True])
def test_cgroups_of_the_users_own_are_used(
    runtime: Runtime, bundle: Bundle, name: str, delegated: str, ranges: bool
) -> None:
    if ranges:
        map_ranges(bundle).process["user"] = {"uid": 7, "gid": 7}
    bundle.linux["cgroupsPath"] = delegated
    bundle.linux["resources"] = {"pids": {"limit": 20}, "memory": {"limit": 64 << 20}}
    sleeping(runtime, bundle, name)
    pid = runtime.state(name)["pid"]
    assert f":pids:{delegated}\n" in Path(f"/proc/{pid}/cgroup").read_text()
    assert (CONTROLLERS / f"pids{delegated}/pids.max").read_text() == "20\n"
    assert (CONTROLLERS / f"memory{delegated}/memory.limit_in_bytes").read_text() == f"{64 << 20}\n"
    assert json.loads(runtime("ps", "--format", "json", name).out) == [pid]
    if runtime.ours or not ranges:  # the reference leaves the other id in its own cgroup, and says nothing
        assert f":pids:{delegated}\n" in runtime("exec", name, "cat", "/proc/self/cgroup").out
    assert runtime("pause", name).code == 0
    assert runtime.status(name) == "paused"
    assert runtime("resume", name).code == 0
    assert runtime("update", "--pids-limit", "30", name).code == 0
    assert (CONTROLLERS / f"pids{delegated}/pids.max").read_text() == "30\n"
    assert runtime("delete", "--force", name).code == 0
    assert cgroups_named(name) == []
