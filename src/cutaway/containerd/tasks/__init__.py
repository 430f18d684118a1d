"""Tasks: running containers, each behind a shim.

usermap     whose group a container's root is
unmount     umount2(2)
bundles     the directory of a task
runtimes    a runtime's name as a shim's binary
endpoint    where a shim listens, and the version it speaks
launch      running that binary: start and delete
shim        a connected shim
endings     what is done about tasks that go
manager     all of them
adoption    those of an earlier run of the daemon
missed      how those have ended, for clients that come back
restarts    those that are to run, by their containers' labels
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutaway.containerd.app import App
    from cutaway.containerd.server import Service


class Tasks:
    """The daemon's part that runs things: task and event services, and the socket for shims' events."""

    def __init__(self, app: App) -> None:
        from cutaway.containerd.shim_events import ShimEvents
        from cutaway.containerd.tasks.manager import Manager
        from cutaway.containerd.tasks.missed import MissedExits
        from cutaway.containerd.tasks.restarts import RestartMonitor

        self._app = app
        self._manager = Manager(app)
        self._missed = MissedExits()
        self._restarts = RestartMonitor(app, self._manager, app.config.restart_interval)
        self._events = ShimEvents(app.bus, self._missed, app.config.ttrpc_address)

    def services(self) -> list[Service]:
        from cutaway.containerd.services.events import Events
        from cutaway.containerd.services.tasks import TaskService

        return [TaskService(self._app, self._manager), Events(self._app.bus, self._missed)]

    async def start(self) -> None:
        """Listen for shims first: those that are adopted may have something to tell."""
        from cutaway.containerd.tasks.adoption import adopt

        _watch_children_by_pidfd()
        if self._app.zygote:
            self._app.zygote.watch()
        await self._events.start()
        await adopt(self._app, self._manager, self._missed)
        self._restarts.start()

    async def stop(self) -> None:
        await self._restarts.stop()
        await self._manager.stop()
        await self._events.stop()


def create(app: App) -> Tasks:
    return Tasks(app)


def _watch_children_by_pidfd() -> None:
    """Without a thread for each child, which is what asyncio does before Python 3.12."""
    if sys.version_info < (3, 12):
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.get_event_loop_policy().set_child_watcher(watcher)
