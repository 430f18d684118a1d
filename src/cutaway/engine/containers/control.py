"""What can be done to a container between its start and its end, in Docker's words where it cannot."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from cutaway.engine import signals
from cutaway.engine.containers.model import Container, Status
from cutaway.engine.containers.parts import Parts
from cutaway.errors import (
    CutawayError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unknown,
)

log = logging.getLogger(__name__)

DEFAULT_STOP_SECONDS: Final = 10
_KILL_SECONDS: Final = 10


class Controller:
    """Signals, pausing, naming."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def kill(self, container: Container, signal_name: str = "") -> None:
        """Send a signal, SIGKILL by default. Raises `FailedPrecondition` if it does not run."""
        number = signals.parse(signal_name or "KILL")
        if number == signal.SIGKILL:
            container.stopped_by_user = True
        if container.state.status is Status.RESTARTING and number in (signal.SIGKILL, signal.SIGTERM):
            self.cancel_restart(container)
            return
        await self.signal(container, number)
        self._parts.events.container(container, "kill", signal=str(number))

    async def signal(self, container: Container, number: int) -> None:
        """Send a signal to a running container. Raises `FailedPrecondition` if it does not run."""
        if not container.state.is_running:
            raise FailedPrecondition(
                f"Cannot kill container: {container.name}: Container {container.id} is not running"
            )
        try:
            await self._parts.runtime.kill(container.id, number)
        except NotFound:
            raise FailedPrecondition(
                f"Cannot kill container: {container.name}: Container {container.id} is not running"
            ) from None
        if number == signal.SIGKILL and container.state.status is Status.PAUSED:
            await self._thaw(container)

    async def _thaw(self, container: Container) -> None:
        """A frozen process dies only once it is thawed (cgroup v1)."""
        async with container.lock:
            if container.state.status is Status.PAUSED:
                try:
                    await self._parts.runtime.resume(container.id)
                except CutawayError as error:
                    log.debug("resume of %s: %s", container.short_id, error)
                    return  # it was killed without that (cgroup v2), and its end is on its way
                container.state = container.state.become(Status.RUNNING)
                self._parts.index.save(container)

    def cancel_restart(self, container: Container) -> None:
        """Keep a container that waits for its restart down."""
        if container.restart_timer:
            container.restart_timer.cancel()
        container.stopped_by_user = True
        container.state = container.state.become(Status.EXITED)
        self._parts.index.save(container)
        container.settle(container.next_exit)

    async def stop(self, container: Container, seconds: int | None = None, signal_name: str = "") -> bool:
        """Ask it to end, and after `seconds` (-1: for ever) make it; False if it did not run.

        The signal is the one given, else the container's own, else SIGTERM.
        """
        if not container.state.is_active:
            return False
        container.stopped_by_user = True
        if container.state.status is Status.RESTARTING:
            self.cancel_restart(container)
            return True
        number = signals.parse(signal_name or container.config.stop_signal or "TERM")
        if seconds is None:
            seconds = container.config.stop_timeout
        if seconds is None:
            seconds = DEFAULT_STOP_SECONDS
        ended = self.wait_for_exit(container)
        await self._ask(container, number)
        if not await _within(ended, None if seconds < 0 else seconds):
            await self.kill_hard(container, ended)
        self._parts.events.container(container, "stop")
        return True

    async def _ask(self, container: Container, number: int) -> None:
        try:
            await self.signal(container, number)
        except FailedPrecondition:
            return  # it ended by itself
        self._parts.events.container(container, "kill", signal=str(number))

    async def kill_hard(self, container: Container, ended: asyncio.Future[int] | None = None) -> None:
        """SIGKILL, and wait for the end. Raises `DeadlineExceeded` if it does not come."""
        ended = ended or self.wait_for_exit(container)
        await self._ask(container, signal.SIGKILL)
        if container.state.is_running and not await _within(ended, _KILL_SECONDS):
            raise DeadlineExceeded(
                f"container {container.name} PID {container.state.pid} is zombie and can not be killed. "
                "Use the --init option when creating containers to run an init inside the container that "
                "forwards signals and reaps processes"
            )

    def wait_for_exit(self, container: Container) -> asyncio.Future[int]:
        """A future of the next exit code."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        container.next_exit.add(future)
        return future

    @asynccontextmanager
    async def frozen(self, container: Container) -> AsyncIterator[None]:
        """Pause a container for as long as the block takes.

        That is not stored: an engine that dies in the block leaves a container that its next run lets go on.
        """
        await self.pause(container, store=False)
        try:
            yield
        finally:
            try:
                await self.unpause(container)
            except CutawayError as error:
                log.warning("%s could not be unpaused: %s", container.short_id, error)
                self._parts.remains.owe_resume(container.id)

    async def pause(self, container: Container, *, store: bool = True) -> None:
        async with container.lock:
            if container.state.status is Status.PAUSED:
                raise FailedPrecondition(f"Container {container.id} is already paused")
            self.require_running(container)
            await self._parts.runtime.pause(container.id)
            container.state = container.state.become(Status.PAUSED)
            if store:
                self._parts.index.save(container)
        self._parts.events.container(container, "pause")

    async def unpause(self, container: Container) -> None:
        async with container.lock:
            if container.state.status is not Status.PAUSED:
                # Docker answers 500 here, which is what Unknown becomes.
                raise Unknown(f"Container {container.id} is not paused")
            await self._parts.runtime.resume(container.id)
            container.state = container.state.become(Status.RUNNING)
            self._parts.index.save(container)
        self._parts.events.container(container, "unpause")

    @staticmethod
    def require_running(container: Container) -> None:
        """Raise `FailedPrecondition` unless there is a process."""
        if container.state.status is Status.RESTARTING:
            raise FailedPrecondition(
                f"Container {container.id} is restarting, wait until the container is running"
            )
        if not container.state.is_running:
            raise FailedPrecondition(f"Container {container.id} is not running")

    async def resize(self, container: Container, width: int, height: int) -> None:
        """Tell the container's terminal its size."""
        self.require_running(container)
        try:
            await self._parts.runtime.resize(container.id, width, height)
        except NotFound:
            raise FailedPrecondition(f"Container {container.id} is not running") from None
        self._parts.events.container(container, "resize", width=str(width), height=str(height))

    def rename(self, container: Container, name: str) -> None:
        """Give it another name. Raises `InvalidArgument`, `AlreadyExists`."""
        if not name:
            raise InvalidArgument("Neither old nor new names may be empty")
        if name.removeprefix("/") == container.name:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        old = container.name
        self._parts.index.rename(container, name)
        self._parts.events.container(container, "rename", oldName=f"/{old}")


async def _within(future: asyncio.Future[int], seconds: float | None) -> bool:
    done, _ = await asyncio.wait([future], timeout=seconds)
    return bool(done)
