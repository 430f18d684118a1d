"""Limits on cgroup v2, as the kernel gives them back and as it holds them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument, NotFound
from cutaway.linux.cgroups.v2 import ManagerV2
from cutaway.oci.runtime_spec import BlockIo, Cpu, Memory, Pids, Resources, ThrottleDevice
from runc.bundles import SECONDS
from support.process import wait_until

MIB = 1 << 20

# Moves itself into a cgroup ($1), then is what follows.
INSIDE = 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"'


def value(cgroup: ManagerV2, file: str) -> str:
    return Path(cgroup.path, file).read_text().strip()


def inside(cgroup: ManagerV2, *command: str) -> list[str]:
    return ["sh", "-c", INSIDE, "-", cgroup.path, *command]


def python(cgroup: ManagerV2, program: str) -> list[str]:
    return inside(cgroup, sys.executable, "-S", "-c", program)


def test_limits_are_read_back(cgroup: ManagerV2) -> None:
    cgroup.apply(
        Resources(
            cpu=Cpu(shares=1024, quota=50_000, period=200_000, burst=10_000, cpus="0", mems="0"),
            memory=Memory(limit=64 * MIB, swap=96 * MIB, reservation=32 * MIB),
            pids=Pids(limit=99),
            unified={"memory.high": str(48 * MIB), "memory.oom.group": "1"},
        )
    )
    assert value(cgroup, "cpu.weight") == "100"
    assert value(cgroup, "cpu.max") == "50000 200000"
    assert value(cgroup, "cpu.max.burst") == "10000"
    assert value(cgroup, "cpuset.cpus") == value(cgroup, "cpuset.cpus.effective") == "0"
    assert value(cgroup, "cpuset.mems.effective") == "0"
    assert value(cgroup, "memory.max") == str(64 * MIB)
    assert value(cgroup, "memory.swap.max") == str(32 * MIB)
    assert value(cgroup, "memory.low") == str(32 * MIB)
    assert value(cgroup, "memory.high") == str(48 * MIB)
    assert value(cgroup, "memory.oom.group") == "1"
    assert value(cgroup, "pids.max") == "99"


def test_an_update_changes_what_it_names(cgroup: ManagerV2) -> None:
    cgroup.apply(Resources(memory=Memory(limit=64 * MIB, swap=64 * MIB), pids=Pids(limit=5)))
    cgroup.apply(Resources(cpu=Cpu(quota=-1), pids=Pids(limit=-1)), devices=False)
    assert value(cgroup, "memory.max") == str(64 * MIB)
    assert value(cgroup, "memory.swap.max") == "0"
    assert value(cgroup, "cpu.max") == "max 100000"
    assert value(cgroup, "pids.max") == "max"
    cgroup.apply(Resources(memory=Memory(limit=-1)), devices=False)
    assert value(cgroup, "memory.max") == value(cgroup, "memory.swap.max") == "max"


def test_zero_is_unset(cgroup: ManagerV2) -> None:
    cgroup.apply(Resources(cpu=Cpu(shares=0, quota=0), memory=Memory(limit=0, swap=0), pids=Pids(limit=0)))
    assert value(cgroup, "cpu.weight") == "100"
    assert value(cgroup, "memory.max") == value(cgroup, "pids.max") == "max"


@pytest.mark.parametrize(
    ("resources", "cls", "message"),
    [
        (
            Resources(cpu=Cpu(cpus="0-9999")),
            InvalidArgument,
            r'failed to write "0-9999": write .*/cpuset.cpus',
        ),
        (
            Resources(cpu=Cpu(period=1)),
            InvalidArgument,
            r'failed to write "max 1": write .*/cpu.max: invalid',
        ),
        (
            Resources(unified={"memory.max": "lots"}),
            InvalidArgument,
            r'failed to write "lots": write .*/memory.max',
        ),
        (
            Resources(unified={"hugetlb.3MB.max": "1"}),
            NotFound,
            r'unable to set unified resource "hugetlb.3MB.max": open .*: no such file',
        ),
        (
            Resources(unified={"cake.max": "1"}),
            NotFound,
            r'resource "cake.max" can\'t be set: controller "cake" not available',
        ),
    ],
)
def test_bad_values_are_refused_with_their_values(
    cgroup: ManagerV2, resources: Resources, cls: type[CutawayError], message: str
) -> None:
    with pytest.raises(cls, match=message):
        cgroup.apply(resources)


def test_io_limits(cgroup: ManagerV2, disk: str) -> None:
    major, minor = map(int, disk.split(":"))
    device = [ThrottleDevice(major=major, minor=minor, rate=1 << 20)]
    cgroup.apply(
        Resources(
            block_io=BlockIo(
                weight=500,
                throttle_read_bps_device=device,
                throttle_write_iops_device=[ThrottleDevice(major=major, minor=minor, rate=77)],
            )
        )
    )
    assert value(cgroup, "io.max") == f"{disk} rbps=1048576 wbps=max riops=max wiops=77"
    if Path(cgroup.path, "io.bfq.weight").exists():
        assert value(cgroup, "io.bfq.weight") == "default 500"
    else:
        assert value(cgroup, "io.weight") == "default 4950"
    device[0].rate = 0
    cgroup.apply(Resources(block_io=BlockIo(throttle_read_bps_device=device)), devices=False)
    assert value(cgroup, "io.max") == f"{disk} rbps=max wbps=max riops=max wiops=77"


def test_io_is_counted(cgroup: ManagerV2, disk: str) -> None:
    major, minor = map(int, disk.split(":"))
    node = Path(f"/dev/loop{minor}")
    subprocess.run(inside(cgroup, "dd", f"if={node}", "of=/dev/null", "bs=64k", "count=16"), check=True)
    counted = [
        (entry.op, entry.value)
        for entry in cgroup.stats().blkio["ioServiceBytesRecursive"]
        if (entry.major, entry.minor) == (major, minor)
    ]
    assert dict(counted)["Read"] >= MIB


def test_a_fork_bomb_stops_at_the_limit_and_is_killed(cgroup: ManagerV2) -> None:
    cgroup.apply(Resources(pids=Pids(limit=12)))
    bomb = "import os, time\nwhile 1:\n try: os.fork()\n except OSError: time.sleep(0.001)"
    process = subprocess.Popen(python(cgroup, bomb))
    try:
        wait_until(lambda: "max 0" not in value(cgroup, "pids.events"), "the limit is hit")
        assert cgroup.stats().pids_current <= 12
        cgroup.kill_all(signal.SIGKILL)
        assert process.wait(SECONDS) == -signal.SIGKILL
        wait_until(lambda: cgroup.pids() == [], "nobody is left")
    finally:
        process.kill()
        process.wait()
    assert cgroup.stats().pids_limit == 12


def test_cpu_time_is_limited_and_counted(cgroup: ManagerV2) -> None:
    cgroup.apply(Resources(cpu=Cpu(quota=2_000, period=20_000)))
    process = subprocess.Popen(python(cgroup, "while 1: pass"))
    try:
        wait_until(lambda: cgroup.stats().cpu.user > 0, "it runs")
        wait_until(lambda: cgroup.stats().cpu.throttled_time > 0, "it is throttled")
    finally:
        process.kill()
        process.wait()
    cpu = cgroup.stats().cpu
    assert 0 < cpu.user <= cpu.total
    assert 0 < cpu.throttled_periods <= cpu.periods


def test_memory_is_counted(cgroup: ManagerV2) -> None:
    reader, writer = os.pipe()
    program = f"x = bytearray({8 * MIB}); import os, time; os.write({writer}, b'.'); time.sleep(1000)"
    cgroup.apply(Resources(memory=Memory(limit=64 * MIB)))
    process = subprocess.Popen(python(cgroup, program), pass_fds=[writer])
    try:
        assert os.read(reader, 1) == b"."
        memory = cgroup.stats().memory
        assert 8 * MIB < memory.usage.usage <= memory.usage.max < 64 * MIB == memory.usage.limit
        assert memory.raw["anon"] > 8 * MIB
        tight = Resources(memory=Memory(limit=4096, check_before_update=True))
        with pytest.raises(InvalidArgument, match=r"memory limit to 4096 \(current usage: \d+\)"):
            cgroup.apply(tight, devices=False)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(writer)


HOG = "bytearray(64 << 20)"


def test_a_memory_hog_is_killed_counted_and_told(cgroup: ManagerV2) -> None:
    cgroup.apply(Resources(memory=Memory(limit=16 * MIB, swap=16 * MIB)))
    watch = cgroup.oom_events()
    try:
        assert not watch.killed()
        for count in (1, 2):
            hog = subprocess.run(python(cgroup, HOG), stderr=subprocess.DEVNULL, check=False)
            assert hog.returncode == -signal.SIGKILL
            assert watch.killed()  # the counter is there before the notice
            assert not watch.killed()
            assert cgroup.oom_kills() == count
        cgroup.delete()  # of which the kernel tells nobody
        assert not watch.killed()
        assert watch.gone
    finally:
        watch.close()


def test_a_notice_comes_for_a_kill(cgroup: ManagerV2) -> None:
    cgroup.apply(Resources(memory=Memory(limit=16 * MIB, swap=16 * MIB)))
    watch = cgroup.oom_events()
    hog = subprocess.Popen(python(cgroup, HOG), stderr=subprocess.DEVNULL)
    try:
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        wait_until(lambda: bool(poll.poll(1000)) and watch.killed(), "a notice with a kill")
        assert hog.wait(SECONDS) == -signal.SIGKILL
    finally:
        hog.kill()
        hog.wait()
        watch.close()


def test_a_cgroup_below_a_busy_one_lacks_controllers_and_says_so(parent: ManagerV2) -> None:
    """Whoever has processes hands down no memory and no io, but the controllers that work by thread."""
    inner = ManagerV2(f"{parent.path}/inner")
    with subprocess.Popen(["sleep", "1000"]) as above, subprocess.Popen(["sleep", "1000"]) as process:
        parent.add(above.pid)
        inner.create()
        inner.apply(Resources(pids=Pids(limit=5)))
        assert inner.stats().pids_limit == 5
        with pytest.raises(NotFound, match=r"open .*/inner/memory.max: no such file"):
            inner.apply(Resources(memory=Memory(limit=MIB)), devices=False)
        with pytest.raises(NotFound, match="has no memory controller"):
            inner.oom_events()
        inner.add(process.pid)
        assert inner.stats().memory.usage.usage == 0
        inner.kill_all(signal.SIGKILL)
        assert process.wait(SECONDS) == -signal.SIGKILL
        assert above.poll() is None
        above.kill()


def test_a_cgroup_that_has_handed_controllers_down_takes_no_process(cgroup: ManagerV2) -> None:
    ManagerV2(f"{cgroup.path}/below").create()
    with pytest.raises(FailedPrecondition, match=r"cgroup.procs: device or resource busy"):
        cgroup.add(os.getpid())
