"""The numbers of a configuration that the kernel takes as they are, and how large they may be.

The types are those of the specification's schema (schema/config-linux.json). A number outside would be cut
or refused by the kernel long after something was made.
"""

from cutaway.errors import InvalidArgument
from cutaway.oci.document import Document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Spec

_U16, _U32, _U64, _I64 = (0, 1 << 16), (0, 1 << 32), (0, 1 << 64), (-1 << 63, 1 << 63)
_DEVICE = {"major": _I64, "minor": _I64, "rate": _U64, "weight": _U16, "leaf_weight": _U16}

# Class of `cutaway.oci.runtime_spec` -> attribute -> lowest, and one above the highest
RANGES = {
    "Memory": {
        **dict.fromkeys(("limit", "reservation", "swap", "kernel", "kernel_tcp"), _I64),
        "swappiness": _U64,
    },
    "Cpu": {
        **dict.fromkeys(("shares", "period", "realtime_period", "burst"), _U64),
        **dict.fromkeys(("quota", "realtime_runtime", "idle"), _I64),
    },
    "Pids": {"limit": _I64},
    "WeightDevice": _DEVICE,
    "ThrottleDevice": _DEVICE,
    "BlockIo": _DEVICE,
    "HugepageLimit": {"limit": _U64},
    "NetworkControl": {"class_id": _U32},
    "NetworkPriority": {"priority": _U32},
    "RdmaLimit": {"hca_handles": _U32, "hca_objects": _U32},
    "Seccomp": {"default_errno_ret": _U32},
    "Syscall": {"errno_ret": _U32},
    "SyscallArg": {"index": _U32, "value": _U64, "value_two": _U64},
    "TimeOffset": {"secs": _I64, "nanosecs": _U32},
}


def check(found: "Spec") -> None:
    """Raise `InvalidArgument` with the JSON path of the first number that is out of its range."""
    if found.linux is not None:
        linux = found.linux
        for name, value in (("resources", linux.resources), ("seccomp", linux.seccomp)):
            _walk(value, f"linux.{name}")
        _walk(linux.time_offsets, "linux.timeOffsets")


def _walk(value: object, path: str) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _walk(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            _walk(item, f"{path}.{key}")
    elif isinstance(value, Document):
        ranges = RANGES.get(type(value).__name__, {})
        for name, item in value.__dict__.items():
            where = f"{path}.{value._fields[name][0]}"
            if name not in ranges:
                _walk(item, where)
            elif isinstance(item, int) and not ranges[name][0] <= item < ranges[name][1]:
                low, above = ranges[name]
                raise InvalidArgument(f"{where}: expected a number from {low} to {above - 1}, got {item}")
