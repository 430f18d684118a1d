"""What could not be cleaned up in containerd because it was away: done when it is back, or is in the way.

An engine that starts looks at all that containerd has of its containers. One that goes on while containerd
dies and comes back knows by itself what it owes: a start that failed half way, an end whose task could not
be deleted, a creation whose snapshot stayed.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

from cutaway.engine.containers.model import Status
from cutaway.errors import CutawayError

if TYPE_CHECKING:
    from cutaway.engine.containers.index import ContainerIndex
    from cutaway.engine.runtime import ContainerdRuntime

log = logging.getLogger(__name__)

_KILL: Final = 9
_END_SECONDS: Final = 10.0


class Remains:
    """Belongs to the event loop."""

    def __init__(self, runtime: ContainerdRuntime, index: ContainerIndex) -> None:
        self._runtime = runtime
        self._index = index
        self._owed: set[str] = set()
        self._snapshots: set[str] = set()
        self._frozen: set[str] = set()

    async def discard(self, container_id: str) -> None:
        """Have containerd forget a container, and its task in whatever state. Raises what it answers."""
        self._owed.add(container_id)
        if await self._runtime.task(container_id) is not None:
            with contextlib.suppress(CutawayError):
                await self._runtime.kill(container_id, _KILL)
                await self._runtime.wait(container_id, _END_SECONDS)
            await self._runtime.delete_task(container_id)
        await self._runtime.delete_container(container_id)
        self._owed.discard(container_id)

    async def discard_now_or_later(self, container_id: str) -> None:
        """As `discard`; a failure is logged and made good when containerd is back."""
        try:
            await self.discard(container_id)
        except CutawayError as error:
            log.warning("container %s is left in containerd for now: %s", container_id[:12], error)

    def owe(self, container_id: str) -> None:
        """Note that containerd may still have a task or record of a container that does not run."""
        self._owed.add(container_id)

    async def remove_snapshot_now_or_later(self, container_id: str) -> None:
        """Remove the snapshot of a container that has not come into being."""
        try:
            await self._runtime.remove_snapshot(container_id)
        except CutawayError as error:
            self._snapshots.add(container_id)
            log.warning("snapshot %s is left in containerd for now: %s", container_id[:12], error)

    def owe_resume(self, container_id: str) -> None:
        """Note that a container was paused for something that is over."""
        self._frozen.add(container_id)

    async def settle(self, container_id: str) -> None:
        """Before a start, whose lock the caller holds: nothing of an earlier one may be in the way."""
        if container_id in self._owed:
            await self.discard(container_id)

    async def settle_all(self) -> None:
        """Containerd is back: make good what is owed."""
        for container_id in list(self._owed):
            container = self._index.by_id(container_id)
            async with container.lock if container else contextlib.nullcontext():
                if container_id in self._owed and not (container and container.state.is_running):
                    await self.discard_now_or_later(container_id)
        await self._resume_all()
        snapshots, self._snapshots = self._snapshots, set()
        for container_id in snapshots:
            await self.remove_snapshot_now_or_later(container_id)

    async def _resume_all(self) -> None:
        for container_id in list(self._frozen):
            container = self._index.by_id(container_id)
            if container is not None:
                async with container.lock:
                    if container.state.status is Status.PAUSED:
                        try:
                            await self._runtime.resume(container_id)
                        except CutawayError as error:
                            log.warning("%s could not be unpaused: %s", container.short_id, error)
                            continue
                        container.state = container.state.become(Status.RUNNING)
                        self._index.save(container)
            self._frozen.discard(container_id)
