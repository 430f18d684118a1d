"""A container's usage in the form containerd's clients read: its own metrics types, v1 or v2."""

from cutaway.linux.cgroups.stats import UNLIMITED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from cutaway.linux.cgroups.base import Manager
    from cutaway.linux.cgroups.stats import Io, Stats, Usage
    from cutaway.pb import cgroups_v1_pb2 as v1
    from cutaway.pb import cgroups_v2_pb2 as v2

# memory.stat's names where the message has others
_V1_NAMES = {
    "pgpgin": "pg_pg_in",
    "pgpgout": "pg_pg_out",
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
    "total_pgpgin": "total_pg_pg_in",
    "total_pgpgout": "total_pg_pg_out",
    "total_pgfault": "total_pg_fault",
    "total_pgmajfault": "total_pg_maj_fault",
    "hierarchical_memsw_limit": "hierarchical_swap_limit",
}
_BLKIO = {
    "ioServiceBytesRecursive": "io_service_bytes_recursive",
    "ioServicedRecursive": "io_serviced_recursive",
    "ioQueueRecursive": "io_queued_recursive",
    "ioServiceTimeRecursive": "io_service_time_recursive",
    "ioWaitTimeRecursive": "io_wait_time_recursive",
    "ioMergedRecursive": "io_merged_recursive",
    "ioTimeRecursive": "io_time_recursive",
    "sectorsRecursive": "sectors_recursive",
}


def metrics(cgroup: "Manager") -> "Message":
    """What a cgroup uses. Raises `NotFound` when it is gone."""
    stats = cgroup.stats()
    if stats.version == 2:
        return _v2(stats)
    found = _v1(stats)
    if "blkio" in cgroup.paths():
        found.blkio.SetInParent()  # there, although there may be nothing in it
    return found


def _v1(stats: "Stats") -> "v1.Metrics":
    from cutaway.pb import cgroups_v1_pb2

    found = cgroups_v1_pb2.Metrics()
    found.pids.current, found.pids.limit = stats.pids_current, stats.pids_limit
    cpu = found.cpu
    cpu.usage.total, cpu.usage.kernel, cpu.usage.user = stats.cpu.total, stats.cpu.kernel, stats.cpu.user
    cpu.usage.per_cpu.extend(stats.cpu.percpu)
    cpu.throttling.periods = stats.cpu.periods
    cpu.throttling.throttled_periods = stats.cpu.throttled_periods
    cpu.throttling.throttled_time = stats.cpu.throttled_time
    _v1_memory(found, stats)
    for size, usage in stats.hugetlb.items():
        found.hugetlb.add(pagesize=size, usage=usage.usage, max=usage.max, failcnt=usage.failcnt)
    for key, field in _BLKIO.items():
        entries = getattr(found.blkio, field)
        for entry in stats.blkio.get(key, []):
            entries.add(op=entry.op, major=entry.major, minor=entry.minor, value=entry.value)
    return found


def _v1_memory(found: "v1.Metrics", stats: "Stats") -> None:
    memory = found.memory
    _fill(memory, stats.memory.raw, _V1_NAMES)
    _entry(memory.usage, stats.memory.usage)
    _entry(memory.swap, stats.memory.swap)
    _entry(memory.kernel, stats.memory.kernel)
    _entry(memory.kernel_tcp, stats.memory.kernel_tcp)
    _fill(found.memory_oom_control, stats.raw.get("memory.oom_control", {}), {})


def _entry(entry: "v1.MemoryEntry", usage: "Usage") -> None:
    entry.usage, entry.max, entry.limit, entry.failcnt = usage.usage, usage.max, usage.limit, usage.failcnt


def _fill(message: "Message", values: dict[str, int], names: dict[str, str]) -> None:
    """Set the fields that a kernel file has lines for; lines of newer kernels have no field."""
    fields = message.DESCRIPTOR.fields_by_name
    for key, value in values.items():
        name = names.get(key, key)
        if name in fields and fields[name].message_type is None:  # v1's `swap` line is not its `swap` entry
            setattr(message, name, value)


def _v2(stats: "Stats") -> "v2.Metrics":
    from cutaway.pb import cgroups_v2_pb2

    found = cgroups_v2_pb2.Metrics()
    found.pids.current, found.pids.limit = stats.pids_current, stats.pids_limit or UNLIMITED
    for part in (found.cpu, found.memory, found.io, found.rdma):
        part.SetInParent()
    _fill(found.cpu, stats.raw.get("cpu.stat", {}), {})
    _fill(found.memory, stats.memory.raw, {})
    found.memory.usage = stats.memory.usage.usage
    found.memory.usage_limit = stats.memory.usage.limit
    found.memory.swap_usage = max(0, stats.memory.swap.usage - stats.memory.usage.usage)
    found.memory.swap_limit = _swap_limit(stats)
    _fill(found.memory_events, stats.raw.get("memory.events", {}), {})
    for size, usage in stats.hugetlb.items():
        found.hugetlb.add(pagesize=size, current=usage.usage, max=usage.limit)
    _v2_io(found, stats)
    return found


def _swap_limit(stats: "Stats") -> int:
    """v2 counts swap by itself, `Stats` memory and swap together."""
    if UNLIMITED in (stats.memory.swap.limit, stats.memory.usage.limit):
        return UNLIMITED
    return max(0, stats.memory.swap.limit - stats.memory.usage.limit)


def _v2_io(found: "v2.Metrics", stats: "Stats") -> None:
    devices: dict[tuple[int, int], v2.IOEntry] = {}

    def device(entry: "Io") -> "v2.IOEntry":
        key = (entry.major, entry.minor)
        if key not in devices:
            devices[key] = found.io.usage.add(major=entry.major, minor=entry.minor)
        return devices[key]

    for entry in stats.blkio.get("ioServiceBytesRecursive", []):
        if entry.op in ("Read", "Write"):
            setattr(device(entry), "rbytes" if entry.op == "Read" else "wbytes", entry.value)
    for entry in stats.blkio.get("ioServicedRecursive", []):
        if entry.op in ("Read", "Write"):
            setattr(device(entry), "rios" if entry.op == "Read" else "wios", entry.value)
