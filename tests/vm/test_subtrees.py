"""A container's cgroup on v2: below a threaded one, given to the container's root, set file by file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cutaway.linux.cgroups.v2 import ManagerV2
from runc.bundles import Bundle, Runtime, cgroups_named
from vm.test_runtime import MIB, with_cgroup

ID = 4321
DELEGATED = Path("/sys/kernel/cgroup/delegate")


@pytest.fixture
def threaded(parent: ManagerV2) -> str:
    """A threaded cgroup, as a configuration names it."""
    top = Path(parent.path, "top/threaded")
    top.mkdir(parents=True)
    (top / "cgroup.type").write_text("threaded")
    return str(top).removeprefix(parent.root)


def test_a_domain_below_a_threaded_cgroup_is_refused(
    runtime: Runtime, bundle: Bundle, name: str, threaded: str
) -> None:
    """There only processes and CPUs can be limited: memory and io belong to whole domains."""
    bundle.linux["cgroupsPath"] = f"{threaded}/{name}"
    bundle.linux["resources"] = {"memory": {"limit": 64 * MIB}}
    result = runtime("run", "--bundle", bundle, name)
    assert result.code == 1
    assert "cannot enter cgroupv2" in result.error
    assert "with domain controllers -- it is in" in result.error
    assert cgroups_named(name) == []


def test_a_container_below_a_threaded_cgroup(
    runtime: Runtime, bundle: Bundle, name: str, threaded: str
) -> None:
    bundle.linux["cgroupsPath"] = f"{threaded}/{name}"
    bundle.linux["resources"] = {"pids": {"limit": 20}}
    result = runtime("run", "--bundle", bundle.shell("cat /proc/self/cgroup"), name)
    assert (result.code, result.out) == (0, f"0::{threaded}/{name}\n"), result.err


def test_the_cgroup_is_the_containers_own(ours: Runtime, bundle: Bundle, name: str) -> None:
    """Mounted to be written to, in a user namespace: root there may make cgroups, and not lift its limits.

    The specification asks for it; runc does it with systemd's driver alone.
    """
    with_cgroup(bundle, name).shell("sleep 1000")
    bundle.config["mounts"][-1]["options"].remove("ro")
    bundle.namespace("user")
    ids = [{"containerID": 0, "hostID": ID, "size": 1000}]
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = ids
    bundle.linux["resources"] = {"memory": {"limit": 64 * MIB}}
    os.chown(bundle.rootfs, ID, ID)
    result = ours.detached("run", "--detach", "--bundle", bundle, name)
    assert result.code == 0, result.err
    (cgroup,) = cgroups_named(name)
    given = [file for each in DELEGATED.read_text().split() if (file := cgroup / each).exists()]
    assert len(given) >= 3
    assert {path.stat().st_uid for path in (cgroup, *given)} == {ID}
    assert (cgroup / "memory.max").stat().st_uid == 0
    script = "cd /sys/fs/cgroup && mkdir below && echo $$ >below/cgroup.procs && cat /proc/self/cgroup"
    inside = ours("exec", name, "sh", "-c", f"{script}; echo max >memory.max || echo refused")
    assert inside.out == "0::/below\nrefused\n", inside.err
    assert ours("delete", "--force", name).code == 0
    assert cgroups_named(name) == []


def test_files_of_the_controllers_as_they_are(runtime: Runtime, bundle: Bundle, name: str) -> None:
    """`unified`: any file of the cgroup by its name; what no controller has is refused with its name."""
    with_cgroup(bundle, name).shell("cd /sys/fs/cgroup && cat memory.high pids.max cpu.weight")
    bundle.linux["resources"] = {
        "unified": {"memory.high": str(48 * MIB), "pids.max": "21", "cpu.weight": "77"}
    }
    result = runtime("run", "--bundle", bundle, name)
    assert (result.code, result.out.split()) == (0, [str(48 * MIB), "21", "77"]), result.err
    bundle.linux["resources"] = {"unified": {"cake.max": "1"}}
    result = runtime("run", "--bundle", bundle, name)
    assert result.code == 1
    assert 'unified resource "cake.max" can\'t be set: controller "cake" not available' in result.error
    assert cgroups_named(name) == []
