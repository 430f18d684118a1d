"""Removing containers, and with each all that was made for it."""

from __future__ import annotations

import asyncio
import logging
import shutil

from cutaway.engine.containers.model import Container, Status
from cutaway.engine.containers.parts import Parts
from cutaway.errors import AlreadyExists, CutawayError, FailedPrecondition

log = logging.getLogger(__name__)


class Remover:
    """Removes containers that do not run."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def remove(self, container: Container, *, volumes: bool) -> None:
        """Remove a container and everything of it; with `volumes`, also its anonymous ones.

        The steps leave a container that a later try, or the next start of the engine, can finish
        removing; its row goes last. Raises `AlreadyExists` while someone else is at it.
        """
        if container.state.status is Status.REMOVING:
            raise AlreadyExists(f"removal of container {container.name} is already in progress")
        async with container.lock:
            if self._parts.index.by_id(container.id) is not container:
                return  # another request was quicker
            container.state = container.state.become(Status.REMOVING)
            self._parts.index.save(container)
            try:
                await self._tear_down(container)
            except CutawayError as error:
                container.state = container.state.become(Status.DEAD, error=error.message)
                self._parts.index.save(container)
                raise FailedPrecondition(f"cannot remove container {container.name}: {error}") from error
        self._forget(container, volumes)

    async def _tear_down(self, container: Container) -> None:
        parts = self._parts
        container.hub.finish()
        if container.log:
            container.log.close()
        await parts.runtime.remove_snapshot(container.id)
        folder = parts.files(container).folder
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        shutil.rmtree(parts.bundle(container), ignore_errors=True)

    def _forget(self, container: Container, volumes: bool) -> None:
        self._parts.index.remove(container)
        self._parts.events.container(container, "destroy")
        container.settle(container.next_exit)
        container.settle(container.on_removed)
        if volumes:
            self._parts.volumes.remove_anonymous(point.name for point in container.mounts if point.name)

    async def finish_interrupted(self) -> None:
        """After a crash: remove what was being removed."""
        for container in self._parts.index:
            if container.state.status is Status.REMOVING:
                container.state = container.state.become(Status.DEAD)
        await self.finish_failed()

    async def finish_failed(self) -> None:
        """Containerd is there: remove what could not be while it was not."""
        for container in list(self._parts.index):
            if container.state.status is Status.DEAD:
                try:
                    await self.remove(container, volumes=container.host.auto_remove)
                except CutawayError as error:
                    log.warning("removal of %s: %s", container.short_id, error)
