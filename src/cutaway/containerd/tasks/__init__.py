"""Tasks: running containers, each behind a shim.

bundles   the directory of a task
launch    a shim's binary: start and delete
shim      a connected shim
manager   all of them
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutaway.containerd.app import App
    from cutaway.containerd.server import Service


class Tasks:
    """The daemon's part that runs things: task and event services, and the socket for shims' events."""

    def __init__(self, app: App) -> None:
        from cutaway.containerd.shim_events import ShimEvents
        from cutaway.containerd.tasks.manager import Manager

        self._app = app
        self._manager = Manager(app)
        self._events = ShimEvents(app.bus, app.config.ttrpc_address)

    def services(self) -> list[Service]:
        from cutaway.containerd.services.events import Events
        from cutaway.containerd.services.tasks import TaskService

        return [TaskService(self._app, self._manager), Events(self._app.bus)]

    async def start(self) -> None:
        """Listen for shims first: those that are adopted may have something to tell."""
        await self._events.start()
        await self._manager.adopt()

    async def stop(self) -> None:
        await self._manager.stop()
        await self._events.stop()


def create(app: App) -> Tasks:
    return Tasks(app)
