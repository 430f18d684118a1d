"""Containers on cgroup v2, run by ours and by the real runc."""

from __future__ import annotations

import json

from runc.bundles import Bundle, Runtime, cgroups_named
from support.process import wait_until

MIB = 1 << 20

READ_LIMITS = "cd /sys/fs/cgroup && cat memory.max memory.swap.max cpu.max cpu.weight pids.max cpuset.cpus"


def with_cgroup(bundle: Bundle, name: str) -> Bundle:
    """The configuration that docker has on v2: a cgroup namespace, and the container's cgroup read-only."""
    bundle.linux["cgroupsPath"] = f"/cw-test/{name}"
    bundle.namespace("cgroup")
    return bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro")


def test_a_container_sees_its_own_limits(runtime: Runtime, bundle: Bundle, name: str) -> None:
    with_cgroup(bundle, name).shell(f"{READ_LIMITS} && cat /proc/self/cgroup && touch x")
    bundle.linux["resources"] = {
        "memory": {"limit": 64 * MIB, "swap": 64 * MIB},
        "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000, "cpus": "0"},
        "pids": {"limit": 30},
    }
    result = runtime("run", "--bundle", bundle, name)
    weight = "100" if runtime.ours else "39"  # runc 1.1's line, where later ones have a curve
    assert result.out.split("\n") == [str(64 * MIB), "0", "50000 100000", weight, "30", "0", "0::/", ""]
    assert "Read-only file system" in result.err
    assert cgroups_named(name) == []


def test_without_a_cgroup_namespace_too(runtime: Runtime, bundle: Bundle, name: str) -> None:
    with_cgroup(bundle, name).shell("cat /proc/self/cgroup; ls /sys/fs/cgroup")
    bundle.linux["namespaces"] = [n for n in bundle.linux["namespaces"] if n["type"] != "cgroup"]
    result = runtime("run", "--bundle", bundle, name)
    assert (result.code, result.out.splitlines()[0]) == (0, f"0::/cw-test/{name}")
    assert "cgroup.procs" in result.out.split()


def test_exec_pause_update_events_delete(runtime: Runtime, bundle: Bundle, name: str) -> None:
    with_cgroup(bundle, name).shell("sleep 1000")
    assert runtime.detached("run", "--detach", "--bundle", bundle, name).code == 0
    (cgroup,) = cgroups_named(name)
    executed = runtime("exec", name, "cat", "/proc/self/cgroup")
    assert (executed.code, executed.out) == (0, "0::/\n")

    assert runtime("pause", name).code == 0
    assert "frozen 1" in (cgroup / "cgroup.events").read_text()
    assert runtime.status(name) == "paused"
    assert runtime("resume", name).code == 0
    assert runtime.status(name) == "running"

    assert runtime("update", "--memory", str(128 * MIB), "--pids-limit", "55", name).code == 0
    assert (cgroup / "memory.max").read_text() == f"{128 * MIB}\n"
    assert (cgroup / "pids.max").read_text() == "55\n"

    stats = json.loads(runtime("events", "--stats", name).out)
    assert stats["data"]["pids"] == {"current": 1, "limit": 55}
    assert stats["data"]["memory"]["usage"]["limit"] == 128 * MIB
    assert stats["data"]["cpu"]["usage"]["total"] > 0

    assert runtime("kill", "--all", name, "KILL").code == 0
    runtime.wait_for(name, "stopped")
    assert runtime("delete", name).code == 0
    assert cgroups_named(name) == []


def test_stats_have_the_same_form_as_the_reference(runtime: Runtime, bundle: Bundle, name: str) -> None:
    with_cgroup(bundle, name).shell("sleep 1000")
    assert runtime.detached("run", "--detach", "--bundle", bundle, name).code == 0
    data = json.loads(runtime("events", "--stats", name).out)["data"]
    assert {"cpu", "cpuset", "memory", "pids", "blkio", "hugetlb"} <= set(data)
    assert set(data["memory"]) >= {"usage", "swap", "kernel", "kernelTCP", "raw"}
    assert data["memory"]["swap"]["usage"] >= data["memory"]["usage"]["usage"]
    assert data["memory"]["raw"]["anon"] > 0


def test_exec_follows_an_init_that_has_moved_down(runtime: Runtime, bundle: Bundle, name: str) -> None:
    """As systemd does in a container; its first cgroup then takes no processes."""
    with_cgroup(bundle, name).shell(
        "cd /sys/fs/cgroup && mkdir init && echo $$ >init/cgroup.procs && echo +pids >cgroup.subtree_control"
        " && echo moved && exec sleep 1000"
    )
    bundle.config["mounts"][-1]["options"].remove("ro")
    assert runtime.detached("run", "--detach", "--bundle", bundle, name).code == 0
    (cgroup,) = cgroups_named(name)
    wait_until(lambda: "pids" in (cgroup / "cgroup.subtree_control").read_text(), "the init has moved")
    executed = runtime("exec", name, "cat", "/proc/self/cgroup")
    assert (executed.code, executed.out) == (0, "0::/init\n"), executed.err
    assert runtime("delete", "--force", name).code == 0
    assert cgroups_named(name) == []


def test_a_limit_that_kills_is_told(ours: Runtime, bundle: Bundle, name: str) -> None:
    with_cgroup(bundle, name).shell("tail /dev/zero; echo $?; cat /sys/fs/cgroup/memory.events")
    bundle.linux["resources"] = {"memory": {"limit": 16 * MIB, "swap": 16 * MIB}}
    result = ours("run", "--bundle", bundle, name)
    assert result.out.split()[0] == "137", result.err
    assert "oom_kill 1" in result.out


def test_devices_of_a_container(runtime: Runtime, bundle: Bundle, name: str) -> None:
    """The node is there, the right to make it is there, the right to open it is not."""
    with_cgroup(bundle, name).shell(
        "head -c 1 /dev/zero | wc -c; for node in kmsg disk; do head -c 1 /dev/$node || echo refused; done"
    )
    bundle.linux["devices"] = [
        {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666},
        {"path": "/dev/disk", "type": "b", "major": 7, "minor": 0, "fileMode": 0o666},
    ]
    bundle.linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    result = runtime("run", "--bundle", bundle, name)
    assert result.out.split() == ["1", "refused", "refused"]
    assert result.err.count("Operation not permitted") == 2
