"""A process has ended: its last output, then the clean-up, then everyone is told, in this order.

exit event ─▶ FIFOs read to their end ─▶ task, network, container deleted ─▶ state stored
           ─▶ event die ─▶ attached clients ended ─▶ waiters answered ─▶ restart or removal
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from typing import Final

from cutaway.engine.containers.model import Container, Status
from cutaway.engine.containers.parts import Parts
from cutaway.engine.runtime import TaskExit
from cutaway.engine.timestamps import now_ns
from cutaway.errors import CutawayError
from cutaway.trace import spans

log = logging.getLogger(__name__)

# A child that outlives the container's process (host pid namespace) may hold its stdout open.
DRAIN_SECONDS: Final = 2.0
_BACKOFF_FIRST: Final = 0.1
_BACKOFF_LAST: Final = 60.0
# A run of at least this long makes the next restart count as the first.
_STABLE_NS: Final = 10 * 1_000_000_000


class ExitHandler:
    """Handles the ends of containers' first processes."""

    def __init__(
        self,
        parts: Parts,
        start: Callable[[Container], Awaitable[bool]],
        remove: Callable[[Container], Awaitable[None]],
    ) -> None:
        self._parts = parts
        self._start = start
        self._remove = remove
        self.shutting_down = False

    async def handle(self, container: Container, told: TaskExit) -> None:
        """Take a container from running to exited (or restarting), once, however often it is told."""
        async with container.lock:
            if not container.state.is_running or container.state.pid != told.pid:
                return
            token = spans.attach(container.trace)
            try:
                with spans.span(
                    "container exit", container=container.id, exit_code=told.exit_code, pid=told.pid
                ):
                    await self._finish(container, told)
            finally:
                spans.detach(token)
        await self._afterwards(container)

    async def _finish(self, container: Container, told: TaskExit) -> None:
        parts = self._parts
        await container.hub.drain(DRAIN_SECONDS)
        if container.log:
            container.log.finish()
        if container.stdin:
            container.stdin.renew()
        for running in list(container.execs.values()):
            running.abandon()
        # Ended before the clean-up: the client has all it will get, and may use the time to say goodbye.
        container.hub.finish()
        finished = told.exited_ns or now_ns()
        container.state = container.state.noted(told.exit_code, finished)
        self._save(container)
        endpoint = container.endpoint
        await self._clean_up(container)
        restarting = self._restarts(container, told.exit_code)
        duration = max(0, finished - container.state.started_ns)
        container.state = container.state.ended(
            told.exit_code, finished, oom_killed=container.saw_oom, restarting=restarting
        )
        self._save(container)
        parts.events.container(
            container, "die", exitCode=str(told.exit_code), execDuration=str(duration // 1_000_000_000)
        )
        if endpoint is not None:
            parts.events.network(endpoint.network_id, endpoint.mode, container.id, "disconnect")
        container.settle(container.next_exit)
        if duration >= _STABLE_NS:
            container.restarts_in_a_row = 0

    def _save(self, container: Container) -> None:
        """A full disk must not keep those who wait for the exit waiting; the next start finds it out anew."""
        try:
            self._parts.index.save(container)
        except CutawayError as error:
            log.error("the exit of %s is not stored: %s", container.short_id, error)

    async def _clean_up(self, container: Container) -> None:
        """Free what a run took. Failures are logged: the container has ended all the same."""
        await asyncio.gather(
            self._tried(self._delete_from_containerd(container), container),
            self._tried(self._parts.network.detach(container.id), container),
        )
        container.endpoint = None
        shutil.rmtree(self._parts.bundle(container), ignore_errors=True)

    async def _delete_from_containerd(self, container: Container) -> None:
        try:
            await self._parts.runtime.delete_task(container.id)
            await self._parts.runtime.delete_container(container.id)
        except CutawayError:
            self._parts.remains.owe(container.id)
            raise

    @staticmethod
    async def _tried(work: Awaitable[None], container: Container) -> None:
        try:
            await work
        except CutawayError as error:
            log.warning("clean-up after %s: %s", container.short_id, error)

    def _restarts(self, container: Container, exit_code: int) -> bool:
        policy = container.host.restart_policy
        if container.stopped_by_user or self.shutting_down:
            return False
        if policy.name in ("always", "unless-stopped"):
            return True
        if policy.name == "on-failure" and exit_code != 0:
            limit = policy.maximum_retry_count
            return limit == 0 or container.restart_count < limit
        return False

    async def _afterwards(self, container: Container) -> None:
        if container.state.status is Status.RESTARTING:
            container.restart_timer = self._parts.background(
                self._restart(container), f"restart of {container.short_id}"
            )
        elif container.host.auto_remove and container.state.status is Status.EXITED:
            try:
                await self._remove(container)
            except CutawayError as error:
                log.warning("auto-remove of %s: %s", container.short_id, error)

    async def _restart(self, container: Container) -> None:
        """Start again after a pause that doubles with every try; a failure to start ends it."""
        pause = min(_BACKOFF_FIRST * 2**container.restarts_in_a_row, _BACKOFF_LAST)
        container.restarts_in_a_row += 1
        await asyncio.sleep(pause)
        async with container.lock:
            if container.state.status is not Status.RESTARTING:
                return
            container.restart_count += 1
            try:
                await self._start(container)
            except CutawayError as error:
                log.warning("restart of %s: %s", container.short_id, error)
