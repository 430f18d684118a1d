"""Writing a configuration's limits to v2 files; the OCI document's values are v1's and are converted.

A value of 0 means unset wherever the document cannot tell the two apart, as in runc.
"""

import errno
import math

from cutaway.errors import CutawayError, InvalidArgument, NotFound
from cutaway.linux.cgroups import files
from cutaway.linux.cgroups.controller import Controller, Journal
from cutaway.linux.cgroups.v1_limits import page_size, rdma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import BlockIo, Cpu, Memory, Resources

DEFAULT_PERIOD = 100_000  # microseconds


def apply(directory: str, resources: "Resources", *, undo: bool = False) -> None:
    """Write every limit that is set; `unified` last, so that it can override the converted values.

    With `undo`, a failure takes back the values written before it.
    Raises `NotFound` naming the file when the controller is not enabled here, `InvalidArgument` for
    values that cannot be converted or that the kernel finds invalid.
    """
    journal = Journal() if undo else None
    try:
        _apply(Controller("cgroup v2", directory, journal), resources)
    except CutawayError:
        if journal is not None:
            journal.put_back()
        raise


def needs_domain(resources: "Resources | None") -> bool:
    """Whether a limit is wanted that threaded cgroups cannot have."""
    if resources is None:
        return False
    cpu, memory, block = resources.cpu, resources.memory, resources.block_io
    return bool(
        (memory and (memory.limit or memory.reservation or memory.swap))
        or (cpu and (cpu.shares or cpu.quota or cpu.period or cpu.burst or cpu.idle is not None))
        or (
            block
            and (
                block.weight
                or block.weight_device
                or block.throttle_read_bps_device
                or block.throttle_write_bps_device
                or block.throttle_read_iops_device
                or block.throttle_write_iops_device
            )
        )
        or resources.hugepage_limits
    )


def _apply(cgroup: Controller, resources: "Resources") -> None:
    if resources.cpu:
        _cpu(cgroup, resources.cpu)
        cgroup.write_if_set("cpuset.cpus", resources.cpu.cpus)
        cgroup.write_if_set("cpuset.mems", resources.cpu.mems)
    if resources.memory:
        _memory(cgroup, resources.memory)
    if resources.pids and resources.pids.limit:
        limit = resources.pids.limit
        cgroup.write("pids.max", limit if limit > 0 else "max")
    if resources.block_io:
        _io(cgroup, resources.block_io)
    for huge in resources.hugepage_limits or ():
        size = page_size(huge.page_size)
        cgroup.write(f"hugetlb.{size}.max", huge.limit)
        if cgroup.has(f"hugetlb.{size}.rsvd.max"):  # Linux 5.7: reservations count apart
            cgroup.write(f"hugetlb.{size}.rsvd.max", huge.limit)
    if resources.rdma:
        rdma(cgroup, resources.rdma)
    for file, value in (resources.unified or {}).items():
        _unified(cgroup, file, value)


def weight_from_shares(shares: int) -> int:
    """cpu.shares (2..262144, default 1024) as cpu.weight (1..10000, default 100); 0 stays unset.

    The curve through the three fixed points that runc has used since 1.3 (a line before: 1024 became 39).
    """
    if shares <= 2:
        return min(shares, 1)
    if shares >= 262_144:
        return 10_000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def _cpu(cgroup: Controller, cpu: "Cpu") -> None:
    if cpu.idle is not None:
        cgroup.write("cpu.idle", cpu.idle)
    cgroup.write_if_set("cpu.weight", weight_from_shares(cpu.shares or 0))
    quota, period = cpu.quota or 0, cpu.period or 0
    burst_left = cpu.burst
    if cpu.burst is not None:
        try:
            cgroup.write("cpu.max.burst", cpu.burst)
            burst_left = None
        except InvalidArgument:  # above the quota so far; tried again after the new one
            if not quota:
                raise
    if quota or period:
        held_quota, held_period = _held_quota(cgroup)
        share = (str(quota) if quota > 0 else "max") if quota else held_quota
        cgroup.write("cpu.max", f"{share} {period or held_period}")
    if burst_left is not None:
        cgroup.write("cpu.max.burst", burst_left)


def _held_quota(cgroup: Controller) -> tuple[str, str]:
    """What cpu.max has now: an update may name only one of the two."""
    words = files.read_or(cgroup.path("cpu.max"), "").split()
    return (words[0], words[1]) if len(words) == 2 else ("max", str(DEFAULT_PERIOD))


def _limit(value: int) -> str:
    return "max" if value == -1 else str(value)


def swap_from_memory_and_swap(swap: int, memory: int) -> int | None:
    """The document's memory+swap as swap alone; None is unset, -1 unlimited.

    Raises `InvalidArgument` for combinations that mean nothing.
    """
    if swap == 0:
        return -1 if memory == -1 else None
    if swap == -1 or memory == -1:
        return swap
    if memory == 0:
        raise InvalidArgument("unable to set swap limit without memory limit")
    if memory < 0:
        raise InvalidArgument(f"invalid memory value: {memory}")
    if swap < memory:
        raise InvalidArgument("memory+swap limit should be >= memory limit")
    return swap - memory


def _memory(cgroup: Controller, memory: "Memory") -> None:
    limit = memory.limit or 0
    if memory.check_before_update:
        _check_usage(cgroup, limit)
    swap = swap_from_memory_and_swap(memory.swap or 0, limit)
    if swap is not None:
        try:
            cgroup.write("memory.swap.max", _limit(swap))
        except NotFound:  # no swap accounting: nothing is what -1 and 0 ask for
            if swap > 0:
                raise
    if limit:
        cgroup.write("memory.max", _limit(limit))
    if memory.reservation:
        cgroup.write("memory.low", _limit(memory.reservation))


def _check_usage(cgroup: Controller, limit: int) -> None:
    """memory.max below the usage makes the kernel kill; a careful caller asks for a refusal instead."""
    usage = cgroup.read_int("memory.current")
    if 0 < limit < usage:
        raise InvalidArgument(f"unable to set memory limit to {limit} (current usage: {usage})")


def _io(cgroup: Controller, block: "BlockIo") -> None:
    bfq = cgroup.has("io.bfq.weight")
    if block.weight:
        # BFQ counts as v1 did, 1..1000; io.weight from 1 to 10000
        if bfq:
            cgroup.write("io.bfq.weight", block.weight)
        else:
            cgroup.write("io.weight", f"default {1 + (block.weight - 10) * 9999 // 990}")
    for device in block.weight_device or ():
        if device.weight and bfq:
            cgroup.write("io.bfq.weight", f"{device.major}:{device.minor} {device.weight}")
    for key, devices in (
        ("rbps", block.throttle_read_bps_device),
        ("wbps", block.throttle_write_bps_device),
        ("riops", block.throttle_read_iops_device),
        ("wiops", block.throttle_write_iops_device),
    ):
        for limit in devices or ():
            rate = str(limit.rate) if limit.rate else "max"
            cgroup.write("io.max", f"{limit.major}:{limit.minor} {key}={rate}")


def _unified(cgroup: Controller, file: str, value: str) -> None:
    """Any v2 file by name. The name is hostile: it must be one of this cgroup's own files."""
    _check_name(file)
    for line in value.splitlines() or [value]:  # io.max and the like take a device a write
        try:
            cgroup.write(file, line)
        except CutawayError as error:
            controller = file.partition(".")[0]
            enabled = ["cgroup", *files.read_or(f"{cgroup.directory}/cgroup.controllers", "").split()]
            if files.code(error) in (errno.ENOENT, errno.EACCES, errno.EPERM) and controller not in enabled:
                raise NotFound(
                    f'unified resource "{file}" can\'t be set: controller "{controller}" not available'
                ) from None
            raise type(error)(f'unable to set unified resource "{file}": {error}') from None


def _check_name(file: str) -> None:
    if "/" in file:
        raise InvalidArgument(f'unified resource "{file}" must be a file name (no slashes)')
    if "." not in file or file.startswith("."):
        raise InvalidArgument(f'unified resource "{file}" must be in the form CONTROLLER.PARAMETER')
