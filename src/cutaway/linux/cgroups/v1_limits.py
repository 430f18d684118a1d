"""Writing a configuration's limits to v1 controllers, in the orders that the kernel accepts.

A value of 0 means unset wherever the OCI document cannot tell the two apart, as in runc.
"""

import errno

from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument
from cutaway.linux.cgroups import files
from cutaway.linux.cgroups.controller import Controller, Journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import BlockIo, Cpu, Memory, NetworkControl, RdmaLimit, Resources


def apply(paths: dict[str, str], resources: "Resources", *, undo: bool = False) -> None:
    """Write every limit that is set; with `undo`, a failure takes back those written before it.

    Raises `InvalidArgument` for v2 files (`unified`) and for what the kernel finds invalid,
    `FailedPrecondition` for a controller that is not there.
    """
    if resources.unified:
        raise InvalidArgument("invalid configuration: cannot use unified on cgroup v1")
    journal = Journal() if undo else None
    try:
        _apply(paths, resources, journal)
    except CutawayError:
        if journal is not None:
            journal.put_back()
        raise


def before_entry(name: str, directory: str, cpu: "Cpu") -> None:
    """What must be there when a process enters: CPUs and memory nodes, and the realtime runtime."""
    controller = Controller(name, directory)
    if name == "cpuset":
        _cpuset(controller, cpu)
    else:
        _realtime(controller, cpu)


def _apply(paths: dict[str, str], resources: "Resources", journal: Journal | None) -> None:
    def controller(name: str) -> Controller:
        return Controller(name, paths.get(name), journal)

    if resources.cpu:
        _cpuset(controller("cpuset"), resources.cpu)
        _cpu(controller("cpu"), resources.cpu)
    if resources.memory:
        _memory(controller("memory"), resources.memory)
    if resources.pids and resources.pids.limit:
        limit = resources.pids.limit
        controller("pids").write("pids.max", limit if limit > 0 else "max")
    if resources.block_io:
        _blkio(controller("blkio"), resources.block_io)
    for huge in resources.hugepage_limits or ():
        size, hugetlb = page_size(huge.page_size), controller("hugetlb")
        hugetlb.write(f"hugetlb.{size}.limit_in_bytes", huge.limit)
        if hugetlb.has(f"hugetlb.{size}.rsvd.limit_in_bytes"):  # Linux 5.7: reservations count apart
            hugetlb.write(f"hugetlb.{size}.rsvd.limit_in_bytes", huge.limit)
    if resources.network:
        _network(controller("net_cls"), controller("net_prio"), resources.network)
    if resources.rdma:
        rdma(controller("rdma"), resources.rdma)


def page_size(text: str) -> str:
    """A huge page size as it stands in a file's name. It comes from the configuration: no other text may."""
    if not (text[:-2].isascii() and text[:-2].isdecimal() and text[-2:] in ("KB", "MB", "GB")):
        raise InvalidArgument(f'linux.resources.hugepageLimits: page size "{text}" is not like 2MB or 1GB')
    return text


def _cpuset(cpuset: Controller, cpu: "Cpu") -> None:
    cpuset.write_if_set("cpuset.cpus", cpu.cpus)
    cpuset.write_if_set("cpuset.mems", cpu.mems)


def _cpu(controller: Controller, cpu: "Cpu") -> None:
    if cpu.shares:
        controller.write("cpu.shares", cpu.shares)
        _check_shares(cpu.shares, controller.read_int("cpu.shares"))
    with_period = _try_first(controller, "cpu.cfs_period_us", cpu.period, retry=bool(cpu.quota))
    with_burst = None
    if cpu.burst is not None and controller.has("cpu.cfs_burst_us"):  # Linux 5.14
        with_burst = _try_first(controller, "cpu.cfs_burst_us", cpu.burst, retry=bool(cpu.quota))
    controller.write_if_set("cpu.cfs_quota_us", cpu.quota)
    controller.write_if_set("cpu.cfs_period_us", with_period)
    controller.write_if_set("cpu.cfs_burst_us", with_burst)
    if cpu.idle is not None:
        controller.write("cpu.idle", cpu.idle)
    _realtime(controller, cpu)


def _realtime(controller: Controller, cpu: "Cpu") -> None:
    period = _try_first(controller, "cpu.rt_period_us", cpu.realtime_period, retry=bool(cpu.realtime_runtime))
    controller.write_if_set("cpu.rt_runtime_us", cpu.realtime_runtime)
    controller.write_if_set("cpu.rt_period_us", period)


def _check_shares(asked: int, got: int) -> None:
    """The kernel clamps shares to 2..262144 without a word."""
    if asked > got:
        raise InvalidArgument(f"the maximum allowed cpu-shares is {got}")
    if asked < got:
        raise InvalidArgument(f"the minimum allowed cpu-shares is {got}")


def _try_first(controller: Controller, file: str, value: int | None, retry: bool) -> int | None:
    """Write a value; returns it if the kernel finds it invalid now but it may be right after another write.

    Period and quota are checked against one another and the parent's ratio, and so are the real-time
    pair: the order that works depends on the values that were there before.
    """
    if not value:
        return None
    try:
        controller.write(file, value)
    except InvalidArgument:
        if not retry:
            raise
        return value
    return None


def _memory(controller: Controller, memory: "Memory") -> None:
    _memory_and_swap(controller, memory)
    controller.write_if_set("memory.soft_limit_in_bytes", memory.reservation)
    # kernel and kernelTCP: limits deprecated since Linux 5.4 and gone since 6.x; ignored, as in runc 1.1
    if memory.disable_oom_killer:
        controller.write("memory.oom_control", 1)
    if memory.swappiness is not None and memory.swappiness != -1:
        if not 0 <= memory.swappiness <= 100:
            raise InvalidArgument(
                f"invalid memory swappiness value: {memory.swappiness} (valid range is 0-100)"
            )
        controller.write("memory.swappiness", memory.swappiness)


_LIMIT, _SWAP = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"


def _memory_and_swap(controller: Controller, memory: "Memory") -> None:
    """The kernel demands memory <= memory+swap at every moment, hence the order of the writes."""
    limit, swap = memory.limit or 0, memory.swap or 0
    if limit == -1 and not swap and controller.has(_SWAP):
        swap = -1  # unlimited memory below limited memory+swap would not be unlimited
    if limit and swap and (swap == -1 or controller.read_int(_LIMIT) < swap):
        _write_swap(controller, swap)
        _write_limit(controller, limit)
        return
    _write_limit(controller, limit)
    _write_swap(controller, swap)


def _write_swap(controller: Controller, swap: int) -> None:
    if swap == -1 and not controller.has(_SWAP):
        return  # no swap accounting: nothing limits it
    controller.write_if_set(_SWAP, swap)


def _write_limit(controller: Controller, limit: int) -> None:
    try:
        controller.write_if_set(_LIMIT, limit)
    except CutawayError as error:
        if files.code(error) != errno.EBUSY:
            raise
        usage = controller.read_int("memory.usage_in_bytes")
        peak = controller.read_int("memory.max_usage_in_bytes")
        raise FailedPrecondition(
            f"unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})"
        ) from None


def _blkio(controller: Controller, block: "BlockIo") -> None:
    # The weight belonged to CFQ until Linux 5.0; since then BFQ has one under its own name.
    bfq = "" if controller.has("blkio.weight") else "bfq."
    controller.write_if_set(f"blkio.{bfq}weight", block.weight)
    controller.write_if_set("blkio.leaf_weight", block.leaf_weight)
    for device in block.weight_device or ():
        number = f"{device.major}:{device.minor}"
        if device.weight:
            controller.write(f"blkio.{bfq}weight_device", f"{number} {device.weight}")
        if device.leaf_weight:
            controller.write("blkio.leaf_weight_device", f"{number} {device.leaf_weight}")
    for file, devices in (
        ("read_bps_device", block.throttle_read_bps_device),
        ("write_bps_device", block.throttle_write_bps_device),
        ("read_iops_device", block.throttle_read_iops_device),
        ("write_iops_device", block.throttle_write_iops_device),
    ):
        for limit in devices or ():
            controller.write(f"blkio.throttle.{file}", f"{limit.major}:{limit.minor} {limit.rate}")


def _network(net_cls: Controller, net_prio: Controller, network: "NetworkControl") -> None:
    net_cls.write_if_set("net_cls.classid", network.class_id)
    for interface in network.priorities or ():
        net_prio.write("net_prio.ifpriomap", f"{interface.name} {interface.priority}")


def rdma(controller: Controller, limits: "dict[str, RdmaLimit]") -> None:
    """The same file in v1 and v2."""
    for device, limit in limits.items():
        parts = [device]
        if limit.hca_handles is not None:
            parts.append(f"hca_handle={limit.hca_handles}")
        if limit.hca_objects is not None:
            parts.append(f"hca_object={limit.hca_objects}")
        controller.write("rdma.max", " ".join(parts))
