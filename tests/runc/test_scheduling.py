"""How the program is scheduled: policies, CPUs, priorities, execution domain, for init and for `exec`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cutaway.errors import InvalidArgument
from cutaway.runc.plan import scheduling
from runc.bundles import Bundle, Runtime

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.mark.parametrize(
    ("scheduler", "shown"),
    [
        ({"policy": "SCHED_OTHER", "nice": 3}, "0 0 3"),
        ({"policy": "SCHED_FIFO", "priority": 7}, "1 7 0"),
        ({"policy": "SCHED_RR", "priority": 9}, "2 9 0"),
        ({"policy": "SCHED_BATCH", "nice": 5}, "3 0 5"),
        ({"policy": "SCHED_IDLE"}, "5 0 0"),
        ({"policy": "SCHED_OTHER", "nice": -4, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}, "0 0 0"),
    ],
)
def test_policies(ours: Runtime, bundle: Bundle, name: str, scheduler: dict[str, Any], shown: str) -> None:
    bundle.process["scheduler"] = scheduler
    # A child's: reset on fork is to be seen. The fields are policy, realtime priority and nice.
    bundle.shell("cat /proc/self/stat | { read line; set -- $line; echo ${41} ${40} ${19}; }")
    result = ours("run", "--bundle", bundle, name)
    if scheduler.get("priority") and "operation not permitted" in result.error:
        pytest.skip("this machine gives its cgroups no realtime")
    assert result.out.strip() == shown


def test_a_deadline(ours: Runtime, bundle: Bundle, name: str) -> None:
    times = {"runtime": 10_000_000, "deadline": 30_000_000, "period": 30_000_000}
    # Without the flag a process with a deadline may not fork, and a shell would have to.
    bundle.process["scheduler"] = {
        "policy": "SCHED_DEADLINE",
        "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM"],
        **times,
    }
    bundle.process["args"] = ["cat", "/proc/self/stat"]
    result = ours("run", "--bundle", bundle, name)
    if "operation not permitted" in result.error:
        pytest.skip("this machine's cpusets allow no deadlines")
    assert result.out.split()[40] == "6"


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"policy": ""}, "scheduler policy is required"),
        ({"policy": "SCHED_MAGIC"}, "invalid scheduler policy: SCHED_MAGIC"),
        ({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_X"]}, "invalid scheduler flag: SCHED_FLAG_X"),
        (
            {"policy": "SCHED_BATCH", "nice": 20},
            "invalid scheduler.nice: 20 when scheduler.policy is SCHED_BATCH",
        ),
        (
            {"policy": "SCHED_OTHER", "priority": 1},
            "scheduler.priority can only be specified for SchedFIFO or SchedRR policy",
        ),
        (
            {"policy": "SCHED_FIFO", "period": 1},
            "scheduler runtime/deadline/period can only be specified for SchedDeadline policy",
        ),
        ({"policy": "SCHED_DEADLINE", "period": -1}, "process.scheduler.period: expected an unsigned"),
    ],
)
def test_schedulers_that_cannot_be(
    ours: Runtime, bundle: Bundle, name: str, scheduler: dict[str, Any], message: str
) -> None:
    bundle.process["scheduler"] = scheduler
    assert message in ours("create", "--bundle", bundle, name).error


@pytest.mark.parametrize(
    ("priority", "message"),
    [
        ({"class": "IOPRIO_CLASS_BE", "priority": 8}, "invalid ioPriority.Priority: 8"),
        ({"class": "IOPRIO_CLASS_X", "priority": 1}, 'invalid ioPriority.Class: "IOPRIO_CLASS_X"'),
    ],
)
def test_io_priorities_that_cannot_be(
    ours: Runtime, bundle: Bundle, name: str, priority: dict[str, Any], message: str
) -> None:
    bundle.process["ioPriority"] = priority
    assert message in ours("create", "--bundle", bundle, name).error


def test_io_priority(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    (bundle.rootfs / "bin/ionice").symlink_to("busybox")
    assert ours("run", "--bundle", bundle.shell("ionice -p $$"), name).out == "best-effort: prio 6\n"


@pytest.fixture
def running(ours: Runtime, bundle: Bundle, name: str) -> str:
    bundle.process["args"] = ["sleep", "1000"]
    bundle.linux["personality"] = {"domain": "LINUX32"}
    assert ours.detached("run", "--detach", "--bundle", bundle, name).code == 0
    return name


def execute(runtime: Runtime, name: str, place: Path, **more: Any) -> tuple[str, str]:
    """exec a process from a file that asks for the CPUs it may use."""
    process = {
        "args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        **more,
    }
    (place / "process.json").write_text(json.dumps(process))
    result = runtime("exec", "--process", place / "process.json", name)
    return result.out.strip().rpartition("\t")[2], result.error


@pytest.mark.skipif(os.cpu_count() == 1, reason="needs two CPUs")
def test_exec_ends_on_the_final_cpus(ours: Runtime, running: str, place: Path) -> None:
    affinity = {"initial": "0", "final": " 1,,"}
    assert execute(ours, running, place, execCPUAffinity=affinity) == ("1", "")


@pytest.mark.parametrize(
    ("affinity", "message"),
    [
        ({"initial": "60000"}, "error setting initial CPU affinity: invalid argument"),
        ({"final": "60000"}, "error setting final CPU affinity: invalid argument"),
        ({"final": "1-0"}, "bad CPUAffinity.Final: invalid range: 1-0"),
        ({"initial": "x"}, 'bad CPUAffinity.Initial: "x" is no CPU number'),
        ({"initial": "70000"}, "bad CPUAffinity.Initial: values larger than 65536 are not supported"),
    ],
)
def test_cpus_that_cannot_be(
    ours: Runtime, running: str, place: Path, affinity: dict[str, str], message: str
) -> None:
    assert message in execute(ours, running, place, execCPUAffinity=affinity)[1]


def test_lists_of_cpus() -> None:
    assert scheduling.cpu_list("0-3, 7,2") == [0, 1, 2, 3, 7]
    with pytest.raises(InvalidArgument, match="no members"):
        scheduling.cpu_list(" , ")


def test_exec_has_the_containers_execution_domain(ours: Runtime, running: str) -> None:
    assert ours("exec", running, "cat", "/proc/self/personality").out == "00000008\n"


@pytest.mark.parametrize(
    ("personality", "message"),
    [
        ({"domain": "BSD"}, "invalid personality domain BSD"),
        ({"domain": "LINUX", "flags": ["X"]}, "linux.personality.flags"),
    ],
)
def test_execution_domains_that_cannot_be(
    ours: Runtime, bundle: Bundle, name: str, personality: dict[str, Any], message: str
) -> None:
    bundle.linux["personality"] = personality
    assert message in ours("create", "--bundle", bundle, name).error
