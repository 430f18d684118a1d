"""A process's stdin, stdout and stderr: where the caller wants them, and what the process gets.

    caller's wish                        the process gets
    "" for all three                     /dev/null
    paths of FIFOs (or files)            pipes, with pumps between them and the FIFOs
    file:///path (stdout)                pipes, with pumps that append to the file
    binary:///program?arg                pipes, whose other ends the logging program reads
    terminal                             a pseudo-terminal, with pumps between it and the FIFOs

Pipes and not the FIFOs themselves go into the container although that costs a copy: the runtime
writes its own complaints to the descriptors that become the container's (so nothing must be
passed on before it has succeeded), it changes their owner to the container's user, and under
SELinux a container may not use a FIFO of the caller's.
"""

import os
import stat

from cutaway.errors import InvalidArgument
from cutaway.shim.loop import Event
from cutaway.shim.pump import Pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.shim.launch import Launcher
    from cutaway.shim.loop import Loop

_RDWR = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
_RDONLY = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_WRONLY = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC


class Stdio:
    """What the caller asked for."""

    __slots__ = ("stderr", "stdin", "stdout", "terminal")

    def __init__(self, stdin: str, stdout: str, stderr: str, terminal: bool) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.terminal = terminal

    @property
    def is_null(self) -> bool:
        return not (self.stdin or self.stdout or self.stderr)


class ProcessIo:
    """One process's streams: `prepare`, then `started` or `close`, then `ended`, then `close`."""

    console_socket = ""
    """For a terminal: where the runtime is to send it."""

    def __init__(self) -> None:
        self.descriptors: tuple[int, int, int] | None = None
        self.drained = Event()

    async def prepare(self) -> None:
        """What has to be waited for before the runtime is called."""

    def started(self) -> None:
        """The runtime has made the process: begin to copy. Raises `Unknown`, OSError."""
        self.drained.set()

    def ended(self) -> None:
        """The process has ended: nothing more needs to go in."""

    def close_stdin(self) -> None:
        """The caller will send no more: pass the end on when all is read."""

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size; without a terminal there is nothing to do."""

    def close(self) -> None:
        """Let go of everything. May be called at any time, and again."""


class NullIo(ProcessIo):
    """No streams at all."""

    def __init__(self) -> None:
        super().__init__()
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.descriptors = (self._null, self._null, self._null)

    def started(self) -> None:
        self.close()
        super().started()

    def close(self) -> None:
        if self._null >= 0:
            os.close(self._null)
            self._null = -1


class Sink:
    """Where output goes: a FIFO or a file, as long as it takes.

    A FIFO is held open for reading as well, so that a caller that goes away and comes back (a
    daemon's restart) breaks nothing: the container would get SIGPIPE. At the output's end only the
    reading side is kept, until `close`: the caller sees the end, and one that comes back later
    still finds what was written meanwhile.
    """

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        self._path = path
        self._is_fifo = is_fifo(path)
        self.fd = os.open(path, _RDWR if self._is_fifo else _APPEND)

    def finish(self) -> None:
        """No more output."""
        if not self._is_fifo or self.fd < 0:
            return
        try:
            reader = os.open(self._path, _RDONLY)
        except OSError:
            reader = -1  # the caller has removed it, so nobody can come back
        self.close()
        self.fd = reader

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Source:
    """Where input comes from: a FIFO that the shim holds open for writing until the caller says that
    there is no more (CloseIO): a caller may come and go."""

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        self.reader = os.open(path, _RDONLY)
        self._writer = -1
        if is_fifo(path):
            self._writer = os.open(path, _WRONLY)

    def close_writer(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1


def is_fifo(path: str) -> bool:
    return stat.S_ISFIFO(os.stat(path).st_mode)


class PipeIo(ProcessIo):
    """Pipes for the process, pumps to and from what the caller named."""

    def __init__(self, loop: "Loop", stdio: Stdio, uid: int, gid: int) -> None:
        super().__init__()
        self._loop = loop
        self._stdio = stdio
        self._owner = (uid, gid)
        self._theirs: list[int] = []
        self._ours: dict[str, int] = {}
        self._sinks: list[Sink] = []
        self._pumps: list[Pump] = []
        self._input: Pump | None = None
        self._source: Source | None = None
        self._input_pipe = -1
        try:
            self.descriptors = (
                self._pipe(stdio.stdin, reads=True),
                self._pipe(stdio.stdout, reads=False),
                self._pipe(stdio.stderr, reads=False),
            )
        except OSError:
            self.close()
            raise

    def _pipe(self, path: str, *, reads: bool) -> int:
        """The process's end of a new pipe; /dev/null when the caller does not want the stream."""
        if not path:
            self._theirs.append(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
            return self._theirs[-1]
        reader, writer = os.pipe2(os.O_CLOEXEC)
        theirs, ours = (reader, writer) if reads else (writer, reader)
        self._theirs.append(theirs)
        self._ours["stdin" if reads else "stdout" if "stdout" not in self._ours else "stderr"] = ours
        os.set_blocking(ours, False)
        if any(self._owner):
            os.fchown(theirs, *self._owner)
        return theirs

    def started(self) -> None:
        self._close_theirs()
        self._open_outputs()
        if "stdin" in self._ours:
            self._open_input(self._ours.pop("stdin"))

    def _open_outputs(self) -> None:
        for name, path in (("stdout", self._stdio.stdout), ("stderr", self._stdio.stderr)):
            if not path:
                continue
            sink = Sink(path)
            self._sinks.append(sink)
            pump = Pump(self._loop, self._ours.pop(name), sink.fd)
            self._pumps.append(pump)
            pump.ended.call(sink.finish)
        for pump in self._pumps:
            pump.ended.call(self._check_drained)
        if not self._pumps:
            self.drained.set()

    def _open_input(self, pipe: int) -> None:
        self._input_pipe = pipe
        self._source = Source(self._stdio.stdin)
        self._input = Pump(self._loop, self._source.reader, pipe)
        self._input.ended.call(self._input_ended)

    def _input_ended(self) -> None:
        os.close(self._input_pipe)
        self._input_pipe = -1
        self.close_stdin()

    def _check_drained(self) -> None:
        if all(pump.ended.is_set for pump in self._pumps):
            self.drained.set()

    def ended(self) -> None:
        for pump in self._pumps:
            pump.drain()

    def close_stdin(self) -> None:
        if self._source is not None:
            self._source.close_writer()

    def close(self) -> None:
        self._close_theirs()
        if self._input is not None:
            self._input.stop()
        for pump in self._pumps:
            pump.stop()
        for sink in self._sinks:
            sink.close()
        self._sinks = []
        for fd in self._ours.values():
            os.close(fd)
        self._ours = {}

    def _close_theirs(self) -> None:
        theirs, self._theirs = self._theirs, []
        for fd in theirs:
            os.close(fd)


def _file(stdio: Stdio, path: str) -> Stdio:
    """stdout and stderr into one file, made if it is not there."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    os.close(os.open(path, _APPEND | os.O_CREAT, 0o644))
    return Stdio(stdio.stdin, path, path, False)


class Streams:
    """Makes the streams of one container's processes."""

    def __init__(
        self, loop: "Loop", launcher: "Launcher", namespace: str, container: str, uid: int, gid: int
    ) -> None:
        self._loop = loop
        self._launcher = launcher
        self._namespace = namespace
        self._container = container
        self._owner = (uid, gid)

    def open(self, stdio: Stdio) -> ProcessIo:
        """Prepare a process's streams. Raises `InvalidArgument` for an unknown scheme, OSError."""
        if stdio.terminal:
            from cutaway.shim.console import ConsoleIo

            return ConsoleIo(self._loop, stdio)
        if stdio.is_null:
            return NullIo()
        scheme, separator, rest = stdio.stdout.partition("://")
        if not separator or scheme == "fifo":
            return PipeIo(self._loop, stdio, *self._owner)
        if scheme == "file":
            return PipeIo(self._loop, _file(stdio, rest), *self._owner)
        if scheme in ("binary", "binary-v2"):
            from cutaway.shim.logger import LoggerIo

            return LoggerIo(self._loop, self._launcher, scheme, rest, self._namespace, self._container)
        raise InvalidArgument(f"unknown STDIO scheme {scheme}")
