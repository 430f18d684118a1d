"""The container's init, from its first moment to its exec.

It is a fork of the runtime: same interpreter, same modules, other namespaces. From here on nothing is
imported, first because the runtime's files are out of reach after pivot_root, and above all because a
file of the container by the right name would then be run with the host's rights (`seal`).
"""

import _signal  # type: ignore[import-not-found]  # the C part: signal itself imports enum
import os

from cutaway.errors import CutawayError, FailedPrecondition, Unknown
from cutaway.linux import libc, processes
from cutaway.runc.plan.step import Here, Timing, run
from cutaway.runc.process import channel
from cutaway.runc.process.sealing import seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from cutaway.oci.runtime_spec import Process
    from cutaway.runc.plan.build import InitPlan
    from cutaway.runc.process.channel import Channel
    from cutaway.runc.process.sealed import Way

_SIGPIPE, _SIGXFSZ = 13, 25  # ignored by the interpreter, not by what it executes
_ENDING = (1, 2, 15)  # HUP, INT, TERM

BEFORE, AFTER = "before", "after"


class Init:
    """What the process needs, all of it made by the parent before the fork."""

    def __init__(self, plan: "InitPlan", process: "Process", end: "Channel", way: "Way") -> None:
        self.plan = plan
        self.way = way
        self.process = process
        self.end = end
        self.name = "runc:[2:INIT]"
        self.kept_fds = 0  # descriptors after stderr that the program gets
        self.fifo = -1  # O_PATH
        self.host_proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.joined = False  # `exec`: the root is the container's from the start
        self.enter: Callable[[], None] | None = (
            None  # `exec` without a bridge: into the container's namespaces
        )
        self.console_socket = -1
        self.stdio: list[int] = []  # for its stdin, stdout and stderr; none: those of the runtime
        self.plain_lines = False
        self.trace = False
        self.new_session = True
        # Without root, whoever gives a container its network (slirp4netns PID) reaches its namespaces only
        # while this process may be looked into. In new user and pid namespaces nobody else is there to look.
        self.visible = False

    def main(self) -> "NoReturn":
        """Run to the exec; report failure to the parent while it listens, to stderr afterwards."""
        stage = BEFORE
        try:
            here = self._settle()
            self.end.hear("go")
            timings: list[Timing] | None = [] if self.trace else None
            run(self.plan.before, here, timings)
            stage = AFTER
            self._say("ready", here, timings)
            run(self.plan.after, here, timings)
            self._farewell(here, timings)
        except channel.Gone:
            os._exit(1)
        except CutawayError as error:
            self._report(error, stage)
        except OSError as error:
            self._report(FailedPrecondition(libc.reason(error)), stage)
        except BaseException as error:  # noqa: BLE001  # a bug: said in one line, as nothing else can be done here
            self._report(Unknown(f"internal error: {type(error).__name__}: {error}"), stage)
        self._execute(here)

    def _say(self, word: str, here: Here, timings: list[Timing] | None) -> None:
        """Report, with what was noted since the last time."""
        self.end.say(word, warnings=here.warnings, timings=channel.encode_timings(timings or []))
        here.warnings = []
        if timings is not None:
            timings.clear()

    def _farewell(self, here: Here, timings: list[Timing] | None) -> None:
        try:
            self._say("done", here, timings)
        except channel.Gone:
            return  # the seccomp filter forbids sending, or the parent is gone: the program runs all the same
        finally:
            self.end.close()

    def _report(self, error: CutawayError, stage: str) -> "NoReturn":
        try:
            self.end.say_error(error, stage)
        finally:
            os._exit(1)

    def _settle(self) -> Here:
        seal()
        # Until the exec nobody in the container may look into this process, which still holds descriptors
        # of the host (CVE-2016-9962) and whose /proc/PID/exe is the host's interpreter (CVE-2019-5736).
        processes.set_dumpable(self.visible)
        processes.set_name(self.name)
        for number, fd in enumerate(self.stdio):
            os.dup2(fd, number)
        if self.enter is not None:
            self.enter()
        for signal in _ENDING:
            _signal.signal(signal, _end)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
        if self.new_session:
            os.setsid()
        processes.close_on_exec_from(3 + self.kept_fds)
        for fd in range(3, 3 + self.kept_fds):
            os.set_inheritable(fd, True)
        here = Here()
        here.console_socket = self.console_socket
        here.plain_lines = self.plain_lines
        here.host_proc = self.host_proc
        here.host_fds = os.open("self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.host_proc)
        if self.joined:
            here.root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        here.tell_parent = self.end.say
        here.hear_parent = self._await_word
        here.hand_listener = self.end.offer
        here.execute = lambda path, program, environment: self.way.execute(here, path, program, environment)
        return here

    def _await_word(self) -> None:
        self.end.hear("resume")

    def _execute(self, here: Here) -> "NoReturn":
        """Wait for `start`, then become the program. The parent is gone: errors go to stderr."""
        program, arguments = here.program, self.process.args or []
        try:
            if self.visible:
                processes.set_dumpable(True)  # a change of ids takes it away
            if self.fifo >= 0:
                _wait_for_start(here.host_fds, self.fifo)
            run(self.plan.start_hooks, here)
            for signal in (*_ENDING, _SIGPIPE, _SIGXFSZ):
                _signal.signal(signal, _signal.SIG_DFL)
            try:
                self.way.execute(here, program, arguments, here.environment)
            except OSError as error:
                os.write(2, f"exec {program}: {libc.words(error.errno or 0)}\n".encode(errors="replace"))
        except CutawayError as error:
            os.write(2, f"{error}\n".encode(errors="replace"))
        except OSError as error:
            os.write(2, f"{libc.reason(error)}\n".encode(errors="replace"))
        finally:
            os._exit(1)

    def close(self) -> None:
        """In the parent, when init has its copies."""
        self.end.close()
        os.close(self.host_proc)
        self.way.close()


def _end(number: int, _frame: object) -> None:
    """A signal that ends: the first process of a pid namespace would be spared it by default."""
    os._exit(128 + number)


def _wait_for_start(host_fds: int, fifo: int) -> None:
    """Block in open(2) until `start` opens the other end; the fifo is reached through the host's /proc."""
    fd = os.open(str(fifo), os.O_WRONLY | os.O_CLOEXEC, dir_fd=host_fds)
    os.write(fd, b"0")
    os.close(fd)
    os.close(fifo)
