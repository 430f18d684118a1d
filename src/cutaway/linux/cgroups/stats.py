"""A container's usage as numbers, and in the JSON form of `runc events --stats`.

Times are nanoseconds, sizes bytes. `raw` has the kernel's own key-value files (cpu.stat, memory.stat,
memory.events, memory.oom_control) for those who report other selections of them, as a shim does.
"""

UNLIMITED = (1 << 64) - 1

# The figures of a v1 cpuset besides its CPUs and memory nodes; v2 has none of them, and shows zeros.
CPUSET = (
    "cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page",
    "memory_spread_slab", "memory_pressure", "sched_load_balance", "sched_relax_domain_level",
)  # fmt: skip


class Usage:
    """One kind of memory: what is in use, the highest so far, the limit, how often it was hit."""

    __slots__ = ("failcnt", "limit", "max", "usage")

    def __init__(self, usage: int = 0, max: int = 0, limit: int = 0, failcnt: int = 0) -> None:
        self.usage = usage
        self.max = max
        self.limit = limit
        self.failcnt = failcnt

    def to_json(self) -> "dict[str, object]":
        return _lean({"usage": self.usage, "max": self.max}) | {"limit": self.limit, "failcnt": self.failcnt}


class Io:
    """One figure of one block device; `op` is Read, Write and so on, as the v1 kernel names them."""

    __slots__ = ("major", "minor", "op", "value")

    def __init__(self, major: int, minor: int, op: str, value: int) -> None:
        self.major = major
        self.minor = minor
        self.op = op
        self.value = value

    def to_json(self) -> "dict[str, object]":
        return _lean({"major": self.major, "minor": self.minor, "op": self.op, "value": self.value})


class Cpu:
    __slots__ = (
        "kernel", "percpu", "percpu_kernel", "percpu_user", "periods",
        "throttled_periods", "throttled_time", "total", "user",
    )  # fmt: skip

    def __init__(self) -> None:
        self.total = self.kernel = self.user = 0
        self.percpu: list[int] = []
        self.percpu_kernel: list[int] = []
        self.percpu_user: list[int] = []
        self.periods = self.throttled_periods = self.throttled_time = 0

    def to_json(self) -> "dict[str, object]":
        lists = {"percpu": self.percpu, "percpu_kernel": self.percpu_kernel, "percpu_user": self.percpu_user}
        usage = _lean({"total": self.total, **lists}) | {"kernel": self.kernel, "user": self.user}
        throttling = _lean(
            {
                "periods": self.periods,
                "throttledPeriods": self.throttled_periods,
                "throttledTime": self.throttled_time,
            }
        )
        return {"usage": usage, "throttling": throttling}


class Memory:
    __slots__ = ("cache", "kernel", "kernel_tcp", "raw", "swap", "usage")

    def __init__(self) -> None:
        self.cache = 0
        self.usage = Usage()
        self.swap = Usage()  # memory and swap together
        self.kernel = Usage()
        self.kernel_tcp = Usage()
        self.raw: dict[str, int] = {}

    def to_json(self) -> "dict[str, object]":
        return (
            _lean({"cache": self.cache})
            | {
                "usage": self.usage.to_json(),
                "swap": self.swap.to_json(),
                "kernel": self.kernel.to_json(),
                "kernelTCP": self.kernel_tcp.to_json(),
            }
            | _lean({"raw": self.raw})
        )


class Stats:
    __slots__ = (
        "blkio",
        "cpu",
        "cpuset",
        "hugetlb",
        "memory",
        "pids_current",
        "pids_limit",
        "raw",
        "version",
    )

    def __init__(self, version: int) -> None:
        self.version = version
        self.cpu = Cpu()
        self.memory = Memory()
        self.pids_current = 0
        self.pids_limit = 0  # 0: unlimited
        # keys as in the JSON form: ioServiceBytesRecursive, ioServicedRecursive, ...
        self.blkio: dict[str, list[Io]] = {}
        self.hugetlb: dict[str, Usage] = {}  # by page size: "2MB"
        self.cpuset: dict[str, int | list[int]] = {}
        self.raw: dict[str, dict[str, int]] = {}

    def to_json(self) -> "dict[str, object]":
        """The `data` of a stats event."""
        return {
            "cpu": self.cpu.to_json(),
            "cpuset": dict.fromkeys(CPUSET, 0) | self.cpuset,
            "memory": self.memory.to_json(),
            "pids": _lean({"current": self.pids_current, "limit": self.pids_limit}),
            "blkio": {
                key: [entry.to_json() for entry in entries] for key, entries in self.blkio.items() if entries
            },
            "hugetlb": {
                size: _lean({"usage": entry.usage, "max": entry.max}) | {"failcnt": entry.failcnt}
                for size, entry in self.hugetlb.items()
            },
            "intel_rdt": {},
            "network_interfaces": None,
        }


def _lean(values: "dict[str, object]") -> "dict[str, object]":
    """Without zero and empty values, which the JSON form leaves out."""
    return {key: value for key, value in values.items() if value}


def cpu_list(text: str) -> list[int]:
    """ "0-2,5" as numbers."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found += range(int(first), int(last or first) + 1)
    return found
