"""An ordinary user's containers on cgroup v2: in a subtree that is delegated, and without one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cutaway.linux.cgroups.v2 import ManagerV2
from runc.bundles import Bundle, Runtime, cgroups_named

ID = 1234
MIB = 1 << 20

# Enter a cgroup, become the user, execute the rest.
AS_USER = f"""
import os, sys
open(sys.argv[1], "w").write("0")
os.setgroups([])
os.setresgid({ID}, {ID}, {ID})
os.setresuid({ID}, {ID}, {ID})
os.execv(sys.argv[2], sys.argv[2:])
"""


def of_user(runtime: Runtime, cgroup: str) -> Runtime:
    os.chown(runtime.root, ID, ID)
    runtime.prefix = [sys.executable, "-c", AS_USER, f"{cgroup}/cgroup.procs"]
    return runtime


def for_user(bundle: Bundle) -> Bundle:
    """One id mapped, the root its own, the host's network and so no sysfs."""
    os.chown(bundle.rootfs, ID, ID)
    mounts = bundle.config["mounts"]
    bundle.config["mounts"] = [mount for mount in mounts if mount["type"] != "sysfs"]
    for mount in mounts:
        mount["options"] = [each for each in mount.get("options", []) if not each.startswith("gid=")]
    namespaces = [entry for entry in bundle.linux["namespaces"] if entry["type"] != "network"]
    bundle.linux["namespaces"] = [*namespaces, {"type": "user"}, {"type": "cgroup"}]
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": ID, "size": 1}]
    return bundle


@pytest.fixture
def session(parent: ManagerV2) -> str:
    """A user's cgroup as systemd makes it: with a session in it, and the right to make others beside that."""
    inner = ManagerV2(f"{parent.path}/session")
    inner.create()
    for manager in (parent, inner):
        manager.delegate(ID)
    return inner.path


def test_a_delegated_subtree_is_used(
    session: str, parent: ManagerV2, runtime: Runtime, bundle: Bundle, name: str
) -> None:
    of_user(runtime, session)
    for_user(bundle).linux["resources"] = {"pids": {"limit": 20}, "memory": {"limit": 64 * MIB}}
    bundle.process["args"] = ["sleep", "1000"]
    result = runtime.detached("run", "--detach", "--bundle", bundle, name)
    assert (result.code, result.err) == (0, "")
    cgroup = Path(parent.path, name)
    pid = runtime.state(name)["pid"]
    assert (cgroup / "cgroup.procs").read_text() == f"{pid}\n"
    assert (cgroup / "pids.max").read_text() == "20\n"
    assert (cgroup / "memory.max").read_text() == f"{64 * MIB}\n"
    assert runtime("exec", name, "cat", "/proc/self/cgroup").out == "0::/\n"
    assert runtime("pause", name).code == 0
    assert runtime.status(name) == "paused"
    assert runtime("resume", name).code == 0
    assert runtime("delete", "--force", name).code == 0
    assert cgroups_named(name) == []


def test_without_permission_there_is_no_cgroup_and_no_limit(
    runtime: Runtime, bundle: Bundle, name: str, parent: ManagerV2
) -> None:
    inner = ManagerV2(f"{parent.path}/session")
    inner.create()
    of_user(runtime, inner.path)
    result = runtime("run", "--bundle", for_user(bundle).shell("id; cat /proc/self/cgroup"), name)
    assert (result.code, result.out) == (0, "uid=0 gid=0\n0::/\n"), result.err
    bundle.linux["resources"] = {"pids": {"limit": 20}}
    result = runtime("run", "--bundle", bundle, name)
    assert result.code == 1
    assert (
        "rootless needs no limits + no cgrouppath when no permission is granted for cgroups" in result.error
    )
