"""Starting programs: fork, and then exec, or the entry of a program that is in memory.

The child gets three descriptors and no other, default signals, the shim's folder and environment,
and dies with the shim (PR_SET_PDEATHSIG), so that nothing of a half-made container outlives it.
There is one thread here, so the child may run Python after the fork.
"""

import _signal  # type: ignore[import-not-found]  # the C part: signal's functions convert to and from enums
import fcntl
import gc
import os

from cutaway.errors import NotFound
from cutaway.linux import libc, patience, processes
from cutaway.shim import inside, programs
from cutaway.shim.loop import READ, Event
from cutaway.shim.spare import Call, Place, Spare, find_place, wait
from cutaway.trace import spans
from cutaway.trace.context import ENVIRONMENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import NoReturn

    from cutaway.shim.reaper import Exit, Reaper

_PR_SET_PDEATHSIG = 1  # prctl(2); cleared for the children of the child
_NOT_EXECUTABLE = 126
_MAX_OUTPUT = 4 << 20
_CALLED = "cutaway-runc"
_NOTIFY_SOCKET = "NOTIFY_SOCKET"


class Result:
    """How a program ended, and what it wrote to stdout and stderr if that was captured."""

    __slots__ = ("output", "status")

    def __init__(self, status: int, output: str) -> None:
        self.status = status
        self.output = output


class Child:
    """A running program."""

    __slots__ = ("ended", "pid", "status")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status = 0
        self.ended = Event()

    def exited(self, exit: "Exit") -> None:
        if not self.ended.is_set:
            self.status = exit.status
            self.ended.set()


class Launcher:
    """Starts children and learns of their end from the reaper."""

    def __init__(self, reaper: "Reaper") -> None:
        self._reaper = reaper
        self._loop = reaper.loop
        self._spare: Spare | None = None
        self._spare_child: Child | None = None
        self._environment: dict[str, str] | None = None  # that a child forked ahead has

    def fork_ahead(self, program: programs.Program) -> None:
        """Have a child ready for a call of this program, before folder and environment of it are known."""
        try:
            self._keep(Spare(lambda end: _wait(program, end, ahead=True)))
        except OSError:
            return  # whoever expects a call tries again
        self._environment = dict(os.environ)

    def prepare(self, binary: str, expected: "Sequence[str]" = ()) -> None:
        """A call of this program is to be expected: have a child ready for it, if it is one in memory.

        `expected` is the command line, where that is known already: then the child does what it can ahead of
        the call. A call with another is none the worse for it.
        """
        try:
            program = programs.find(find_executable(binary))
        except NotFound:
            program = None  # the call itself will say so
        before, self._environment = self._environment, None
        if self._spare is not None and before is not None:
            place = Place(os.getcwd(), _changes(before, dict(os.environ)), list(expected))
            if program is None or not self._spare.settle(place):
                self._dismiss()
        if self._spare is not None or program is None:
            return
        try:
            self._keep(Spare(lambda end: _wait(program, end, expected)))
        except OSError:
            return  # the call itself will say so

    def _keep(self, spare: Spare) -> None:
        self._spare = spare
        self._spare_child = Child(spare.pid)
        self._reaper.expect(spare.pid, self._spare_child.exited)

    def _dismiss(self) -> None:
        if self._spare is not None:
            self._spare.dismiss()
        self._spare = self._spare_child = None

    @property
    def spare_pid(self) -> int:
        """The child that waits for a call; 0 without one."""
        return self._spare.pid if self._spare else 0

    def _tell_spare(self, program: str, argv: list[str], descriptors: tuple[int, ...]) -> Child | None:
        """The spare child, at work on this call; None without one. It is not kept for another."""
        spare, child = self._spare, self._spare_child
        self._spare = self._spare_child = None
        if spare is None or child is None:
            return None
        if child.ended.is_set or programs.find(program) is None:
            spare.dismiss()
            return None
        context = spans.current()
        if not spare.tell(Call(argv, descriptors, context.traceparent if context else "")):
            spare.dismiss()
            return None
        self._listen(spare, child)
        return child

    def _listen(self, spare: Spare, child: Child) -> None:
        """Learn the exit code before the process is gone. Its end, which the reaper sees, counts as well."""

        def heard(_: int) -> None:
            self._loop.forget(spare.fileno())
            code = spare.exit_code()
            spare.dismiss()
            if code is not None and not child.ended.is_set:
                child.status = code
                child.ended.set()

        self._loop.watch(spare.fileno(), READ, heard)

    def start(
        self,
        argv: list[str],
        descriptors: tuple[int, ...],
        environment: dict[str, str] | None = None,
        *,
        survives: bool = False,
    ) -> Child:
        """Start a program with these descriptors as its 0, 1, 2 and so on.

        Without `environment` it gets the shim's. It is killed when the shim dies unless it `survives`.
        Raises `NotFound` in the words of Go's os/exec, which clients look for.
        """
        program = find_executable(argv[0])
        if environment is None and not survives:
            child = self._tell_spare(program, argv, descriptors)
            if child is not None:
                return child
        pid = os.fork()
        if pid == 0:
            _become(program, argv, environment, descriptors, survives)
        child = Child(pid)
        self._reaper.expect(pid, child.exited)
        return child

    async def run(
        self, argv: list[str], stdin: bytes = b"", merge: bool = True, *, short: bool = False
    ) -> Result:
        """Run a program to its end and return what it wrote; without `merge`, stdout alone.

        A `short` call of a program in memory is made in this process, if it has not to wait in there.
        The output goes through memory files, so nothing has to be read while it runs and a
        descendant that keeps them open delays nothing.
        """
        stdout = os.memfd_create("output")
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        source = _memory(stdin) if stdin else null
        waiting: patience.WouldWait | None = None
        try:
            status = None
            if short and not stdin:
                try:
                    status = _inside(argv, stdout, stdout if merge else null)
                except patience.WouldWait as raised:
                    waiting = raised
            if status is None:
                child = self.start(argv, (source, stdout, stdout if merge else null))
                await child.ended
                status = child.status
            return Result(status, os.pread(stdout, _MAX_OUTPUT, 0).decode(errors="replace").strip())
        finally:
            for fd in {stdout, source, null}:
                os.close(fd)
            if waiting is not None:
                waiting.close()


def _inside(argv: list[str], output: int, errors: int) -> int | None:
    """The exit code of a program that could be called in this process. Raises `patience.WouldWait`."""
    program = programs.find(find_executable(argv[0]))
    return inside.call(program.main, argv, output, errors) if program is not None else None


def _memory(content: bytes) -> int:
    fd = os.memfd_create("input")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def find_executable(name: str) -> str:
    """The file that a shell would run for `name`. Raises `NotFound`."""
    if "/" in name:
        if os.access(name, os.X_OK) and not os.path.isdir(name):
            return name
        raise NotFound(f"fork/exec {name}: no such file or directory")
    for folder in os.environ.get("PATH", os.defpath).split(":"):
        path = f"{folder or '.'}/{name}"
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    raise NotFound(f'exec: "{name}": executable file not found in $PATH')


def _become(
    program: str,
    argv: list[str],
    environment: dict[str, str] | None,
    descriptors: tuple[int, ...],
    survives: bool,
) -> "NoReturn":
    """In the child: be the program."""
    status = _NOT_EXECUTABLE
    try:
        # What is garbage here belongs to the parent: collecting it would close descriptors by number.
        gc.freeze()
        if not survives:
            _die_with_parent()
        _reset_signals()
        _take_descriptors(descriptors)
        _take_environment(environment)
        loaded = programs.find(program)
        if loaded is None:
            _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
            os.execve(program, argv, os.environ)
        status = _enter(loaded.main, argv)
    except OSError as error:
        os.write(2, f"fork/exec {program}: {error.strerror}\n".encode())
    finally:
        os._exit(status)


def _changes(before: dict[str, str], after: dict[str, str]) -> "dict[str, str | None]":
    """What makes one environment of another; None for what is to go."""
    gone: dict[str, str | None] = {name: None for name in before if name not in after}
    return {**gone, **{name: value for name, value in after.items() if before.get(name) != value}}


def _wait(
    program: programs.Program, end: "socket.socket", expected: "Sequence[str]" = (), *, ahead: bool = False
) -> "NoReturn":
    """In a child forked in advance: get ready, and be the program when told so."""
    status = _NOT_EXECUTABLE
    try:
        gc.freeze()
        _die_with_parent()
        _reset_signals()
        processes.close_from(3, {end.fileno()})
        if ahead:
            if program.rehearse is not None:
                program.rehearse()
            place = find_place(end)
            if place is None:
                os._exit(0)
            processes.set_name(_CALLED)
            place.take()
            expected = place.expected
        os.environ.pop(_NOTIFY_SOCKET, None)
        if not (expected and program.expect is not None and program.expect(list(expected[1:]))):
            processes.close_from(3, {end.fileno()})  # what a vain attempt has left
        call = wait(end)
        if call is None:
            os._exit(0)
        _move_descriptors(call.descriptors)
        if call.traceparent:
            os.environ[ENVIRONMENT] = call.traceparent
        status = _enter(program.main, call.argv)
        end.send(bytes((status,)))
    except OSError as error:
        os.write(2, f"fork/exec: {error.strerror}\n".encode())
    finally:
        os._exit(status)


def _die_with_parent() -> None:
    libc.prctl(_PR_SET_PDEATHSIG, _signal.SIGKILL, what="prctl(PR_SET_PDEATHSIG)")


def _take_environment(environment: dict[str, str] | None) -> None:
    """The given one, or the shim's with the current step's context for the program's own steps.

    Never with NOTIFY_SOCKET: the daemons' word to systemd is not the container's, as in containerd's go-runc.
    """
    os.environ.pop(_NOTIFY_SOCKET, None)
    context = spans.current()
    if environment is not None:
        replace_environment(environment)
    elif context is not None:
        os.environ[ENVIRONMENT] = context.traceparent


def replace_environment(environment: dict[str, str]) -> None:
    """Make `os.environ` this, touching only what differs: setting costs ten times a look."""
    for name in [name for name in os.environ if name not in environment]:
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _enter(main: "programs.Main", argv: list[str]) -> int:
    """Run a program that is in memory as if it had been exec'd."""
    spans.configure("", None)
    spans.attach(None)
    return inside.enter(main, argv)


def _reset_signals() -> None:
    """As a fresh interpreter has them, which ignores SIGPIPE: what is in memory is written for that."""
    _signal.set_wakeup_fd(-1)
    for number in (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGINT):
        _signal.signal(number, _signal.SIG_DFL)


def _take_descriptors(descriptors: tuple[int, ...]) -> None:
    """Move the descriptors to 0, 1, 2 and so on, whatever their numbers, and close all others."""
    free = max(*descriptors, len(descriptors)) + 1
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, free) for fd in descriptors]
    for target, fd in enumerate(high):
        os.dup2(fd, target)
    processes.close_from(len(descriptors))


def _move_descriptors(descriptors: tuple[int, ...]) -> None:
    """Move descriptors that were received here to 0, 1, 2; what else is open stays."""
    for target, fd in enumerate(descriptors):
        os.dup2(fd, target)
    processes.close(list(descriptors))
