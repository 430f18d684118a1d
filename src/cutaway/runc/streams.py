"""A foreground program's stdin, stdout and stderr: pipes, whose bytes we carry from and to our own.

The program does not get ours: what it has it owns (`privileges._hand_over`), and may open again for more
than it was given; of our terminal it could read everything, and type into it (TIOCSTI).
"""

import os
import select
import stat

_CHUNK = 1 << 16
# What a pipe, or a terminal, takes without blocking once poll(2) says that it takes anything.
_CERTAIN = 4096


class Stream:
    """One direction: read when there is something, written on when it is taken. Never blocks."""

    __slots__ = ("_certain", "_source", "_target", "_waiting", "open")

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._waiting = b""
        self._certain = _CERTAIN
        self.open = True

    def begin(self, poller: "select.poll") -> None:
        poller.register(self._source, select.POLLIN)
        try:
            if stat.S_ISREG(os.fstat(self._target).st_mode):
                self._certain = _CHUNK
        except OSError:
            return  # not open: found out when there is something to write

    def step(self, poller: "select.poll") -> None:
        """Do what poll(2) has found possible. An end, or an error, of either side is the end of both."""
        try:
            if self._waiting:
                self._waiting = self._waiting[os.write(self._target, self._waiting[: self._certain]) :]
                if not self._waiting:
                    self._turn(poller, self._target, self._source, select.POLLIN)
            else:
                self._waiting = os.read(self._source, _CHUNK)
                self.open = bool(self._waiting)
                if self.open:
                    self._turn(poller, self._source, self._target, select.POLLOUT)
        except BlockingIOError:
            return  # somebody else was faster
        except OSError:
            self.open = False

    def _turn(self, poller: "select.poll", before: int, now: int, event: int) -> None:
        poller.unregister(before)
        poller.register(now, event)

    def place(self) -> int:
        """The descriptor that it waits for."""
        return self._target if self._waiting else self._source


class Pipes:
    """The three pipes of one program."""

    def __init__(self, owner: tuple[int, int]) -> None:
        """`owner`: the host's uid and gid of the container's root, who may give them to others."""
        stdin, stdout, stderr = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
        self.theirs = [stdin[0], stdout[1], stderr[1]]
        if owner != (os.geteuid(), os.getegid()):
            for fd in (*stdin, *stdout, *stderr):
                _give(fd, owner)
        os.set_blocking(stdin[1], False)
        self._poller = select.poll()
        # by each of our ends
        self._streams = {
            stdin[1]: Stream(0, stdin[1]),
            stdout[0]: Stream(stdout[0], 1),
            stderr[0]: Stream(stderr[0], 2),
        }
        self._stdin = stdin[1]

    def begin(self) -> None:
        """The program has its ends."""
        for fd in self.theirs:
            os.close(fd)
        self.theirs = []
        for stream in self._streams.values():
            stream.begin(self._poller)

    def pump(self, pidfd: int) -> None:
        """Carry bytes until the process ends."""
        self._poller.register(pidfd, select.POLLIN)
        while pidfd not in self._carry():
            continue
        self._poller.unregister(pidfd)

    def end(self) -> None:
        """Carry what is left, until nobody has the program's ends any more; then close ours."""
        if self.theirs:
            self.begin()
        if self._stdin in self._streams:
            self._close(self._stdin)
        while self._streams:
            self._carry()

    def _carry(self) -> "set[int]":
        """Wait for something to do and do it; the descriptors that were ready."""
        ready = {fd for fd, _ in self._poller.poll()}
        for end, stream in list(self._streams.items()):
            if stream.place() in ready:
                stream.step(self._poller)
                if not stream.open:
                    self._close(end)
        return ready

    def _close(self, end: int) -> None:
        self._poller.unregister(self._streams.pop(end).place())
        os.close(end)


def _give(fd: int, owner: tuple[int, int]) -> None:
    try:
        os.fchown(fd, *owner)
    except PermissionError:
        return  # without root: the program can use it, and cannot open it again
