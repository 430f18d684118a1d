"""How the kernel schedules the process, on which CPUs, and the execution domain it lives in."""

import os

from cutaway.errors import InvalidArgument
from cutaway.linux import libc, processes
from cutaway.runc.plan.step import Here, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Scheduler

POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip

SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}  # fmt: skip

IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}

MAX_CPU = 64 * 1024  # far beyond any machine; a mask for more would be mere memory
_CPU_DIGITS = 10
PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}


class SetScheduling(Step):
    """Scheduler, I/O priority and personality, where the configuration names them."""

    __slots__ = ("io", "personality", "scheduler")
    group = "privileges"

    def __init__(
        self, scheduler: "Scheduler | None", io: tuple[int, int] | None, personality: int | None
    ) -> None:
        self.scheduler = scheduler
        self.io = io
        self.personality = personality

    def describe(self) -> str:
        return "set scheduler, I/O priority and personality"

    def command(self) -> str:
        return "chrt ...; ionice ...; setarch ..."

    def execute(self, here: Here) -> None:
        if self.scheduler is not None:
            wanted = self.scheduler
            bits = sum(SCHEDULER_FLAGS[name] for name in wanted.flags)
            times = (wanted.runtime or 0, wanted.deadline or 0, wanted.period or 0)
            processes.set_scheduler(
                POLICIES[wanted.policy], bits, wanted.nice or 0, wanted.priority or 0, times
            )
        if self.io is not None:
            processes.set_io_priority(*self.io)
        if self.personality is not None:
            processes.personality(self.personality)


class SetAffinity(Step):
    """Keep the process on some CPUs (`execCPUAffinity.final`), once it is in the container's cgroup."""

    __slots__ = ("cpus",)
    group = "privileges"

    def __init__(self, cpus: list[int]) -> None:
        self.cpus = cpus

    def describe(self) -> str:
        return f"run on CPUs {','.join(map(str, self.cpus))}"

    def command(self) -> str:
        return f"taskset --cpu-list {','.join(map(str, self.cpus))}"

    def failure(self, reason: str) -> str:
        return f"error setting final CPU affinity: {reason}"

    def execute(self, here: Here) -> None:
        os.sched_setaffinity(0, self.cpus)


def set_initial_affinity(cpus: list[int]) -> None:
    """The same for the caller, before its cgroups (`execCPUAffinity.initial`). Raises `InvalidArgument`."""
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise InvalidArgument(f"error setting initial CPU affinity: {libc.words(error.errno or 0)}") from None


def cpu_list(text: str) -> list[int]:
    """CPUs from a list of numbers and ranges, "0-3,7"; spaces and empty elements are passed over.

    Raises `InvalidArgument`.
    """
    found: set[int] = set()
    for element in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = element.partition("-")
        start, end = _cpu(first), _cpu(last if dash else first)
        if start > end:
            raise InvalidArgument(f"invalid range: {element}")
        found.update(range(start, end + 1))
    if not found:
        raise InvalidArgument(f'no members found in set "{text}"')
    return sorted(found)


def _cpu(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise InvalidArgument(f'"{text}" is no CPU number')
    if len(text) > _CPU_DIGITS or int(text) > MAX_CPU:
        raise InvalidArgument(f"values larger than {MAX_CPU} are not supported")
    return int(text)
