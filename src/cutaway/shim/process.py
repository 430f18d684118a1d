"""A process in a container: the init, or one that exec has added."""

import os

from cutaway.errors import FailedPrecondition, NotFound
from cutaway.shim import states
from cutaway.shim.loop import Event, Lock
from cutaway.shim.runtime import kill_error
from cutaway.shim.stdio import ProcessIo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cutaway.shim.reaper import Exit
    from cutaway.shim.states import State
    from cutaway.shim.stdio import Stdio


class Process:
    """State, streams and exit of one process.

    `lock` makes the verbs of one process wait for each other. While a start is under way an exit is
    held back (`hold`), so that the world hears of the start first.
    """

    def __init__(self, id: str, stdio: "Stdio", on_exit: "Callable[[Process, Exit], None]") -> None:
        self.id = id
        self.stdio = stdio
        self.io: ProcessIo = ProcessIo()
        self.pid = 0
        self.state: State = states.CREATED
        self.exit: Exit | None = None
        self.exited = Event()
        self.lock = Lock()
        self._on_exit = on_exit
        self._held = False
        self._early: Exit | None = None

    def hold(self) -> None:
        """Keep an exit back until `release`."""
        self._held = True

    def release(self) -> None:
        self._held = False
        early, self._early = self._early, None
        if early is not None:
            self._on_exit(self, early)

    def reaped(self, exit: "Exit") -> None:
        """The reaper's call: the process has ended."""
        if self._held:
            self._early = exit
        else:
            self._on_exit(self, exit)

    def finish(self, exit: "Exit") -> None:
        """Record the end; `exited` is for the caller to set, when everybody has been told."""
        self.exit = exit
        self.state = states.STOPPED
        self.io.ended()

    @property
    def status(self) -> int:
        return self.exit.status if self.exit else 0

    @property
    def is_running(self) -> bool:
        return self.pid > 0 and self.exit is None

    def signal(self, number: int) -> None:
        """Send a signal to this process alone.

        It is a child of the shim and has not been waited for, so the pid is its own.
        Raises `NotFound`, `FailedPrecondition`.
        """
        self.state.check(states.KILL)
        if self.pid == 0:
            raise FailedPrecondition("process not created")
        if self.exit is not None:
            raise NotFound("process already finished")
        try:
            os.kill(self.pid, number)
        except OSError as error:
            raise kill_error(str(error)) from None
