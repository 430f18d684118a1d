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
    from collections.abc import Callable, Sequence
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


class _Ready:
    """A child that waits for its call."""

    __slots__ = ("child", "spare")

    def __init__(self, spare: Spare, child: Child) -> None:
        self.spare = spare
        self.child = child


def _settled(ready: _Ready | None, place: Place | None) -> _Ready | None:
    """A child that has been told where it is; None when there is none (any more), or it is let go."""
    if ready is None:
        return None
    if place is None or not ready.spare.settle(place):
        ready.spare.dismiss()
        return None
    return ready


class Launcher:
    """Starts children and learns of their end from the reaper."""

    def __init__(self, reaper: "Reaper") -> None:
        self._reaper = reaper
        self._loop = reaper.loop
        self._spare: _Ready | None = None
        self._for_short: _Ready | None = None
        self._environment: dict[str, str] | None = None  # that children forked ahead have

    def fork_ahead(self, program: programs.Program, rehearse: "Callable[[], None]") -> None:
        """Have children ready for a call of this program, and for a short one after it, before folder and
        environment are known.

        `rehearse` is for the second: what it does ahead.
        """
        try:
            self._spare = self._ready(lambda end: _wait(program, end, ahead=program.rehearse or rehearse))
            self._for_short = self._ready(lambda end: _wait(program, end, ahead=rehearse))
        except OSError:
            pass  # whoever expects a call tries again
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
        if before is not None:
            changes = _changes(before, dict(os.environ))
            place = Place(os.getcwd(), changes, list(expected))
            self._spare = _settled(self._spare, place if program else None)
            place = Place(place.cwd, changes, [])
            self._for_short = _settled(self._for_short, place if program else None)
        if self._spare is not None or program is None:
            return
        try:
            self._spare = self._ready(lambda end: _wait(program, end, expected))
        except OSError:
            return  # the call itself will say so

    def prepare_short(self, binary: str) -> None:
        """A short call is to be expected: have a child ready for it as well, unless there is one."""
        if self._for_short is not None:
            return
        try:
            program = programs.find(find_executable(binary))
            if program is not None:
                self._for_short = self._ready(lambda end: _wait(program, end))
        except (NotFound, OSError):
            return  # the call itself will say so

    def _ready(self, main: "Callable[[socket.socket], NoReturn]") -> "_Ready":
        spare = Spare(main)
        child = Child(spare.pid)
        self._reaper.expect(spare.pid, child.exited)
        return _Ready(spare, child)

    @property
    def spare_pid(self) -> int:
        """The child that waits for a call; 0 without one."""
        return self._spare.child.pid if self._spare else 0

    def _tell(
        self, ready: "_Ready | None", program: str, argv: list[str], descriptors: tuple[int, ...]
    ) -> Child | None:
        """A child that waits, at work on this call; None without one. It is not kept for another."""
        if ready is None:
            return None
        if ready.child.ended.is_set or programs.find(program) is None:
            ready.spare.dismiss()
            return None
        context = spans.current()
        if not ready.spare.tell(Call(argv, descriptors, context.traceparent if context else "")):
            ready.spare.dismiss()
            return None
        self._listen(ready)
        return ready.child

    def _listen(self, ready: "_Ready") -> None:
        """Learn the exit code before the process is gone. Its end, which the reaper sees, counts as well."""
        spare, child = ready.spare, ready.child

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
            ready, self._spare = self._spare, None
            child = self._tell(ready, program, argv, descriptors)
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

        A `short` call of a program in memory is made in this process, if it has not to wait in there, and if
        there is no child for it: the pages that it writes to are better the child's.
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
                ready, self._for_short = self._for_short, None
                child = self._tell(ready, argv[0], argv, (null, stdout, stdout if merge else null))
                if child is not None:
                    await child.ended
                    status = child.status
            if short and not stdin and status is None:
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
    program: programs.Program,
    end: "socket.socket",
    expected: "Sequence[str]" = (),
    *,
    ahead: "Callable[[], None] | None" = None,
) -> "NoReturn":
    """In a child forked in advance: get ready, and be the program when told so.

    `ahead` is what it does before it is told where it is; without that it is there.
    """
    status = _NOT_EXECUTABLE
    try:
        gc.freeze()
        _die_with_parent()
        _reset_signals()
        processes.close_from(3, {end.fileno()})
        if ahead is not None:
            ahead()
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
