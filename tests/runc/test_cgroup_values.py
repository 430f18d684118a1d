"""The same `resources` given to ours and to the real runc: the kernel's files say the same afterwards.

One table a version of cgroups; the machine (or the machine of `make test-vm`) picks its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutaway.linux import cgroups
from cutaway.linux.cgroups import v2_limits
from runc.bundles import Bundle, Config, Runtime, cgroups_named
from support.peers import VENV_BIN, need, peer

pytestmark = pytest.mark.root

MIB = 1 << 20

# A device that exists wherever memory devices do; limits of I/O want a block device that exists.
DISK = next((path for path in sorted(Path("/sys/block").glob("*")) if (path / "dev").exists()), None)
NUMBER = (DISK / "dev").read_text().strip() if DISK else "7:0"
MAJOR, MINOR = map(int, NUMBER.split(":"))


def throttle(rate: int) -> list[Config]:
    return [{"major": MAJOR, "minor": MINOR, "rate": rate}]


COMMON: dict[str, Config] = {
    "shares": {"cpu": {"shares": 512}},
    "shares of two": {"cpu": {"shares": 2}},
    "quota": {"cpu": {"quota": 50_000}},
    "period": {"cpu": {"period": 50_000}},
    "quota and period": {"cpu": {"quota": 20_000, "period": 40_000}},
    "no quota": {"cpu": {"quota": -1}},
    "cpuset": {"cpu": {"cpus": "0", "mems": "0"}},
    "memory": {"memory": {"limit": 64 * MIB}},
    "memory and swap": {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}},
    "memory, no swap": {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}},
    "memory, any swap": {"memory": {"limit": 64 * MIB, "swap": -1}},
    "no limit": {"memory": {"limit": -1}},
    "reservation": {"memory": {"limit": 64 * MIB, "reservation": 32 * MIB}},
    "pids": {"pids": {"limit": 33}},
    "any pids": {"pids": {"limit": -1}},
    "zeros": {"cpu": {"shares": 0, "quota": 0}, "memory": {"limit": 0, "swap": 0}, "pids": {"limit": 0}},
    "throttle": {
        "blockIO": {
            "throttleReadBpsDevice": throttle(1 << 20),
            "throttleWriteBpsDevice": throttle(2 << 20),
            "throttleReadIOPSDevice": throttle(100),
            "throttleWriteIOPSDevice": throttle(200),
        }
    },
    "weight": {"blockIO": {"weight": 500}},
    "everything": {
        "cpu": {"shares": 2048, "quota": 30_000, "period": 60_000, "cpus": "0", "mems": "0"},
        "memory": {"limit": 128 * MIB, "swap": 256 * MIB, "reservation": 64 * MIB},
        "pids": {"limit": 77},
        "blockIO": {"throttleReadBpsDevice": throttle(4096)},
        "devices": [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rw"},
            {"allow": True, "type": "b", "major": 7, "access": "r"},
        ],
    },
}
V1: dict[str, Config] = {
    "swappiness": {"memory": {"limit": 64 * MIB, "swappiness": 17}},
    "no killer": {"memory": {"limit": 64 * MIB, "disableOOMKiller": True}},
    "realtime": {"cpu": {"realtimePeriod": 500_000, "realtimeRuntime": 0}},
    "all devices": {"devices": [{"allow": True, "access": "rwm"}]},
    "all devices but one": {
        "devices": [
            {"allow": True, "access": "rwm"},
            {"allow": False, "type": "c", "major": 10, "minor": 200, "access": "w"},
        ]
    },
}
V2: dict[str, Config] = {
    "unified": {
        "unified": {
            "memory.high": str(48 * MIB),
            "memory.min": str(MIB),
            "memory.oom.group": "1",
            "pids.max": "44",
            "cpu.weight": "77",
            "cgroup.max.descendants": "5",
        }
    },
    "hugetlb": {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]},
}
UNIFIED = cgroups.mode() == "unified"
TABLE = COMMON | (V2 if UNIFIED else V1)
if UNIFIED:  # the machine of `make test-vm` is slow: a container of each kind must do
    for alone in ("shares", "quota", "quota and period", "cpuset", "memory", "memory, no swap", "pids"):
        del TABLE[alone]

# What depends on the moment, not on the limits.
MOVING = (
    "cgroup.procs", "cgroup.threads", "tasks", ".stat", ".current", ".peak", "usage", "usage_in_bytes",
    "kmem.slabinfo", "numa_stat", "pressure", "events", "events.local", "usage_all", "usage_percpu",
    "usage_percpu_sys", "usage_percpu_user", "usage_sys", "usage_user", "swap.events", "stat.local",
    "io_service_bytes", "io_serviced", "io_service_bytes_recursive", "io_serviced_recursive", "pagemap",
    "usage_in_bytes", "process_api", "failcnt", "memory_pressure",
)  # fmt: skip


def held(name: str) -> dict[str, str]:
    """The files of a container's cgroups: what each limit is now."""
    found = {}
    for directory in cgroups_named(name):
        for path in directory.iterdir():
            if path.is_file() and os.access(path, os.R_OK) and not path.name.endswith(MOVING):
                try:
                    text = path.read_text()
                except OSError:
                    continue  # files that are only for writing, or only for domains
                if path.name == "devices.list":
                    text = "".join(sorted(text.splitlines(keepends=True)))
                found[f"{directory.parent.parent.name}/{path.name}"] = text
    return found


@pytest.fixture
def both(place: Path) -> Iterator[list[Runtime]]:
    need("root", "busybox")
    programs = (VENV_BIN / "cutaway-runc", peer("runc"))
    runtimes = [Runtime(program, place / program.name) for program in programs]
    for runtime in runtimes:
        runtime.root.mkdir()
    yield runtimes
    for runtime in runtimes:
        runtime.clean()


def started(runtime: Runtime, bundle: Bundle, name: str, resources: Config) -> str:
    """A container that sleeps; its name."""
    own = f"{name}-{runtime.program.name}"
    bundle.linux["cgroupsPath"] = f"/cw-test/{own}"
    bundle.linux["resources"] = resources
    bundle.process["args"] = ["sleep", "1000"]
    result = runtime.detached("run", "--detach", "--bundle", bundle, own)
    assert result.code == 0, result.err
    return own


@pytest.mark.parametrize("what", TABLE)
def test_both_write_the_same(both: list[Runtime], bundle: Bundle, name: str, what: str) -> None:
    mine, theirs = (held(started(runtime, bundle, name, TABLE[what])) for runtime in both)
    shares = TABLE[what].get("cpu", {}).get("shares")
    if UNIFIED and shares:  # ours has the curve of runc 1.3, this one still the line
        weight = next(key for key in mine if key.endswith("/cpu.weight"))
        assert mine.pop(weight) == f"{v2_limits.weight_from_shares(shares)}\n"
        assert theirs.pop(weight)
        for found in (mine, theirs):  # the same number, as nice(1) would have it
            found.pop(f"{weight}.nice")
    rsvd = [key for key in mine if ".rsvd." in key]  # runc 1.2 limits reservations as well
    for key in rsvd:
        mine.pop(key)
        theirs.pop(key, None)
    assert len(mine) > 20
    assert mine == theirs


def test_cpus_of_a_cgroup_whose_parent_is_new(both: list[Runtime], bundle: Bundle, name: str) -> None:
    for runtime in both:
        own = f"{name}-{runtime.program.name}"
        bundle.linux["cgroupsPath"] = f"/{own}-above/{own}"
        bundle.linux["resources"] = {"cpu": {"cpus": "0", "mems": "0"}}
        try:
            result = runtime("run", "--bundle", bundle.shell("grep Cpus_allowed_list /proc/self/status"), own)
            assert (result.code, result.out.split()) == (0, ["Cpus_allowed_list:", "0"])
        finally:
            for above in cgroups_named(f"{own}-above"):
                above.rmdir()


UPDATES: dict[str, list[str]] = {
    "memory": ["--memory", "48m"],
    "memory and swap": ["--memory", "128M", "--memory-swap", "256M"],
    "shrunk": ["--memory", "32M", "--memory-swap", "32M"],
    "no limits": ["--memory", "-1", "--memory-swap", "-1"],
    "reservation": ["--memory-reservation", "16M"],
    "quota": ["--cpu-quota", "30000"],
    "period": ["--cpu-period", "80000"],
    "both": ["--cpu-quota", "30000", "--cpu-period", "60000"],
    "no quota": ["--cpu-quota", "-1"],
    "cpuset": ["--cpuset-cpus", "0", "--cpuset-mems", "0"],
    "pids": ["--pids-limit", "11"],
    "any pids": ["--pids-limit", "-1"],
    "kernel memory": ["--kernel-memory", "16M", "--pids-limit", "12"],
    "nothing": [],
}
if UNIFIED:
    for alone in ("memory", "reservation", "both", "cpuset", "pids", "kernel memory"):
        del UPDATES[alone]
BEFORE: Config = {
    "memory": {"limit": 64 * MIB, "swap": 64 * MIB},
    "cpu": {"quota": 50_000, "period": 100_000},
    "pids": {"limit": 20},
}


@pytest.mark.parametrize("what", UPDATES)
def test_both_update_the_same(both: list[Runtime], bundle: Bundle, name: str, what: str) -> None:
    found = []
    for runtime in both:
        own = started(runtime, bundle, name, BEFORE)
        before = held(own)
        result = runtime("update", *UPDATES[what], own)
        assert result.code == 0, result.err
        assert ("Kernel memory settings are ignored" in result.err) == (what == "kernel memory")
        found.append(held(own))
        assert (before == found[-1]) == (what == "nothing")
    assert found[0] == found[1]


def test_both_take_resources_from_stdin_and_from_a_file(
    both: list[Runtime], bundle: Bundle, name: str, place: Path
) -> None:
    text = json.dumps({"memory": {"limit": 96 * MIB}, "cpu": {"quota": 70_000}, "pids": {"limit": 9}})
    (place / "resources.json").write_text(text)
    found = []
    for runtime in both:
        own = started(runtime, bundle, name, BEFORE | {"memory": {"limit": 64 * MIB}})
        assert runtime("update", "--resources", "-", own, stdin=text).code == 0
        found.append(held(own))
        assert runtime("update", "--pids-limit", "10", own).code == 0
        assert runtime("update", "-r", place / "resources.json", own).code == 0
        assert held(own) == found[-1]
    assert found[0] == found[1]
    limit = "memory.max" if UNIFIED else "memory.limit_in_bytes"
    assert {value for key, value in found[0].items() if key.endswith(f"/{limit}")} == {f"{96 * MIB}\n"}


def test_an_update_that_fails_changes_nothing(ours: Runtime, bundle: Bundle, name: str) -> None:
    """runc means to put the old limits back, and writes the new ones again."""
    own = started(ours, bundle, name, BEFORE)
    before = held(own)
    words = ("--memory", "32M", "--memory-swap", "32M", "--cpu-quota", "30000", "--pids-limit", "99999999")
    result = ours("update", *words, own)
    assert result.code == 1
    assert result.error.startswith('failed to write "99999999": write /sys/fs/cgroup/')
    assert held(own) == before


def shape(value: Any, path: str = "") -> set[str]:
    """The keys of a JSON document, and what kind of value each has; of lists only that they are."""
    if isinstance(value, dict):
        return {path}.union(*(shape(inner, f"{path}.{key}") for key, inner in value.items()))
    return {f"{path}: {type(value).__name__}"}


def test_both_give_statistics_of_one_shape(both: list[Runtime], bundle: Bundle, name: str) -> None:
    found = []
    for runtime in both:
        own = started(runtime, bundle, name, BEFORE)
        event = json.loads(runtime("events", "--stats", own).out)
        assert (event.pop("type"), event.pop("id")) == ("stats", own)
        assert set(event) == {"data"}
        found.append(shape(event["data"]))
    mine, theirs = found
    # Figures of zero are left out by both: whether these are zero is a matter of time.
    chance = {
        f".{key}: int"
        for key in (
            "cpu.throttling.periods", "cpu.throttling.throttledPeriods", "cpu.throttling.throttledTime",
            "memory.cache", "memory.kernel.usage", "memory.kernel.max", "memory.usage.max", "memory.swap.max",
        )
    } | {f".blkio.{key}: list" for key in ("ioServiceBytesRecursive", "ioServicedRecursive")}  # fmt: skip
    assert mine - chance == theirs - chance
    assert ".cpuset.sched_relax_domain_level: int" in mine
    assert ".pids.limit: int" in mine


BAD: dict[str, Config] = {
    "cpus": {"cpu": {"cpus": "0-9999"}},
    "period": {"cpu": {"period": 1}},
    "tiny memory": {"memory": {"limit": 64 * MIB, "swap": 32 * MIB}},
    "huge page size": {"hugepageLimits": [{"pageSize": "2MB", "limit": 2 * MIB}]} if not UNIFIED else {},
    "rdma": {"rdma": {"mlx5_0": {"hcaHandles": 2}}},
    "no such disk": {"blockIO": {"throttleReadBpsDevice": [{"major": 99, "minor": 9, "rate": 1}]}},
    "leaf weight": {"blockIO": {"leafWeight": 500}},
    "realtime": {"cpu": {"realtimeRuntime": 99_999_999}},
    "few shares": {"cpu": {"shares": 1}},
    "swappiness": {"memory": {"swappiness": 101}},
    "class": {"network": {"classID": 1}},
    "priority": {"network": {"priorities": [{"name": "lo", "priority": 1}]}},
    "unified": {"unified": {"memory.max": "lots"}},
    "unified slash": {"unified": {"../memory.max": "1"}},
    "unified file": {"unified": {"cake.max": "1"}},
    "unified name": {"unified": {"cake": "1"}},
    "no access": {"devices": [{"allow": False}]},
}


@pytest.mark.parametrize("what", BAD)
def test_both_refuse_in_the_same_words(both: list[Runtime], bundle: Bundle, name: str, what: str) -> None:
    bundle.linux["cgroupsPath"] = f"/cw-test/{name}"
    bundle.linux["resources"] = BAD[what]
    mine, theirs = (runtime("run", "--bundle", bundle, name) for runtime in both)
    if theirs.code == 0:
        assert mine.code == 0, mine.err
        return
    assert mine.code == theirs.code
    words, _, where = mine.error.partition(" (linux.resources.")  # ours says in which place, as well
    assert words == theirs.error.replace("openat2 ", "open ")
    assert not where or ": expected " in where
    assert cgroups_named(name) == []
