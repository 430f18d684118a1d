"""How the kernel schedules the process, and the execution domain it lives in."""

from cutaway.linux import processes
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
