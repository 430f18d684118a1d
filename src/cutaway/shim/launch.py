"""Starting programs: fork, and then exec, or the entry of a program that is in memory.

The child gets three descriptors and no other, default signals, the shim's folder and environment,
and dies with the shim (PR_SET_PDEATHSIG), so that nothing of a half-made container outlives it.
There is one thread here, so the child may run Python after the fork.
"""

import _signal  # type: ignore[import-not-found]  # the C part: signal's functions convert to and from enums
import fcntl
import gc
import os
import sys

from cutaway.errors import NotFound
from cutaway.linux import libc, processes
from cutaway.shim import programs
from cutaway.shim.loop import Event
from cutaway.trace import spans
from cutaway.trace.context import ENVIRONMENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from cutaway.shim.reaper import Exit, Reaper

_PR_SET_PDEATHSIG = 1  # prctl(2); cleared for the children of the child
_NOT_EXECUTABLE = 126
_MAX_OUTPUT = 4 << 20


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
        self.status = exit.status
        self.ended.set()


class Launcher:
    """Starts children and learns of their end from the reaper."""

    def __init__(self, reaper: "Reaper") -> None:
        self._reaper = reaper

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
        pid = os.fork()
        if pid == 0:
            _become(program, argv, environment, descriptors, survives)
        child = Child(pid)
        self._reaper.expect(pid, child.exited)
        return child

    async def run(self, argv: list[str], stdin: bytes = b"", merge: bool = True) -> Result:
        """Run a program to its end and return what it wrote; without `merge`, stdout alone.

        The output goes through memory files, so nothing has to be read while it runs and a
        descendant that keeps them open delays nothing.
        """
        stdout = os.memfd_create("output")
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        source = _memory(stdin) if stdin else null
        try:
            child = self.start(argv, (source, stdout, stdout if merge else null))
            await child.ended
            return Result(child.status, os.pread(stdout, _MAX_OUTPUT, 0).decode(errors="replace").strip())
        finally:
            for fd in {stdout, source, null}:
                os.close(fd)


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
            libc.prctl(_PR_SET_PDEATHSIG, _signal.SIGKILL, what="prctl(PR_SET_PDEATHSIG)")
        _reset_signals()
        _take_descriptors(descriptors)
        _take_environment(environment)
        main = programs.find(program)
        if main is None:
            os.execve(program, argv, os.environ)
        status = _enter(main, argv)
    except OSError as error:
        os.write(2, f"fork/exec {program}: {error.strerror}\n".encode())
    finally:
        os._exit(status)


def _take_environment(environment: dict[str, str] | None) -> None:
    """The given one, or the shim's with the current step's context for the program's own steps.

    Never with NOTIFY_SOCKET: the daemons' word to systemd is not the container's, as in containerd's go-runc.
    """
    os.environ.pop("NOTIFY_SOCKET", None)
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
    try:
        return main(argv[1:])
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:  # noqa: BLE001 - what the interpreter does for a program that was exec'd
        import traceback

        os.write(2, traceback.format_exc().encode())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _reset_signals() -> None:
    _signal.set_wakeup_fd(-1)
    for number in (_signal.SIGCHLD, _signal.SIGPIPE, _signal.SIGTERM, _signal.SIGINT):
        _signal.signal(number, _signal.SIG_DFL)


def _take_descriptors(descriptors: tuple[int, ...]) -> None:
    """Move the descriptors to 0, 1, 2 and so on, whatever their numbers, and close all others."""
    free = max(*descriptors, len(descriptors)) + 1
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, free) for fd in descriptors]
    for target, fd in enumerate(high):
        os.dup2(fd, target)
    processes.close_from(len(descriptors))
