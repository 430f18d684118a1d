"""Limits as properties of a unit (systemd.resource-control(5)), as runc sets them.

What this systemd does not know, or has no property for, is written to the cgroup's files all the same.
"""

import os

from cutaway.errors import InvalidArgument
from cutaway.linux import smallfile
from cutaway.linux.cgroups import devices as device_rules
from cutaway.linux.cgroups import files
from cutaway.linux.cgroups.devices import ANY
from cutaway.linux.dbus import text
from cutaway.linux.dbus.wire import Variant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.base import Manager
    from cutaway.linux.cgroups.systemd_bus import Properties
    from cutaway.oci.runtime_spec import Cpu, Memory, Resources

INFINITY = (1 << 64) - 1
_SECOND = 1_000_000  # microseconds
DEFAULT_PERIOD = 100_000  # likewise
_QUOTA_PERIOD_SINCE, _CPUSET_SINCE = 242, 244  # systemd's versions
PREFIX = "org.systemd.property."


def of_annotations(annotations: dict[str, str]) -> dict[str, Variant]:
    """`org.systemd.property.NAME`: VALUE in GVariant's text; NAMESec is taken as NAMEUSec.

    Raises `InvalidArgument` naming the annotation.
    """
    found = {}
    for key, value in annotations.items():
        name = key.removeprefix(PREFIX)
        if name == key:
            continue
        if len(name) < 3 or not (name.isascii() and name.isalpha()):
            why = "too short" if len(name) < 3 else "contains non-alphabetic character"
            raise InvalidArgument(f"annotation {key} name incorrect: {why}")
        try:
            variant = text.parse(value)
            if name.endswith("Sec") and name[-4:-3].islower():
                name, variant = name[:-3] + "USec", _microseconds(variant)
        except InvalidArgument as error:
            raise InvalidArgument(f"annotation {key}={value} value parse error: {error}") from None
        found[name] = variant
    return found


def _microseconds(seconds: Variant) -> Variant:
    if seconds.signature not in ("i", "u", "x", "t", "n", "q", "y", "d") or seconds.value < 0:
        raise InvalidArgument(f"not a number of seconds: {seconds.value!r}")
    return Variant("t", int(seconds.value * _SECOND))


def of_unit(unit: str, parent: str, container: str, pid: int, version: int) -> "Properties":
    """What makes the unit; `version` is that of cgroups."""
    properties = [("Description", Variant("s", f"libcontainer container {container}"))]
    if unit.endswith(".slice"):
        properties.append(("Wants", Variant("as", [parent])))
    else:
        properties += [
            ("Slice", Variant("s", parent)),
            ("Delegate", Variant("b", True)),
            ("PIDs", Variant("au", [pid])),
        ]
    io = "IOAccounting" if version == 2 else "BlockIOAccounting"
    for name in ("MemoryAccounting", "CPUAccounting", io, "TasksAccounting"):
        properties.append((name, Variant("b", True)))
    return [*properties, ("DefaultDependencies", Variant("b", False))]


def of_resources(
    resources: "Resources | None", version: int, systemd: int, now: "Manager", *, devices: bool
) -> "Properties":
    """What the limits are to a systemd of such a version; `now` is asked for half a quota that is left out.

    Raises `InvalidArgument` for what cannot be converted.
    """
    properties = _devices(resources) if devices else []
    if resources is None:
        return properties
    if resources.memory:
        properties += _memory(resources.memory, version)
    if resources.cpu:
        properties += _cpu(resources.cpu, version, systemd, now)
    weight = resources.block_io.weight if resources.block_io else None
    if weight and version == 1:
        properties.append(("BlockIOWeight", Variant("t", weight)))
    limit = resources.pids.limit if resources.pids else None
    if limit and (limit > 0 or limit == -1):
        properties.append(("TasksMax", _limit(limit)))
    for file, value in (resources.unified or {}).items():
        properties += _unified(file, value.strip(), systemd)
    return properties


def _limit(value: int) -> Variant:
    return Variant("t", INFINITY if value < 0 else value)


def _memory(memory: "Memory", version: int) -> "Properties":
    from cutaway.linux.cgroups import v2_limits

    properties: Properties = []
    if memory.limit:
        properties.append(("MemoryMax" if version == 2 else "MemoryLimit", _limit(memory.limit)))
    if version == 2:
        if memory.reservation:
            properties.append(("MemoryLow", _limit(memory.reservation)))
        swap = v2_limits.swap_from_memory_and_swap(memory.swap or 0, memory.limit or 0)
        if swap is not None:
            properties.append(("MemorySwapMax", _limit(swap)))
    return properties


def _cpu(cpu: "Cpu", version: int, systemd: int, now: "Manager") -> "Properties":
    from cutaway.linux.cgroups import v2_limits

    properties: Properties = []
    if cpu.shares:
        weight = v2_limits.weight_from_shares(cpu.shares)
        properties.append(
            ("CPUWeight", Variant("t", weight)) if version == 2 else ("CPUShares", Variant("t", cpu.shares))
        )
    if cpu.quota or cpu.period:
        held_quota, held_period = _quota_now(now)
        quota, period = cpu.quota or held_quota, cpu.period or held_period
        properties += _quota(quota, period, systemd, tell=bool(cpu.period) or period != DEFAULT_PERIOD)
    for name, numbers in (("AllowedCPUs", cpu.cpus), ("AllowedMemoryNodes", cpu.mems)):
        if numbers and systemd >= _CPUSET_SINCE:
            properties.append((name, Variant("ay", bits(numbers))))
    return properties


def _quota_now(now: "Manager") -> tuple[int, int]:
    """Quota (-1 is none) and period as the cgroup has them."""
    paths = now.paths()
    if now.version == 2:
        words = files.read_or(f"{paths['']}/cpu.max", "max 100000").split()
        return (-1 if words[0] == "max" else int(words[0])), int(words[1])
    directory = paths.get("cpu", "")
    quota = files.read_or(f"{directory}/cpu.cfs_quota_us", "-1")
    return int(quota), int(files.read_or(f"{directory}/cpu.cfs_period_us", "100000"))


def _quota(quota: int, period: int, systemd: int, *, tell: bool = True) -> "Properties":
    """A quota a second, rounded up to whole percents: the unit must not allow less than the cgroup.

    `tell`: name the period, too. Raises `InvalidArgument` for a period of 0.
    """
    if period <= 0:
        raise InvalidArgument(f"invalid CPU period: {period}")
    properties: Properties = []
    if tell and systemd >= _QUOTA_PERIOD_SINCE:
        properties.append(("CPUQuotaPeriodUSec", Variant("t", period)))
    a_second = INFINITY
    if quota > 0:
        a_second = -(-(quota * _SECOND // period) // 10_000) * 10_000
    return [*properties, ("CPUQuotaPerSecUSec", Variant("t", a_second))]


def bits(numbers: str) -> bytes:
    """A list like 0-2,5 as a mask, its lowest byte first, as systemd reads it. Raises `InvalidArgument`."""
    mask = 0
    try:
        for part in filter(None, (part.strip() for part in numbers.split(","))):
            first, _, last = part.partition("-")
            low, high = int(first), int(last or first)
            if not 0 <= low <= high < 1 << 16:
                raise ValueError
            mask |= (1 << high + 1) - (1 << low)
        if not mask:
            raise ValueError
    except ValueError:
        raise InvalidArgument(f"resources.CPU.Cpus={numbers!r} conversion error: invalid range") from None
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


_UNIFIED = {
    "cpu.weight": "CPUWeight", "memory.high": "MemoryHigh", "memory.low": "MemoryLow",
    "memory.min": "MemoryMin", "memory.max": "MemoryMax", "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
}  # fmt: skip
_UNIFIED_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}


def _unified(file: str, value: str, systemd: int) -> "Properties":
    """A v2 file as a property, where there is one."""
    try:
        if file in _UNIFIED:
            return [(_UNIFIED[file], Variant("t", INFINITY if value == "max" else int(value)))]
        if file == "cpu.max":
            quota, period = (*value.split(), "100000")[:2]
            return _quota(-1 if quota == "max" else int(quota), int(period), systemd)
    except ValueError:
        raise InvalidArgument(f'unified resource "{file}" value conversion error: "{value}"') from None
    if file in _UNIFIED_SETS and systemd >= _CPUSET_SINCE:
        return [(_UNIFIED_SETS[file], Variant("ay", bits(value)))]
    return []


def _devices(resources: "Resources | None") -> "Properties":
    """The rules as far as systemd can have them; the exact ones are written to the cgroup afterwards."""
    table = device_rules.table(resources.devices if resources else None)
    if table.open and not table.rules:
        return [("DevicePolicy", Variant("s", "auto")), ("DeviceAllow", Variant("a(ss)", []))]
    closed = [("DevicePolicy", Variant("s", "strict")), ("DeviceAllow", Variant("a(ss)", []))]
    if table.open:
        return closed  # systemd has no exceptions to an open list
    allowed = []
    for (kind, major, minor), access in table.rules.items():
        path = _device_path(kind, major, minor)
        if path:
            allowed.append((path, "".join(letter for letter in "rwm" if letter in access)))
    return [*closed, ("DeviceAllow", Variant("a(ss)", allowed))]


def _device_path(kind: str, major: int, minor: int) -> str:
    """How systemd names devices: all of a kind, a driver's group, or one by its path; "" if it cannot."""
    group = "char" if kind == "c" else "block"
    if major == ANY:
        return f"{group}-*" if minor == ANY else ""
    if minor == ANY:
        name = _driver(kind, major)
        return f"{group}-{name}" if name else ""
    path = f"/dev/{group}/{major}:{minor}"
    return path if os.path.exists(path) or os.path.exists(f"/sys{path}") else ""


def _driver(kind: str, major: int) -> str:
    """The driver's name in /proc/devices."""
    found = ""
    title = "Character devices:" if kind == "c" else "Block devices:"
    section = ""
    for line in os.fsdecode(smallfile.read("/proc/devices")).splitlines():
        if line.endswith(":"):
            section = line
        elif section == title and line.split()[:1] == [str(major)]:
            found = found or line.split()[1]
    return found
