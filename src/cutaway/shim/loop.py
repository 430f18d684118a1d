"""The daemon's only thread: readiness, timers and waiting coroutines.

Not asyncio: a shim forks (runtime calls, loggers) and stays small, so it has neither threads nor a
framework, only what it needs: an epoll, and coroutines that wait for an `Event`.

    event = Event()
    loop.spawn(coroutine())      # inside: `await event`
    event.set()                  # the coroutine goes on before the loop sleeps again

A coroutine runs in a context of its own (`contextvars`), so the current trace span follows it.
Whatever a callback raises is logged and the loop goes on: a shim that dies takes its container along.
"""

import select
import time
from collections import deque
from contextvars import copy_context
from heapq import heappop, heappush

from cutaway.shim import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
PRIORITY = select.EPOLLPRI
BROKEN = select.EPOLLHUP | select.EPOLLERR

_FOREVER = -1.0


class Event:
    """Something that happens once; awaiting it afterwards does not wait."""

    __slots__ = ("_waiting", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._waiting: list[Callable[[], None]] = []

    def set(self) -> None:
        """Let everybody go on who waits. A second call does nothing."""
        self.is_set = True
        waiting, self._waiting = self._waiting, []
        for resume in waiting:
            resume()

    def call(self, resume: "Callable[[], None]") -> None:
        """Call `resume` when it happens, at once if it has."""
        if self.is_set:
            resume()
        else:
            self._waiting.append(resume)

    def forget(self, resume: "Callable[[], None]") -> None:
        if resume in self._waiting:
            self._waiting.remove(resume)

    def __await__(self) -> "Generator[Event, None, None]":
        if not self.is_set:
            yield self


class Lock:
    """One coroutine at a time, in order of arrival: `async with lock:`."""

    __slots__ = ("_queue", "held")

    def __init__(self) -> None:
        self.held = False
        self._queue: deque[Event] = deque()

    async def __aenter__(self) -> None:
        if self.held:
            turn = Event()
            self._queue.append(turn)
            await turn  # whoever leaves hands the lock over, still held
        self.held = True

    async def __aexit__(self, *_: object) -> None:
        if self._queue:
            self._queue.popleft().set()
        else:
            self.held = False


class Task:
    """A coroutine on its way."""

    __slots__ = ("_context", "_coroutine", "_loop", "_waits_for", "done")

    def __init__(self, loop: "Loop", coroutine: "Coroutine[Event, None, None]") -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._context = copy_context()
        self._waits_for: Event | None = None
        self.done = Event()

    def step(self) -> None:
        """Go on until the coroutine waits again or ends."""
        if self.done.is_set:
            return  # cancelled after what it waited for had happened
        try:
            event = self._context.run(self._coroutine.send, None)
        except StopIteration:
            self.done.set()
        except Exception as error:  # noqa: BLE001 - see the module's last sentence
            log.failure("a task of the shim failed", error)
            self.done.set()
        else:
            self._waits_for = event
            event.call(self._resume)

    def _resume(self) -> None:
        self._loop.soon(self.step)

    def cancel(self) -> None:
        """End a coroutine where it waits."""
        if self._waits_for is not None:
            self._waits_for.forget(self._resume)
        self._coroutine.close()
        self.done.set()


class Timer:
    """A call at a time; `cancel` it when it is not wanted any more."""

    __slots__ = ("callback", "due", "number")

    def __init__(self, due: float, number: int, callback: "Callable[[], None]") -> None:
        self.due = due
        self.number = number
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None

    def __lt__(self, other: "Timer") -> bool:
        return (self.due, self.number) < (other.due, other.number)


class Loop:
    """Runs what is ready, in order; sleeps in epoll otherwise."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._ready: deque[Callable[[], None]] = deque()
        self._timers: list[Timer] = []
        self._count = 0
        self._stopped = False

    def close(self) -> None:
        """Let go of what it has open. It is not run again."""
        self._epoll.close()

    def watch(self, fd: int, events: int, handler: "Callable[[int], None]") -> None:
        """Call `handler(events)` while `fd` is ready. Raises OSError for what cannot be polled."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching; to be called before the descriptor is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def soon(self, callback: "Callable[[], None]") -> None:
        """Call before sleeping again."""
        self._ready.append(callback)

    def later(self, seconds: float, callback: "Callable[[], None]") -> Timer:
        self._count += 1
        timer = Timer(time.monotonic() + seconds, self._count, callback)
        heappush(self._timers, timer)
        return timer

    def spawn(self, coroutine: "Coroutine[Event, None, None]") -> Task:
        """Start a coroutine; its first part runs at once."""
        task = Task(self, coroutine)
        task.step()
        return task

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        """Until `stop()` is called. May be run again."""
        while not self._stopped:
            self._run_ready()
            if self._stopped:
                break
            for fd, events in self._poll():
                handler = self._handlers.get(fd)
                if handler is not None:
                    self._call(lambda handler=handler, events=events: handler(events))  # type: ignore[misc]
            self._run_timers()
        self._stopped = False

    def _poll(self) -> "list[tuple[int, int]]":
        while self._timers and self._timers[0].callback is None:
            heappop(self._timers)
        timeout = _FOREVER
        if self._timers:
            timeout = max(0.0, self._timers[0].due - time.monotonic())
        return self._epoll.poll(0 if self._ready else timeout)

    def _run_ready(self) -> None:
        while self._ready and not self._stopped:
            self._call(self._ready.popleft())

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].due <= now:
            callback = heappop(self._timers).callback
            if callback is not None:
                self._call(callback)

    def _call(self, callback: "Callable[[], None]") -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - see the module's last sentence
            log.failure("a part of the shim failed", error)


async def wait_for(loop: Loop, event: Event, seconds: float) -> bool:
    """Wait for an event, but no longer than that; says whether it happened."""
    either = Event()
    timer = loop.later(seconds, either.set)
    event.call(either.set)
    try:
        await either
    finally:
        timer.cancel()
        event.forget(either.set)
    return event.is_set
