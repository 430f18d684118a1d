"""A container's counters as Docker's stats, from cgroups v1 or v2 metrics."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any as AnyMessage

from cutaway.engine import hostinfo
from cutaway.engine.containers.model import Container
from cutaway.engine.timestamps import NEVER, now_ns, rfc3339
from cutaway.errors import CutawayError
from cutaway.pb import cgroups_v1_pb2, cgroups_v2_pb2

if TYPE_CHECKING:
    from cutaway.engine.daemon import Daemon

_EMPTY_CPU: dict[str, object] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


async def stats_view(
    daemon: Daemon, container: Container, before: dict[str, object] | None
) -> dict[str, object]:
    """One set of numbers; `before` is the last one, which goes into the `pre` fields."""
    view: dict[str, object] = {
        "read": rfc3339(now_ns()) if container.state.is_running else NEVER,
        "preread": before["read"] if before else NEVER,
        "pids_stats": {},
        "blkio_stats": {},
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _EMPTY_CPU,
        "precpu_stats": before["cpu_stats"] if before else _EMPTY_CPU,
        "memory_stats": {},
        "name": f"/{container.name}",
        "id": container.id,
    }
    if not container.state.is_running:
        return view
    try:
        metrics = await daemon.runtime.metrics(container.id)
    except CutawayError:
        return view  # ended meanwhile
    if metrics is not None:
        view |= _v2(metrics) if "v2" in metrics.type_url else _v1(metrics)
    if networks := _networks(container):
        view["networks"] = networks
    return view


def _networks(container: Container) -> dict[str, object]:
    """The counters of the container's interfaces, from its own /proc/PID/net/dev."""
    names = (
        "rx_bytes",
        "rx_packets",
        "rx_errors",
        "rx_dropped",
        "tx_bytes",
        "tx_packets",
        "tx_errors",
        "tx_dropped",
    )
    places = (0, 1, 2, 3, 8, 9, 10, 11)
    if container.host.network_mode == "host":
        return {}
    try:
        lines = Path(f"/proc/{container.state.pid}/net/dev").read_text().splitlines()[2:]
    except OSError:
        return {}
    found: dict[str, object] = {}
    for line in lines:
        name, _, numbers = line.partition(":")
        if name.strip() != "lo":
            values = numbers.split()
            found[name.strip()] = {key: int(values[place]) for key, place in zip(names, places, strict=True)}
    return found


def _cpu(total: int, kernel: int, user: int, throttling: tuple[int, int, int]) -> dict[str, object]:
    return {
        "cpu_usage": {"total_usage": total, "usage_in_kernelmode": kernel, "usage_in_usermode": user},
        "system_cpu_usage": _system_cpu(),
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": dict(
            zip(("periods", "throttled_periods", "throttled_time"), throttling, strict=True)
        ),
    }


def _system_cpu() -> int:
    """Nanoseconds that all CPUs together have spent, from the first line of /proc/stat."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = sum(int(word) for word in file.readline().split()[1:8])
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _v1(metrics: AnyMessage) -> dict[str, object]:
    told = cgroups_v1_pb2.Metrics.FromString(metrics.value)
    cpu, memory = told.cpu, told.memory
    throttling = (cpu.throttling.periods, cpu.throttling.throttled_periods, cpu.throttling.throttled_time)
    blkio = [
        {"major": e.major, "minor": e.minor, "op": e.op, "value": e.value}
        for e in told.blkio.io_service_bytes_recursive
    ]
    return {
        "pids_stats": {"current": told.pids.current, "limit": told.pids.limit or (1 << 64) - 1},
        "cpu_stats": _cpu(cpu.usage.total, cpu.usage.kernel, cpu.usage.user, throttling),
        "blkio_stats": {"io_service_bytes_recursive": blkio},
        "memory_stats": {
            "usage": memory.usage.usage,
            "max_usage": memory.usage.max,
            "limit": min(memory.usage.limit or (1 << 63), hostinfo.memory_total()),
            "stats": {
                "cache": memory.cache,
                "rss": memory.rss,
                "total_inactive_file": memory.total_inactive_file,
                "inactive_file": memory.inactive_file,
            },
        },
    }


def _v2(metrics: AnyMessage) -> dict[str, object]:
    told = cgroups_v2_pb2.Metrics.FromString(metrics.value)
    cpu, memory = told.cpu, told.memory
    throttling = (cpu.nr_periods, cpu.nr_throttled, cpu.throttled_usec * 1000)
    blkio = [
        {"major": e.major, "minor": e.minor, "op": op, "value": value}
        for e in told.io.usage
        for op, value in (("read", e.rbytes), ("write", e.wbytes))
    ]
    return {
        "pids_stats": {"current": told.pids.current, "limit": told.pids.limit or (1 << 64) - 1},
        "cpu_stats": _cpu(cpu.usage_usec * 1000, cpu.system_usec * 1000, cpu.user_usec * 1000, throttling),
        "blkio_stats": {"io_service_bytes_recursive": blkio},
        "memory_stats": {
            "usage": memory.usage,
            "limit": min(memory.usage_limit or (1 << 63), hostinfo.memory_total()),
            "stats": {"anon": memory.anon, "file": memory.file, "inactive_file": memory.inactive_file},
        },
    }
