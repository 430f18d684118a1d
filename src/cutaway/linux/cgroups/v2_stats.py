"""Reading a container's usage from v2 files, given in the terms of v1 where `runc events` does so."""

from cutaway.linux.cgroups import files
from cutaway.linux.cgroups.stats import UNLIMITED, Io, Stats, Usage

_MICROSECOND = 1000  # nanoseconds

# io.stat's key -> (JSON key, op)
_IO = {
    "rbytes": ("ioServiceBytesRecursive", "Read"),
    "wbytes": ("ioServiceBytesRecursive", "Write"),
    "rios": ("ioServicedRecursive", "Read"),
    "wios": ("ioServicedRecursive", "Write"),
}


def collect(directory: str) -> Stats:
    """Everything of a cgroup; what is not enabled in it stays at its zero."""
    stats = Stats(2)
    _cpu(directory, stats)
    _memory(directory, stats)
    stats.pids_current = files.read_int(f"{directory}/pids.current", 0)
    limit = files.read_or(f"{directory}/pids.max", "max").strip()
    stats.pids_limit = 0 if limit == "max" else int(limit)
    _io(files.read_or(f"{directory}/io.stat", ""), stats)
    for size in files.page_sizes():
        if files.exists(f"{directory}/hugetlb.{size}.current"):
            events = files.read_map(f"{directory}/hugetlb.{size}.events")
            stats.hugetlb[size] = Usage(
                usage=files.read_int(f"{directory}/hugetlb.{size}.current", 0),
                limit=files.read_int(f"{directory}/hugetlb.{size}.max", 0),
                failcnt=events.get("max", 0),
            )
    return stats


def _cpu(directory: str, stats: Stats) -> None:
    stat = stats.raw["cpu.stat"] = files.read_map(f"{directory}/cpu.stat")
    cpu = stats.cpu
    cpu.total = stat.get("usage_usec", 0) * _MICROSECOND
    cpu.user = stat.get("user_usec", 0) * _MICROSECOND
    cpu.kernel = stat.get("system_usec", 0) * _MICROSECOND
    cpu.periods = stat.get("nr_periods", 0)
    cpu.throttled_periods = stat.get("nr_throttled", 0)
    cpu.throttled_time = stat.get("throttled_usec", 0) * _MICROSECOND


def _memory(directory: str, stats: Stats) -> None:
    if not files.exists(f"{directory}/memory.current"):
        return
    memory = stats.memory
    memory.raw = stats.raw["memory.stat"] = files.read_map(f"{directory}/memory.stat")
    stats.raw["memory.events"] = files.read_map(f"{directory}/memory.events")
    memory.cache = memory.raw.get("file", 0)
    memory.usage = Usage(
        usage=files.read_int(f"{directory}/memory.current", 0),
        max=files.read_int(f"{directory}/memory.peak", 0),  # Linux 5.19
        limit=files.read_int(f"{directory}/memory.max", UNLIMITED),
        failcnt=stats.raw["memory.events"].get("max", 0),
    )
    swap = Usage(
        usage=files.read_int(f"{directory}/memory.swap.current", 0),
        limit=files.read_int(f"{directory}/memory.swap.max", 0),
    )
    swap.usage += memory.usage.usage  # v1 counts memory and swap together
    swap.limit = min(UNLIMITED, swap.limit + memory.usage.limit)
    memory.swap = swap


def _io(text: str, stats: Stats) -> None:
    """Lines `8:0 rbytes=4096 wbytes=0 rios=1 ...`."""
    for line in text.splitlines():
        device, _, figures = line.partition(" ")
        major, _, minor = device.partition(":")
        for figure in figures.split():
            key, _, value = figure.partition("=")
            if key in _IO and major.isdigit() and minor.isdigit():
                name, op = _IO[key]
                stats.blkio.setdefault(name, []).append(Io(int(major), int(minor), op, int(value)))
