"""One thread, many descriptors: the poll loop under every attached command, with signals as events.

Signals reach the loop through a pipe that the interpreter writes to (`set_wakeup_fd`), so that a
handler never runs in the middle of something and none is lost between a check and a wait.
"""

import _signal  # type: ignore[import-not-found]  # `signal` brings enum with it: 5 ms
import os
import select

from cutaway.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

READ = select.POLLIN
WRITE = select.POLLOUT
SIGWINCH: int = _signal.SIGWINCH
SIGINT: int = _signal.SIGINT

# What `run`, `attach` and `start` pass on. Not among them: what says something about this process
# itself (SIGCHLD, SIGPIPE, SIGURG, SIGWINCH) or its job control on the terminal (SIGTTIN, SIGTTOU).
PROXIED: tuple[int, ...] = tuple(
    getattr(_signal, f"SIG{name}")
    for name in ("HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM", "TSTP", "CONT", "IO", "PWR")
)


def signal_name(number: int) -> str:
    """`TERM` for 15; the number itself where it has no name."""
    for name in dir(_signal):
        if name.startswith("SIG") and name[3] != "_" and getattr(_signal, name) == number:
            return name[3:]
    return str(number)


def die_by(number: int) -> None:
    """End this process by a signal, as if its handler had never been there."""
    _signal.signal(number, _signal.SIG_DFL)
    os.kill(os.getpid(), number)


class Signals:
    """Signals as a readable descriptor. Installing is undone by `close`."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._saved: dict[int, object] = {}
        self._wakeup: int = _signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def catch(self, numbers: "Iterable[int]") -> None:
        """Turn these signals into events, except those that are ignored already (nohup's SIGHUP)."""
        for number in numbers:
            if number not in self._saved and _signal.getsignal(number) is not _signal.SIG_IGN:
                self._saved[number] = _signal.signal(number, _note)

    def fileno(self) -> int:
        return self._read

    def pending(self) -> list[int]:
        """Signals that came since the last call, in order."""
        try:
            return list(os.read(self._read, 4096))
        except BlockingIOError:
            return []

    def close(self) -> None:
        for number, handler in self._saved.items():
            _signal.signal(number, handler)
        _signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def __enter__(self) -> "Signals":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _note(number: int, frame: object) -> None:
    """The number is already in the pipe."""


class Loop:
    """Descriptors and what to do when they are ready."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def watch(self, fd: int, events: int, handler: "Callable[[int], None]") -> None:
        """Call `handler(events)` whenever `fd` is ready; a second call replaces the first."""
        try:
            self._poll.register(fd, events)
        except OSError as error:
            raise InvalidArgument(f"cannot wait on descriptor {fd}: {error.strerror}") from None
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def once(self, milliseconds: int | None = None) -> bool:
        """Wait until something is ready and handle it; False when the time passed instead."""
        ready = self._poll.poll(milliseconds)
        for fd, events in ready:
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)
        return bool(ready)
