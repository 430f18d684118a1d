"""Reading a container's usage from v1 files."""

from cutaway.linux.cgroups import files
from cutaway.linux.cgroups.stats import CPUSET, Io, Stats, Usage, cpu_list

# JSON key -> (BFQ's file, then the throttle layer's or CFQ's of the same meaning)
_BLKIO = {
    "ioServiceBytesRecursive": (
        "blkio.bfq.io_service_bytes_recursive", "blkio.io_service_bytes_recursive",
        "blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes",
    ),
    "ioServicedRecursive": (
        "blkio.bfq.io_serviced_recursive", "blkio.io_serviced_recursive",
        "blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced",
    ),
    "ioQueueRecursive": ("blkio.bfq.io_queued_recursive", "blkio.io_queued_recursive"),
    "ioServiceTimeRecursive": ("blkio.bfq.io_service_time_recursive", "blkio.io_service_time_recursive"),
    "ioWaitTimeRecursive": ("blkio.bfq.io_wait_time_recursive", "blkio.io_wait_time_recursive"),
    "ioMergedRecursive": ("blkio.bfq.io_merged_recursive", "blkio.io_merged_recursive"),
    "ioTimeRecursive": ("blkio.bfq.time_recursive", "blkio.time_recursive"),
    "sectorsRecursive": ("blkio.bfq.sectors_recursive", "blkio.sectors_recursive"),
}  # fmt: skip

_CLOCK_TICK = 10_000_000  # nanoseconds: USER_HZ is 100 on every machine that Linux has v1 cgroups on


def collect(paths: dict[str, str]) -> Stats:
    """Everything of the controllers in `paths`; what a kernel lacks stays at its zero."""
    stats = Stats(1)
    for controller, read in (
        ("cpuacct", _cpuacct),
        ("cpu", _cpu),
        ("cpuset", _cpuset),
        ("memory", _memory),
        ("pids", _pids),
        ("blkio", _blkio),
        ("hugetlb", _hugetlb),
    ):
        if controller in paths:
            read(paths[controller], stats)
    return stats


def _cpuacct(directory: str, stats: Stats) -> None:
    cpu = stats.cpu
    cpu.total = files.read_int(f"{directory}/cpuacct.usage", 0)
    cpu.percpu = [int(word) for word in files.read_or(f"{directory}/cpuacct.usage_percpu", "").split()]
    split = files.read_map(f"{directory}/cpuacct.stat")
    cpu.user, cpu.kernel = split.get("user", 0) * _CLOCK_TICK, split.get("system", 0) * _CLOCK_TICK
    lines = files.read_or(f"{directory}/cpuacct.usage_all", "").splitlines()[1:]  # "cpu user system"
    for _, user, system in (line.split() for line in lines):
        cpu.percpu_user.append(int(user))
        cpu.percpu_kernel.append(int(system))


def _cpu(directory: str, stats: Stats) -> None:
    stat = stats.raw["cpu.stat"] = files.read_map(f"{directory}/cpu.stat")
    stats.cpu.periods = stat.get("nr_periods", 0)
    stats.cpu.throttled_periods = stat.get("nr_throttled", 0)
    stats.cpu.throttled_time = stat.get("throttled_time", 0)


def _cpuset(directory: str, stats: Stats) -> None:
    for key in ("cpus", "mems"):
        stats.cpuset[key] = cpu_list(files.read_or(f"{directory}/cpuset.{key}", ""))
    for key in CPUSET:
        stats.cpuset[key] = files.read_int(f"{directory}/cpuset.{key}", 0)


def _memory(directory: str, stats: Stats) -> None:
    memory = stats.memory
    memory.raw = stats.raw["memory.stat"] = files.read_map(f"{directory}/memory.stat")
    memory.cache = memory.raw.get("cache", 0)
    memory.usage = _usage(f"{directory}/memory", "in_bytes")
    memory.swap = _usage(f"{directory}/memory.memsw", "in_bytes")
    memory.kernel = _usage(f"{directory}/memory.kmem", "in_bytes")
    memory.kernel_tcp = _usage(f"{directory}/memory.kmem.tcp", "in_bytes")
    stats.raw["memory.oom_control"] = files.read_map(f"{directory}/memory.oom_control")


def _usage(prefix: str, unit: str) -> Usage:
    return Usage(
        usage=files.read_int(f"{prefix}.usage_{unit}", 0),
        max=files.read_int(f"{prefix}.max_usage_{unit}", 0),
        limit=files.read_int(f"{prefix}.limit_{unit}", 0),
        failcnt=files.read_int(f"{prefix}.failcnt", 0),
    )


def _pids(directory: str, stats: Stats) -> None:
    stats.pids_current = files.read_int(f"{directory}/pids.current", 0)
    limit = files.read_or(f"{directory}/pids.max", "max").strip()
    stats.pids_limit = 0 if limit == "max" else int(limit)


def _blkio(directory: str, stats: Stats) -> None:
    for key, candidates in _BLKIO.items():
        for file in candidates:
            entries = _io(files.read_or(f"{directory}/{file}", ""))
            if entries:
                stats.blkio[key] = entries
                break


def _io(text: str) -> list[Io]:
    """Lines `8:0 Read 4096` or `8:0 17`; the last line, a total over devices, is passed over."""
    entries = []
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if len(words) in (3, 4) and words[0].isdigit():
            op = words[2] if len(words) == 4 else ""
            entries.append(Io(int(words[0]), int(words[1]), op, int(words[-1])))
    return entries


def _hugetlb(directory: str, stats: Stats) -> None:
    for size in files.page_sizes():
        stats.hugetlb[size] = _usage(f"{directory}/hugetlb.{size}", "in_bytes")
