"""What the runtime will do to the kernel, as a list of steps that can be read before they are done.

A step is a small typed value: `describe` says in words what it does, with its values; `command` says
what a person could type instead; `execute` does it. Trace, error messages and tests read the same
steps, so none can drift from what really happens. Building a plan touches nothing.
"""

import time

from cutaway.errors import CutawayError, FailedPrecondition, NotFound, PermissionDenied
from cutaway.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from cutaway.trace.spans import Value

    Executor = Callable[[str, list[str], dict[str, str]], NoReturn]

_EPERM, _ENOENT, _EACCES = 1, 2, 13
_SHOWN = 400  # characters of a group's description in its span


class Here:
    """What the steps of a container's init find and leave to one another. Descriptors are -1 until made."""

    def __init__(self) -> None:
        self.root = -1  # the root's mount: O_PATH, still to be pivoted to
        self.host_proc = -1  # the host's /proc, where the container's is in its place or out of trust
        self.host_fds = -1  # the host's /proc/self/fd: reopens descriptors
        self.console_socket = -1
        self.plain_lines = False  # the terminal's other end is the runtime in the foreground
        self.terminal = -1  # slave end
        self.root_stat: os.stat_result | None = None
        self.null = -1  # a proven /dev/null of the container
        self.mask = -1  # an empty read-only tmpfs that hides directories
        self.parent = -1  # the directory at `parent_path`, for the steps that make things in it
        self.parent_path = ""
        self.old_umask = 0
        self.warnings: list[str] = []
        self.program = ""  # what will be executed
        self.environment: dict[str, str] = {}
        self.tell_parent: Callable[[str], None] = _no_parent
        self.hear_parent: Callable[[], None] = _no_parent
        self.hand_listener: Callable[[int], None] = _no_agent
        self.execute: Executor | None = None  # the way to execute a program of the container's


def _no_agent(fd: int) -> None:
    raise FailedPrecondition(f"nobody to give the seccomp listener {fd} to")


def _no_parent(word: str = "resume") -> None:
    raise FailedPrecondition(f"there is no runtime: {word}")


class Step:
    """One thing done to the kernel."""

    __slots__ = ()
    group = ""  # steps of one group, one after another, share a span
    modules: tuple[str, ...] = ()  # what executing imports: the parent does, for init no longer can

    def describe(self) -> str:
        """What this step does, with its values, as the object of "could not ..."."""
        raise NotImplementedError

    def command(self) -> str:
        """What a person could type instead; a comment (# ...) where no program does it."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Open what only the parent may open, before the container's process exists."""

    def execute(self, here: Here) -> None:
        """Do it. Raises OSError or a `CutawayError`."""
        raise NotImplementedError

    def undo(self) -> None:
        """Take back what `execute` did, when a later step fails: for steps of the parent only."""

    def failure(self, reason: str) -> str:
        """The error's text: what this step was about to do, and what the kernel said."""
        return f"{self.describe()}: {reason}"

    def values(self) -> "dict[str, Value]":
        """Values for the span of the step's group."""
        return {}


class Timing:
    """One span's worth of steps done: recorded by the parent, which can send it on."""

    __slots__ = ("end_ns", "name", "start_ns", "values")

    def __init__(self, name: str, start_ns: int) -> None:
        self.name = name
        self.start_ns = start_ns
        self.end_ns = 0
        self.values: dict[str, Value] = {}


def prepare(steps: "Sequence[Step]") -> None:
    """In the parent, before init exists: import and open what only the parent can. Raises as `run`."""
    import importlib

    for step in steps:
        for module in step.modules:
            importlib.import_module(module)
        _guarded(step, step.prepare)


def _guarded(step: Step, action: "Callable[[], None]") -> None:
    try:
        action()
    except OSError as error:
        raise _class_of(error)(step.failure(libc.reason(error))) from error
    except CutawayError as error:
        raise type(error)(step.failure(str(error))) from error


def run(steps: "Sequence[Step]", here: Here, timings: list[Timing] | None = None) -> None:
    """Execute steps in order; with `timings`, note when each group ran and what it did.

    Raises the class of `cutaway.errors` that fits, with the step's own account of it.
    """
    current: Timing | None = None
    for step in steps:
        if timings is not None:
            current = _timing(step, current, timings)
        _guarded(step, lambda step=step: step.execute(here))  # type: ignore[misc]
        if current is not None:
            current.values.update(step.values())
            current.end_ns = time.time_ns()


def _timing(step: Step, current: Timing | None, timings: list[Timing]) -> Timing:
    if current is None or current.name != step.group:
        current = Timing(step.group, time.time_ns())
        current.values["steps"] = 0
        current.values["what"] = ""
        timings.append(current)
    current.values["steps"] = int(current.values["steps"]) + 1
    told = str(current.values["what"])
    if len(told) < _SHOWN:
        current.values["what"] = f"{told}; {step.describe()}" if told else step.describe()
    return current


def _class_of(error: OSError) -> type[CutawayError]:
    if error.errno in (_EPERM, _EACCES):
        return PermissionDenied
    return NotFound if error.errno == _ENOENT else FailedPrecondition
