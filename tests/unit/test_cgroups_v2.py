"""cgroup v2 against a folder that looks like one, every write recorded: this needs no machine with v2."""

from __future__ import annotations

from pathlib import Path

import pytest

from cutaway.errors import InvalidArgument, NotFound
from cutaway.linux.cgroups import device_program, files, v2_limits
from cutaway.linux.cgroups.v2 import ManagerV2
from cutaway.oci.runtime_spec import (
    BlockIo,
    Cpu,
    HugepageLimit,
    Memory,
    Pids,
    Resources,
    ThrottleDevice,
)

CONTROLLERS = "cpuset cpu io memory pids hugetlb"
FILES = """
cgroup.freeze cgroup.kill cgroup.procs cgroup.subtree_control cpu.idle cpu.max cpu.max.burst cpu.weight
cpuset.cpus cpuset.mems hugetlb.2MB.max io.max io.weight memory.high memory.low memory.max memory.swap.max
pids.max
"""


class Tree:
    """A fake hierarchy: new folders get their files, writes to files are kept."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.writes: list[tuple[str, str]] = []
        self.without: set[str] = set()
        self._write = files.write
        self._make = files.make
        (root / "cgroup.controllers").write_text(CONTROLLERS)
        self.fill(root)
        monkeypatch.setattr(files, "write", self.write)
        monkeypatch.setattr(files, "make", self.make)
        monkeypatch.setattr(files, "is_cgroupfs", lambda fd: True)

    def fill(self, folder: Path) -> None:
        for name in FILES.split():
            if name not in self.without:
                (folder / name).touch()

    def write(self, path: str, data: str) -> None:
        self._write(path, data)
        self.writes.append((str(Path(path).relative_to(self.root)), data))

    def make(self, directory: str) -> list[str]:
        made = self._make(directory)
        for path in made:
            self.fill(Path(path))
        return made

    def written(self) -> dict[str, str]:
        return {Path(path).name: data for path, data in self.writes}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    return Tree(tmp_path, monkeypatch)


@pytest.fixture
def cgroup(tree: Tree) -> ManagerV2:
    manager = ManagerV2(f"{tree.root}/docker/abc", str(tree.root))
    manager.create()
    tree.writes.clear()
    return manager


def apply(cgroup: ManagerV2, resources: Resources) -> None:
    cgroup.apply(resources, devices=False)


def test_controllers_are_handed_down_to_the_parent_and_no_further(tree: Tree) -> None:
    made = ManagerV2(f"{tree.root}/docker/abc", str(tree.root)).create()
    everything = " ".join(f"+{name}" for name in CONTROLLERS.split())
    assert tree.writes == [
        ("cgroup.subtree_control", everything),
        ("docker/cgroup.subtree_control", everything),
    ]
    assert made == [f"{tree.root}/docker", f"{tree.root}/docker/abc"]


def test_a_failed_create_leaves_nothing(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(directory: str) -> list[str]:
        if directory.endswith("abc"):
            raise InvalidArgument("no")
        Path(directory).mkdir()  # bare: a folder of cgroupfs can be removed with its files
        return [directory]

    monkeypatch.setattr(files, "make", refuse)
    with pytest.raises(InvalidArgument):
        ManagerV2(f"{tree.root}/docker/abc", str(tree.root)).create()
    assert not (tree.root / "docker").exists()


def test_cpu_values_are_converted(cgroup: ManagerV2, tree: Tree) -> None:
    apply(cgroup, Resources(cpu=Cpu(shares=1024, quota=50_000, period=200_000, cpus="0-1", mems="0")))
    assert tree.written() == {
        "cpu.weight": "100",
        "cpu.max": "50000 200000",
        "cpuset.cpus": "0-1",
        "cpuset.mems": "0",
    }


@pytest.mark.parametrize(
    ("shares", "weight"), [(0, 0), (1, 1), (2, 1), (1024, 100), (262_144, 10_000), (999_999, 10_000)]
)
def test_weight_from_shares(shares: int, weight: int) -> None:
    assert v2_limits.weight_from_shares(shares) == weight


def test_a_quota_without_period_and_a_period_without_quota(cgroup: ManagerV2, tree: Tree) -> None:
    apply(cgroup, Resources(cpu=Cpu(quota=50_000)))
    assert tree.written()["cpu.max"] == "50000 100000"
    apply(cgroup, Resources(cpu=Cpu(period=50_000)))
    assert tree.written()["cpu.max"] == "50000 50000"


def test_zero_means_unset(cgroup: ManagerV2, tree: Tree) -> None:
    zero = Resources(
        cpu=Cpu(shares=0, quota=0, period=0),
        memory=Memory(limit=0, swap=0, reservation=0, disable_oom_killer=False),
        block_io=BlockIo(weight=0),
        pids=Pids(limit=0),
    )
    apply(cgroup, zero)
    assert tree.writes == []


@pytest.mark.parametrize(
    ("memory", "swap", "written"),
    [
        (64, 128, "64"),  # memory and swap together becomes swap alone
        (64, 64, "0"),
        (64, -1, "max"),
        (-1, 0, "max"),
        (-1, 100, "100"),
        (64, 0, None),
    ],
)
def test_swap_is_without_memory(
    cgroup: ManagerV2, tree: Tree, memory: int, swap: int, written: str | None
) -> None:
    apply(cgroup, Resources(memory=Memory(limit=memory, swap=swap, reservation=7)))
    assert tree.written().get("memory.swap.max") == written
    assert tree.written()["memory.max"] == ("max" if memory == -1 else str(memory))
    assert tree.written()["memory.low"] == "7"


@pytest.mark.parametrize(("memory", "swap"), [(0, 100), (100, 50), (-2, 50)])
def test_swap_that_means_nothing_is_refused(cgroup: ManagerV2, memory: int, swap: int) -> None:
    with pytest.raises(InvalidArgument):
        apply(cgroup, Resources(memory=Memory(limit=memory, swap=swap)))


def test_no_swap_accounting_matters_only_to_those_who_limit_it(cgroup: ManagerV2) -> None:
    Path(cgroup.path, "memory.swap.max").unlink()
    apply(cgroup, Resources(memory=Memory(limit=64, swap=64)))
    with pytest.raises(NotFound, match=r"memory\.swap\.max"):
        apply(cgroup, Resources(memory=Memory(limit=64, swap=128)))


def test_io_pids_and_hugepages(cgroup: ManagerV2, tree: Tree) -> None:
    throttle = [ThrottleDevice(major=8, minor=0, rate=1000)]
    apply(
        cgroup,
        Resources(
            block_io=BlockIo(
                weight=10, throttle_read_bps_device=throttle, throttle_write_iops_device=throttle
            ),
            pids=Pids(limit=-1),
            hugepage_limits=[HugepageLimit(page_size="2MB", limit=5)],
        ),
    )
    assert [write for write in tree.writes if "io." in write[0]] == [
        ("docker/abc/io.weight", "default 1"),
        ("docker/abc/io.max", "8:0 rbps=1000"),
        ("docker/abc/io.max", "8:0 wiops=1000"),
    ]
    assert tree.written()["pids.max"] == "max"
    assert tree.written()["hugetlb.2MB.max"] == "5"


@pytest.mark.parametrize("size", ["../../x", "2MB/..", "MB", "2XB", ""])
def test_page_sizes_cannot_lead_elsewhere(cgroup: ManagerV2, size: str) -> None:
    with pytest.raises(InvalidArgument, match="hugepageLimits"):
        apply(cgroup, Resources(hugepage_limits=[HugepageLimit(page_size=size, limit=5)]))


def test_unified_comes_last_and_line_by_line(cgroup: ManagerV2, tree: Tree) -> None:
    resources = Resources(
        memory=Memory(limit=64), unified={"memory.max": "99", "io.max": "8:0 rbps=1\n8:16 rbps=2"}
    )
    apply(cgroup, resources)
    assert [data for path, data in tree.writes if path.endswith("memory.max")] == ["64", "99"]
    assert [data for path, data in tree.writes if path.endswith("io.max")] == ["8:0 rbps=1", "8:16 rbps=2"]


@pytest.mark.parametrize("file", ["../memory.max", "a/b.c", "cgroup", ".hidden", ""])
def test_unified_names_files_of_this_cgroup_only(cgroup: ManagerV2, file: str) -> None:
    with pytest.raises(InvalidArgument, match="must be"):
        apply(cgroup, Resources(unified={file: "1"}))


def test_unified_without_the_controller_says_so(cgroup: ManagerV2) -> None:
    with pytest.raises(NotFound, match='controller "misc" not available'):
        apply(cgroup, Resources(unified={"misc.max": "1"}))


def test_sigkill_is_one_write(cgroup: ManagerV2, tree: Tree) -> None:
    cgroup.kill_all(9)
    assert tree.writes == [("docker/abc/cgroup.kill", "1")]


def test_devices_need_no_program_when_all_are_open(
    cgroup: ManagerV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cutaway.oci.runtime_spec import DeviceRule

    installed: list[str] = []
    monkeypatch.setattr(device_program, "install", lambda path, program: installed.append(path))
    cgroup.apply(Resources(devices=[DeviceRule(allow=True, access="rwm")]))
    assert installed == []
    cgroup.apply(None)
    assert installed == [cgroup.path]


def test_stats_are_given_in_v1_terms(cgroup: ManagerV2) -> None:
    folder = Path(cgroup.path)
    for name, text in {
        "cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 4\nthrottled_usec 9\n",
        "memory.current": "100\n",
        "memory.max": "max\n",
        "memory.stat": "anon 60\nfile 40\n",
        "memory.events": "low 0\nmax 3\noom 1\noom_kill 2\n",
        "memory.swap.current": "10\n",
        "memory.swap.max": "max\n",
        "pids.current": "6\n",
        "pids.max": "max\n",
        "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
    }.items():
        (folder / name).write_text(text)
    stats = cgroup.stats()
    assert (stats.cpu.total, stats.cpu.user, stats.cpu.kernel) == (5000, 3000, 2000)
    assert stats.cpu.throttled_time == 9000
    assert (stats.memory.usage.usage, stats.memory.usage.limit) == (100, (1 << 64) - 1)
    assert stats.memory.swap.usage == 110
    assert stats.memory.swap.limit == (1 << 64) - 1
    assert stats.memory.cache == 40
    assert (stats.pids_current, stats.pids_limit) == (6, 0)
    assert cgroup.oom_kills() == 2
    blkio = stats.to_json()["blkio"]
    assert blkio == {
        "ioServiceBytesRecursive": [
            {"major": 8, "op": "Read", "value": 1},
            {"major": 8, "op": "Write", "value": 2},
        ],
        "ioServicedRecursive": [
            {"major": 8, "op": "Read", "value": 3},
            {"major": 8, "op": "Write", "value": 4},
        ],
    }


def test_oom_is_told_by_memory_events(cgroup: ManagerV2) -> None:
    events = Path(cgroup.path, "memory.events")
    events.write_text("oom 0\noom_kill 0\n")
    watch = cgroup.oom_events()
    try:
        assert not watch.killed()
        events.write_text("oom 1\noom_kill 0\n")
        assert not watch.killed()  # the limit was hit, nobody was killed
        events.write_text("oom 2\noom_kill 1\n")
        assert watch.killed()
        assert not watch.killed()
        events.unlink()
        assert not watch.killed()
        assert watch.gone
    finally:
        watch.close()


def test_without_a_memory_controller_there_is_no_oom_to_watch(cgroup: ManagerV2) -> None:
    with pytest.raises(NotFound, match="no memory controller"):
        cgroup.oom_events()
