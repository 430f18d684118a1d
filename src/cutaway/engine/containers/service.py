"""What the API asks of containers, in one object."""

from __future__ import annotations

import asyncio
from enum import StrEnum

from cutaway.engine.containers.adoption import Monitor
from cutaway.engine.containers.config import CreateRequest
from cutaway.engine.containers.control import Controller
from cutaway.engine.containers.create import Creator
from cutaway.engine.containers.execs import ExecService
from cutaway.engine.containers.exits import ExitHandler
from cutaway.engine.containers.launch import Launcher
from cutaway.engine.containers.model import Container, Status
from cutaway.engine.containers.parts import Parts
from cutaway.engine.containers.removal import Remover
from cutaway.errors import CutawayError, FailedPrecondition
from cutaway.oci.image_spec import Platform
from cutaway.trace import spans


class WaitCondition(StrEnum):
    NOT_RUNNING = "not-running"
    NEXT_EXIT = "next-exit"
    REMOVED = "removed"


class ContainerService:
    """Create, start, stop, remove and so on; see the modules for how."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.index = parts.index
        self.control = Controller(parts)
        self.execs = ExecService(parts)
        self._creator = Creator(parts)
        self._launcher = Launcher(parts)
        self._remover = Remover(parts)
        self.exits = ExitHandler(parts, self._launcher.start, self._remove_ended)
        self.monitor = Monitor(
            parts,
            self.exits,
            self.execs,
            self._launcher.start,
            self._remove_ended,
            self._remover.finish_failed,
        )

    async def open(self) -> None:
        """Load what was stored."""
        self.index.load()
        for container in self.index:
            self.parts.equip(container)
        await self.parts.network.reconcile({c.id for c in self.index if c.state.is_running})

    async def adopt(self) -> None:
        """Meet containerd; returns once every stored container is known for what it is."""
        self.parts.background(self.monitor.run(), "listening to containerd")
        await self.monitor.ready.wait()
        await self._remover.finish_interrupted()

    async def close(self) -> None:
        """Stop listening; containers go on."""
        self.exits.shutting_down = True
        for task in list(self.parts.tasks):
            task.cancel()
        await asyncio.gather(*self.parts.tasks, return_exceptions=True)
        for container in self.index:
            if container.log:
                container.log.close()

    def get(self, reference: str) -> Container:
        return self.index.get(reference)

    async def create(self, request: CreateRequest, name: str, platform: Platform | None = None) -> Container:
        """See `Creator.create`."""
        return await self._creator.create(request, name, platform)

    async def start(self, container: Container) -> bool:
        """Start it; False if it runs already. With `--rm`, a container that cannot start is removed."""
        async with container.lock:
            if container.restart_timer and container.state.status is Status.RESTARTING:
                container.restart_timer.cancel()
            token = spans.attach(spans.current() or container.trace)
            try:
                with spans.span("container start", container=container.id, image=container.image):
                    return await self._launcher.start(container)
            except CutawayError:
                failed = container.state.status in (Status.CREATED, Status.EXITED)
                if container.host.auto_remove and failed:
                    self.parts.background(
                        self._remove_ended(container), f"auto-remove of {container.short_id}"
                    )
                raise
            finally:
                spans.detach(token)

    async def restart(self, container: Container, seconds: int | None, signal_name: str = "") -> None:
        """Stop it if it runs, then start it."""
        auto_remove, container.host.auto_remove = container.host.auto_remove, False
        try:
            await self.control.stop(container, seconds, signal_name)
            async with container.lock:  # the exit is handled when this is free
                pass
            await self.start(container)
        finally:
            container.host.auto_remove = auto_remove
        self.parts.events.container(container, "restart")

    async def remove(self, container: Container, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it; a running one only by force, which kills it first."""
        status = container.state.status
        if container.state.is_active:
            if not force:
                raise FailedPrecondition(_cannot_remove(container))
            if status is Status.RESTARTING:
                self.control.cancel_restart(container)
            else:
                container.stopped_by_user = True
                await self.control.kill_hard(container)
        if force and container.host.auto_remove and status is not Status.CREATED:
            await self._removed_by_its_end(container)
            return
        await self._remover.remove(container, volumes=volumes)
        self.execs.forget_container(container)

    async def _removed_by_its_end(self, container: Container) -> None:
        """Killed, it is removed by itself: wait for that, and see to it if it has failed."""
        async with container.lock:
            pass
        if self.index.by_id(container.id) is not container:
            return
        if container.state.status is Status.REMOVING:
            await self.wait(container, WaitCondition.REMOVED)
        else:
            await self._remove_ended(container)

    async def _remove_ended(self, container: Container) -> None:
        await self._remover.remove(container, volumes=True)
        self.execs.forget_container(container)

    def wait(self, container: Container, condition: WaitCondition) -> asyncio.Future[int]:
        """A future of the exit code; cancel it to wait no longer."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if condition is WaitCondition.REMOVED:
            container.on_removed.add(future)
            future.add_done_callback(container.on_removed.discard)
        elif condition is WaitCondition.NOT_RUNNING and not container.state.is_active:
            future.set_result(container.state.exit_code)
        else:
            container.next_exit.add(future)
            future.add_done_callback(container.next_exit.discard)
        return future


def _cannot_remove(container: Container) -> str:
    status = container.state.status
    first = "Unpause and then stop" if status is Status.PAUSED else "Stop"
    return (
        f"You cannot remove a {status} container {container.id}. "
        f"{first} the container before attempting removal or force remove"
    )
