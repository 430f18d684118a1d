"""A container's figures: ours against those of containerd's shim, for one and the same container."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from containerd.task_rig import Rig, beside
from cutaway.linux import cgroups
from cutaway.pb import cgroups_v1_pb2, cgroups_v2_pb2
from cutaway.shim.stats import metrics
from support.process import wait_until
from support.stack import OurContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

MIB = 1 << 20
KINDS: dict[str, type[Any]] = {
    "io.containerd.cgroups.v1.Metrics": cgroups_v1_pb2.Metrics,
    "io.containerd.cgroups.v2.Metrics": cgroups_v2_pb2.Metrics,
}


@pytest.fixture(scope="module")
def on() -> Iterator[Rig]:
    with beside(OurContainerd) as made:
        yield made


def figures(on: Rig, id: str) -> Any:
    (metric,) = on.tasks("Metrics", filters=[f"id=={id}"]).metrics
    return KINDS[metric.data.type_url].FromString(metric.data.value)


def flat(message: Any, prefix: str = "") -> dict[str, Any]:
    """Every field that is set, by its path."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        name = f"{prefix}{field.name}"
        if field.message_type is None:
            found[name] = list(value) if hasattr(value, "extend") else value
        elif hasattr(value, "add"):
            for number, item in enumerate(value):
                found.update(flat(item, f"{name}[{number}]."))
        else:
            found[name] = "set"
            found.update(flat(value, f"{name}."))
    return found


def steady(pid: int, wanted: dict[str, Any]) -> dict[str, Any]:
    """Our figures; of what moves even in a frozen cgroup (the kernel caches per CPU), `wanted`'s."""
    first, second = (flat(metrics(cgroups.from_pid(pid))) for _ in range(2))
    moving = {name for name in first if first[name] != second.get(name)} | {"memory.kernel.usage"}
    return {name: wanted.get(name, value) if name in moving else value for name, value in second.items()}


def test_every_field_is_as_the_real_shim_fills_it(on: Rig) -> None:
    script = "echo > /tmp/file; cat /bin/busybox > /tmp/copy; sleep 1000"
    spec: dict[str, Any] = on.spec("counted", ["sh", "-c", script])
    spec["linux"]["resources"] |= {
        "memory": {"limit": 64 * MIB},
        "pids": {"limit": 30},
        "cpu": {"quota": 50000, "period": 100000},
    }
    pid = on.running("counted", spec=spec)
    wait_until((on.rootfs / "tmp/copy").exists, "the script has begun")
    on.tasks("Pause", container_id="counted")
    theirs = flat(figures(on, "counted"))
    ours = steady(pid, theirs)
    on.tasks("Resume", container_id="counted")
    on.end("counted")
    assert ours == theirs
    assert theirs["pids.limit"] == 30


def test_without_limits(on: Rig) -> None:
    pid = on.running("free")
    on.tasks("Pause", container_id="free")
    theirs = flat(figures(on, "free"))
    ours = steady(pid, theirs)
    on.tasks("Resume", container_id="free")
    on.end("free")
    assert ours == theirs


@pytest.mark.parametrize("shim", ["io.containerd.runc.v2", "io.containerd.cutaway.v1"])
def test_figures_outlive_the_process(on: Rig, shim: str) -> None:
    on.container("over", "true", runtime=shim)
    on.tasks("Create", container_id="over")
    on.tasks("Start", container_id="over")
    on.tasks("Wait", container_id="over")
    found = flat(figures(on, "over"))
    assert "pids.current" not in found
    assert found.get("cpu.usage.total") or found.get("cpu.usage_usec")
    assert on.drop("over") == 0
