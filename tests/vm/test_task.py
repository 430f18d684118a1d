"""A task on our shim and runtime on cgroup v2, below the real containerd and below ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from containerd.task_rig import Rig, beside, fields_of, runtime_options
from cutaway.pb import cgroups_v2_pb2
from runc.bundles import cgroups_named
from support.peers import VENV_BIN
from support.stack import OurContainerd, RealContainerd

pytestmark = pytest.mark.peers

MIB = 1 << 20
HOG = "/bin/busybox tail /dev/zero"


@pytest.fixture(scope="module", params=[RealContainerd, OurContainerd])
def on(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A rig whose tasks have our shim."""
    with beside(request.param, path_prefix=[VENV_BIN]) as made:
        made.runtime = "io.containerd.cutaway.v1"
        yield made


def test_ctr_runs_a_container(on: Rig, name: str) -> None:
    options = ["--rm", "--runtime", on.runtime, "--memory-limit", str(16 * MIB), "--rootfs", str(on.rootfs)]
    command = ["/bin/sh", "-c", "cat /proc/self/cgroup; exit 3"]
    done = on.daemon.ctr("run", *options, name, *command, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("0::/")
    assert cgroups_named(name) == []


def start(on: Rig, name: str, *args: str) -> int:
    spec: dict[str, Any] = on.spec(name, args)
    spec["linux"]["resources"]["memory"] = {"limit": 16 * MIB, "swap": 16 * MIB}
    spec["linux"]["resources"]["pids"] = {"limit": 20}
    return on.running(name, spec=spec, options=runtime_options(VENV_BIN / "cutaway-runc"))


def test_metrics_are_those_of_v2(on: Rig, name: str) -> None:
    start(on, name, "sleep", "1000")
    (metric,) = on.tasks("Metrics", filters=[f"id=={name}"]).metrics
    assert metric.data.type_url == "io.containerd.cgroups.v2.Metrics"
    found = cgroups_v2_pb2.Metrics.FromString(metric.data.value)
    assert (found.pids.current, found.pids.limit) == (1, 20)
    assert 0 < found.memory.usage < found.memory.usage_limit == 16 * MIB
    assert found.memory.anon > 0
    assert found.cpu.usage_usec > 0
    assert on.end(name) == 137
    assert cgroups_named(name) == []


def test_pause_and_update(on: Rig, name: str) -> None:
    start(on, name, "sleep", "1000")
    (cgroup,) = cgroups_named(name)
    on.tasks("Pause", container_id=name)
    assert "frozen 1" in (cgroup / "cgroup.events").read_text()
    on.tasks("Resume", container_id=name)
    assert "frozen 0" in (cgroup / "cgroup.events").read_text()
    assert (cgroup / "memory.max").read_text() == f"{16 * MIB}\n"
    assert on.end(name) == 137


@pytest.mark.parametrize("script", [f"{HOG}; sleep 1000", f"exec {HOG}"], ids=["child", "init"])
def test_a_kill_for_memory_is_told(on: Rig, name: str, script: str) -> None:
    with on.events('topic~="/tasks/"') as events:
        start(on, name, "sh", "-c", script)
        if script.startswith("exec"):
            seen = events.until("/tasks/exit")
            # Who comes first is open, as in containerd's own shim.
            oom = next((event for event in seen if event.topic == "/tasks/oom"), None) or events.next()
            assert on.drop(name) == 137
        else:
            oom = events.until("/tasks/oom")[-1]
            assert on.end(name) == 137
        assert oom.topic == "/tasks/oom"
        assert fields_of(oom, "container_id") == (name,)
