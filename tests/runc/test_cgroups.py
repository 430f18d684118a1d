"""cgroups of this machine, for real: limits read back, processes held, frozen, killed, counted, gone."""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument
from cutaway.linux import cgroups
from cutaway.linux.cgroups import device_program, devices, files
from cutaway.linux.cgroups.base import Manager
from cutaway.oci.runtime_spec import Cpu, DeviceRule, Memory, Pids, Resources
from runc.bundles import SECONDS
from support.process import has_ended, wait_until

pytestmark = pytest.mark.root

CLOSED = DeviceRule(allow=False, access="rwm")
MIB = 1 << 20


@pytest.fixture
def cgroup() -> Iterator[Manager]:
    parent = f"/cw-cgroup-{secrets.token_hex(4)}"
    manager = cgroups.manager(f"{parent}/inner", "inner")
    yield manager
    if manager.exists():
        manager.kill_all(signal.SIGKILL)
    manager.delete()
    cgroups.manager(parent, "").delete()


@pytest.fixture
def v1(cgroup: Manager) -> Manager:
    if cgroup.version != 1:
        pytest.skip("this machine has cgroup v2")
    cgroup.create()
    return cgroup


@pytest.fixture
def sleeper(cgroup: Manager) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the cgroup that sleeps."""
    cgroup.create()
    process = subprocess.Popen(["sleep", "1000"])
    cgroup.add(process.pid)
    yield process
    process.kill()
    process.wait()


def value(cgroup: Manager, controller: str, file: str) -> str:
    return Path(cgroup.paths()[controller], file).read_text().strip()


def test_create_and_delete_leave_nothing(cgroup: Manager) -> None:
    assert not cgroup.exists()
    made = cgroup.create()
    assert cgroup.exists()
    assert all(Path(path).is_dir() for path in cgroup.paths().values())
    assert cgroup.create() == []
    cgroup.delete()
    cgroup.delete()
    assert not any(Path(path).exists() for path in made if path.endswith("/inner"))


def test_create_undoes_itself(cgroup: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    last = list(cgroup.paths().values())[-1]
    real = files.make

    def fail_at_last(directory: str) -> list[str]:
        if directory == last:
            raise FailedPrecondition("no")
        return real(directory)

    monkeypatch.setattr(files, "make", fail_at_last)
    with pytest.raises(FailedPrecondition):
        cgroup.create()
    assert not any(Path(path).parent.exists() for path in cgroup.paths().values())


def test_a_process_is_in_every_hierarchy(cgroup: Manager, sleeper: subprocess.Popen[bytes]) -> None:
    assert cgroup.pids() == [sleeper.pid]
    found = cgroups.from_pid(sleeper.pid).paths()
    assert found == cgroup.paths()
    assert cgroups.from_paths(found).pids() == [sleeper.pid]


def test_a_busy_cgroup_is_not_deleted_and_says_who_is_in_it(
    cgroup: Manager, sleeper: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(FailedPrecondition, match=f"processes {sleeper.pid} are in it"):
        cgroup.delete()
    cgroup.kill_all(signal.SIGKILL)
    sleeper.wait(SECONDS)
    cgroup.delete()
    assert not cgroup.exists()


def test_inner_cgroups_go_too(cgroup: Manager) -> None:
    cgroup.create()
    for path in cgroup.paths().values():
        Path(path, "below").mkdir()
    cgroup.delete()
    assert not cgroup.exists()


def test_freeze_and_thaw(cgroup: Manager, sleeper: subprocess.Popen[bytes]) -> None:
    cgroup.freeze()
    assert cgroup.frozen()
    sleeper.terminate()
    if cgroup.version == 1:  # v2 lets a frozen process die
        assert not has_ended(sleeper.pid, timeout=0.2)
    cgroup.thaw()
    assert not cgroup.frozen()
    assert sleeper.wait(SECONDS) == -signal.SIGTERM


def test_kill_all_reaches_a_frozen_cgroup(cgroup: Manager, sleeper: subprocess.Popen[bytes]) -> None:
    cgroup.freeze()
    cgroup.kill_all(signal.SIGKILL)
    assert sleeper.wait(SECONDS) == -signal.SIGKILL


def test_kill_all_with_another_signal_leaves_the_rest_running(
    cgroup: Manager, sleeper: subprocess.Popen[bytes]
) -> None:
    cgroup.kill_all(signal.SIGCONT)
    assert not cgroup.frozen()
    assert sleeper.poll() is None
    cgroup.kill_all(signal.SIGUSR1)
    assert sleeper.wait(SECONDS) == -signal.SIGUSR1


def test_v1_limits_are_read_back(v1: Manager) -> None:
    v1.apply(
        Resources(
            cpu=Cpu(shares=512, quota=50_000, period=200_000, cpus="0"),
            memory=Memory(limit=64 * MIB, swap=128 * MIB, reservation=32 * MIB, swappiness=10),
            pids=Pids(limit=99),
        )
    )
    assert value(v1, "cpu", "cpu.shares") == "512"
    assert value(v1, "cpu", "cpu.cfs_quota_us") == "50000"
    assert value(v1, "cpu", "cpu.cfs_period_us") == "200000"
    assert value(v1, "cpuset", "cpuset.cpus") == "0"
    assert value(v1, "memory", "memory.limit_in_bytes") == str(64 * MIB)
    assert value(v1, "memory", "memory.soft_limit_in_bytes") == str(32 * MIB)
    assert value(v1, "memory", "memory.swappiness") == "10"
    assert value(v1, "pids", "pids.max") == "99"


def test_v1_new_cpusets_have_their_parents_cpus(v1: Manager) -> None:
    assert value(v1, "cpuset", "cpuset.cpus")
    assert value(v1, "cpuset", "cpuset.mems")


def test_v1_zero_is_unset(v1: Manager) -> None:
    shares = value(v1, "cpu", "cpu.shares")
    v1.apply(Resources(cpu=Cpu(shares=0, quota=0), memory=Memory(limit=0, swap=0), pids=Pids(limit=0)))
    assert value(v1, "cpu", "cpu.shares") == shares
    assert value(v1, "pids", "pids.max") == "max"


def test_v1_memory_and_swap_grow_and_shrink_together(v1: Manager) -> None:
    if not Path(v1.paths()["memory"], "memory.memsw.limit_in_bytes").exists():
        pytest.skip("no swap accounting")
    for limit, swap in ((64, 64), (256, 512), (32, 32), (128, 128)):
        v1.apply(Resources(memory=Memory(limit=limit * MIB, swap=swap * MIB)), devices=False)
        assert value(v1, "memory", "memory.limit_in_bytes") == str(limit * MIB)
        assert value(v1, "memory", "memory.memsw.limit_in_bytes") == str(swap * MIB)
    v1.apply(Resources(memory=Memory(limit=-1)), devices=False)
    assert int(value(v1, "memory", "memory.memsw.limit_in_bytes")) > 1 << 60


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (Resources(cpu=Cpu(shares=1)), "the minimum allowed cpu-shares is 2"),
        (Resources(cpu=Cpu(shares=1 << 30)), "the maximum allowed cpu-shares is 262144"),
        (
            Resources(cpu=Cpu(cpus="0-9999")),
            r'failed to write "0-9999": write .*/cpuset.cpus: numerical result out of range',
        ),
        (Resources(cpu=Cpu(period=1)), r'failed to write "1": write .*/cpu.cfs_period_us: invalid argument'),
        (Resources(memory=Memory(swappiness=101)), "invalid memory swappiness value: 101"),
        (Resources(unified={"memory.max": "1"}), "cannot use unified on cgroup v1"),
    ],
)
def test_v1_bad_values_are_refused_with_their_values(v1: Manager, resources: Resources, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        v1.apply(resources)


def test_a_limit_below_the_usage_says_so(v1: Manager) -> None:
    reader, writer = os.pipe()
    fill = f"x=bytearray({8 * MIB}); import os; os.write({writer}, b'.'); import time; time.sleep(1000)"
    process = subprocess.Popen(
        [
            "sh",
            "-c",
            'echo $$ > "$1"; exec python3 -c "$2"',
            "-",
            f"{v1.paths()['memory']}/cgroup.procs",
            fill,
        ],
        pass_fds=[writer],
    )
    try:
        assert os.read(reader, 1) == b"."
        with pytest.raises(CutawayError, match=r"unable to set memory limit to 4096 .*current usage"):
            v1.apply(Resources(memory=Memory(limit=4096)), devices=False)
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(writer)


def opens(directory: str, path: str, mode: int) -> bool:
    """Whether a process in a cgroup can open a device."""
    child = os.fork()
    if child == 0:
        try:
            Path(directory, "cgroup.procs").write_text("0")
            os.open(path, mode)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_v1_devices(v1: Manager) -> None:
    directory = v1.paths()["devices"]
    v1.apply(Resources(devices=[CLOSED]))
    assert opens(directory, "/dev/null", os.O_RDWR)
    assert not opens(directory, "/dev/kmsg", os.O_RDONLY)
    kmsg = DeviceRule(allow=True, type="c", major=1, minor=11, access="r")
    v1.apply(Resources(devices=[CLOSED, kmsg]))
    assert opens(directory, "/dev/kmsg", os.O_RDONLY)
    assert not opens(directory, "/dev/kmsg", os.O_WRONLY)
    v1.apply(Resources(devices=[DeviceRule(allow=True, access="rwm")]))
    assert opens(directory, "/dev/kmsg", os.O_WRONLY)


def test_v1_without_any_rules_only_default_devices_are_open(v1: Manager) -> None:
    v1.apply(None)
    assert "a *:*" not in value(v1, "devices", "devices.list")
    assert not opens(v1.paths()["devices"], "/dev/kmsg", os.O_RDONLY)


def test_device_programs_hold_on_a_v2_hierarchy(tmp_path: Path) -> None:
    from cutaway.linux.cgroups import detect

    root = detect.layout().mounts.get("")
    if root is None:
        pytest.skip("no v2 hierarchy")
    directory = f"{root}/cw-bpf-{secrets.token_hex(4)}"
    os.mkdir(directory)
    try:
        program = device_program.assemble(devices.table([CLOSED]))
        device_program.install(directory, program)
        assert opens(directory, "/dev/null", os.O_RDWR)
        assert not opens(directory, "/dev/kmsg", os.O_RDONLY)
        kmsg = DeviceRule(allow=True, type="c", major=1, minor=11, access="r")
        device_program.install(directory, device_program.assemble(devices.table([CLOSED, kmsg])))
        assert opens(directory, "/dev/kmsg", os.O_RDONLY)
        assert not opens(directory, "/dev/kmsg", os.O_WRONLY)
    finally:
        wait_until(lambda: not Path(directory, "cgroup.procs").read_text(), "the cgroup is empty")
        os.rmdir(directory)


def test_a_program_that_the_verifier_refuses_says_why() -> None:
    endless = b"\x05\x00\xff\xff\x00\x00\x00\x00" + b"\x95" + bytes(7)  # jumps to itself
    with pytest.raises(CutawayError, match="failed to load device rules: bpf"):
        device_program.load(endless)


def test_oom_is_counted_and_told(v1: Manager) -> None:
    v1.apply(Resources(memory=Memory(limit=16 * MIB, swap=16 * MIB)))
    watch = v1.oom_events()
    try:
        assert not watch.killed()
        procs = f"{v1.paths()['memory']}/cgroup.procs"
        eater = 'echo $$ > "$1"; exec python3 -c "bytearray(64 << 20)"'
        eating = subprocess.run(["sh", "-c", eater, "-", procs], stderr=subprocess.DEVNULL, check=False)
        assert eating.returncode == -signal.SIGKILL
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        assert poll.poll(10_000)
        assert watch.killed()
        assert v1.oom_kills() == 1
        v1.delete()
        assert poll.poll(10_000)
        assert not watch.killed()
        assert watch.gone
    finally:
        watch.close()


def test_stats_have_the_form_of_runc_events(cgroup: Manager, sleeper: subprocess.Popen[bytes]) -> None:
    stats = cgroup.stats()
    found = stats.to_json()
    assert set(found) == {
        "cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces",
    }  # fmt: skip
    assert found["pids"] == {"current": 1}
    if cgroup.version == 1:
        assert stats.memory.usage.usage == int(value(cgroup, "memory", "memory.usage_in_bytes"))
        assert stats.memory.raw["hierarchical_memory_limit"]
        assert set(found["memory"]) >= {"usage", "swap", "kernel", "kernelTCP", "raw"}  # type: ignore[call-overload]
