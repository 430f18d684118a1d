"""What the container modules share: the collaborators, passed in once, and small things done everywhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cutaway.engine.containers.files import ContainerFiles
from cutaway.engine.containers.remains import Remains
from cutaway.engine.logs.writer import ContainerLog
from cutaway.engine.stdio.fifo import Writer
from cutaway.engine.stdio.hub import Hub
from cutaway.errors import CutawayError

if TYPE_CHECKING:
    from pathlib import Path

    from cutaway.engine.containers.index import ContainerIndex
    from cutaway.engine.containers.model import Container
    from cutaway.engine.events import EventBus
    from cutaway.engine.images import ImageService
    from cutaway.engine.network import NetworkService
    from cutaway.engine.runtime import ContainerdRuntime
    from cutaway.engine.settings import Settings
    from cutaway.engine.volumes import VolumeStore

log = logging.getLogger(__name__)


@dataclass
class Parts:
    """The engine's parts that containers are made with."""

    settings: Settings
    index: ContainerIndex
    runtime: ContainerdRuntime
    images: ImageService
    network: NetworkService
    volumes: VolumeStore
    events: EventBus
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    remains: Remains = field(init=False)

    def __post_init__(self) -> None:
        self.remains = Remains(self.runtime, self.index)

    def files(self, container: Container) -> ContainerFiles:
        """The container's own files on the host."""
        return ContainerFiles(self.settings.containers_dir / container.id)

    def bundle(self, container: Container) -> Path:
        """The folder of the container's FIFOs; also what tells containerd whose container it is."""
        return self.settings.fifo_dir / container.id

    def equip(self, container: Container) -> None:
        """Give a container that was created or loaded its log, its hub and its stdin."""
        if container.host.log_config.type == "json-file":
            path = self.files(container).log(container.id)
            container.log = ContainerLog(path, container.host.log_config.config)
        container.hub = Hub(container.log.write if container.log else None)
        container.stdin = Writer() if container.config.open_stdin else None

    async def end_input(self, container: Container) -> None:
        """Close a running container's stdin if its client has ended it; before the start, only note it.

        The caller holds the container's lock.
        """
        stdin = container.stdin
        if stdin is not None and stdin.end_wanted and container.state.is_running:
            stdin.close()
            await self.runtime.close_stdin(container.id)

    def background(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Run something that nobody waits for; a failure of it is logged, not lost."""
        task = asyncio.get_running_loop().create_task(self._logged(work, what))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    @staticmethod
    async def _logged(work: Coroutine[Any, Any, None], what: str) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except CutawayError as error:
            log.warning("%s failed: %s", what, error)
        except Exception:
            log.exception("%s failed", what)
