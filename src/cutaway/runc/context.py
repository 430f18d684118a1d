"""What every command gets: the global options, made into values."""

import time

from cutaway.runc.logs import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cutaway.runc.plan.step import Step, Timing
    from cutaway.runc.restart import Restart


class Context:
    """The global options of one call."""

    def __init__(
        self,
        root: str,
        log: Log,
        *,
        systemd_cgroup: bool = False,
        rootless: str = "",
        debug: bool = False,
        criu: str = "",
        words: "Sequence[str]" = (),
    ) -> None:
        self.root = root
        self.log = log
        self.systemd_cgroup = systemd_cgroup
        self.rootless = rootless
        self.debug = debug
        self.criu = criu  # the program; by default found in PATH
        self.words = words  # the whole command line
        self.tracing = False
        self.restart: Restart | None = None  # None in a fork of a warm process
        self._may_lack_cgroups: bool | None = None

    def may_lack_cgroups(self) -> bool:
        """Whether cgroups may be out of reach (`--rootless`). Raises `InvalidArgument`."""
        if self._may_lack_cgroups is None:
            from cutaway.runc import rootless

            self._may_lack_cgroups = rootless.may_lack_cgroups(self.rootless, systemd=self.systemd_cgroup)
        return self._may_lack_cgroups

    def explain(self, who: str, steps: "Iterable[Step]") -> None:
        """Write what is about to be done into the log for debugging."""
        if self.debug:
            for step in steps:
                self.log.debug(f"{who}: {step.describe()}")

    def record(self, timings: "list[Timing]") -> None:
        """Hand on what was timed, as spans of the current one."""
        if not self.tracing:
            return
        from cutaway.trace import spans

        for timing in timings:
            end = timing.end_ns or time.time_ns()  # 0: the group failed
            spans.record(timing.name, timing.start_ns, end, parent=spans.current(), **timing.values)
