"""A container's limits and devices, in the OCI document's terms."""

from cutaway.engine.spec import defaults
from cutaway.engine.spec.inputs import (
    DeviceMapping,
    Host,
    HostDevice,
    Limits,
    SpecInputs,
    ThrottleDevice,
    Ulimit,
)
from cutaway.errors import InvalidArgument
from cutaway.oci import runtime_spec as oci

CPU_PERIOD = 100_000  # microseconds, for --cpus
_RLIM_INFINITY = (1 << 64) - 1


def resources(inputs: SpecInputs, host: Host) -> oci.Resources:
    """Everything of `linux.resources`."""
    limits = inputs.limits
    return oci.Resources(
        devices=_device_rules(inputs),
        memory=_memory(limits, host),
        cpu=_cpu(limits),
        pids=None if limits.pids is None else oci.Pids(limit=limits.pids if limits.pids > 0 else -1),
        block_io=_block_io(limits),
    )


def update(limits: Limits, host: Host) -> oci.Resources:
    """Only limits, for a running container: device rules stay as they are."""
    found = resources(SpecInputs(id="", args=("",), limits=limits), host)
    found.devices = None
    return found


def _memory(limits: Limits, host: Host) -> oci.Memory | None:
    swap = limits.memory_swap
    if limits.memory and not swap:
        swap = 2 * limits.memory
    disable = limits.oom_kill_disable if host.cgroup_version == 1 else None  # v2 has no such switch
    values = (limits.memory, limits.memory_reservation, swap, limits.memory_swappiness)
    if not any(value is not None for value in values) and disable is None:
        return None
    return oci.Memory(
        limit=limits.memory or None,
        reservation=limits.memory_reservation or None,
        swap=swap or None,
        swappiness=limits.memory_swappiness,
        disable_oom_killer=disable,
    )


def _cpu(limits: Limits) -> oci.Cpu | None:
    if limits.cpu_shares is not None and limits.cpu_shares < 0:
        raise InvalidArgument(f"invalid CPU shares ({limits.cpu_shares}): value must be a positive integer")
    quota, period = limits.cpu_quota, limits.cpu_period
    if limits.nano_cpus:
        quota, period = limits.nano_cpus * CPU_PERIOD // 1_000_000_000, CPU_PERIOD
    cpu = oci.Cpu(
        shares=limits.cpu_shares or None,
        quota=quota or None,
        period=period or None,
        realtime_runtime=limits.cpu_realtime_runtime or None,
        realtime_period=limits.cpu_realtime_period or None,
        cpus=limits.cpuset_cpus or None,
        mems=limits.cpuset_mems or None,
    )
    return None if cpu == oci.Cpu() else cpu


def _block_io(limits: Limits) -> oci.BlockIo | None:
    block = oci.BlockIo(
        weight=limits.blkio_weight or None,
        throttle_read_bps_device=_throttles(limits.blkio_read_bps),
        throttle_write_bps_device=_throttles(limits.blkio_write_bps),
        throttle_read_iops_device=_throttles(limits.blkio_read_iops),
        throttle_write_iops_device=_throttles(limits.blkio_write_iops),
    )
    return None if block == oci.BlockIo() else block


def _throttles(devices: tuple[ThrottleDevice, ...]) -> list[oci.ThrottleDevice] | None:
    return [
        oci.ThrottleDevice(major=device.major, minor=device.minor, rate=device.rate) for device in devices
    ] or None


def rlimit(limit: Ulimit) -> oci.Rlimit:
    soft, hard = (value if value >= 0 else _RLIM_INFINITY for value in (limit.soft, limit.hard))
    return oci.Rlimit(type=f"RLIMIT_{limit.name.upper()}", soft=soft, hard=hard)


def _device_rules(inputs: SpecInputs) -> list[oci.DeviceRule]:
    if inputs.privileged:
        return [oci.DeviceRule(allow=True, access="rwm")]
    rules = defaults.device_rules()
    rules += [_rule_of(mapping) for mapping in inputs.devices]
    for rule in inputs.device_cgroup_rules:
        rules.append(
            oci.DeviceRule(allow=True, type=rule.type, major=rule.major, minor=rule.minor, access=rule.access)
        )
    return rules


def _rule_of(mapping: DeviceMapping) -> oci.DeviceRule:
    device = mapping.device
    if not mapping.access or set(mapping.access) - set("rwm"):
        raise InvalidArgument(f"invalid device mode: {mapping.access} (for {device.path}; use r, w and m)")
    return oci.DeviceRule(
        allow=True, type=device.type, major=device.major, minor=device.minor, access=mapping.access
    )


def device_nodes(inputs: SpecInputs, host: Host) -> list[oci.Device]:
    """Nodes to make beside the runtime's own default ones."""
    found = {device.path: device for device in host.devices} if inputs.privileged else {}
    found.update({mapping.device.path: mapping.device for mapping in inputs.devices})
    return [_node(device) for device in found.values()]


def _node(device: HostDevice) -> oci.Device:
    return oci.Device(
        path=device.path,
        type=device.type,
        major=device.major,
        minor=device.minor,
        file_mode=device.mode,
        uid=device.uid,
        gid=device.gid,
    )
