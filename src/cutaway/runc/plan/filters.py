"""The steps that take from the process what no exec gives back: new privileges, and system calls."""

from cutaway.linux import processes, seccomp
from cutaway.runc.plan.step import Here, Step


class ForbidNewPrivileges(Step):
    __slots__ = ()
    group = "privileges"

    def describe(self) -> str:
        return "forbid new privileges"

    def command(self) -> str:
        return "setpriv --no-new-privs"

    def execute(self, here: Here) -> None:
        processes.no_new_privileges()


class InstallSeccomp(Step):
    """Put the compiled system call filter on the process; its listener, if it has one, goes to the agent."""

    __slots__ = ("bits", "program")
    group = "seccomp"

    def __init__(self, program: bytes, bits: int) -> None:
        self.program = program
        self.bits = bits

    def describe(self) -> str:
        return f"install a seccomp filter of {len(self.program) // seccomp.INSTRUCTION} instructions"

    def command(self) -> str:
        return "# seccomp(2)"

    def failure(self, reason: str) -> str:
        return f"unable to init seccomp: {reason}"

    def execute(self, here: Here) -> None:
        listener = seccomp.install(self.program, self.bits)
        if listener >= 0:
            here.hand_listener(listener)

    def values(self) -> dict[str, str | int | float | bool]:
        return {"instructions": len(self.program) // seccomp.INSTRUCTION}
