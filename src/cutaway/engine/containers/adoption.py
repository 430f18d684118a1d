"""After a start of ours, or when containerd has come back: our picture of the containers meets what is.

stored as running, task runs        ▶ adopt: reopen the FIFOs, log and exit go on
stored as running, task has ended   ▶ handle the exit now: output is in the FIFOs, code in the task
stored as running, no task          ▶ exited, code unknown (255, as Docker says)
stored as created, task runs        ▶ we died between its start and the note of it: adopt
anything else in containerd of ours ▶ half-made or half-removed: cleared away
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from cutaway.engine.containers.execs import ExecService
from cutaway.engine.containers.exits import ExitHandler
from cutaway.engine.containers.launch import INIT
from cutaway.engine.containers.model import Container, State, Status
from cutaway.engine.containers.parts import Parts
from cutaway.engine.runtime import Subscribed, Task, TaskExit, TaskOom, TaskStatus
from cutaway.engine.stdio.hub import streams_of
from cutaway.engine.timestamps import now_ns
from cutaway.errors import CutawayError

log = logging.getLogger(__name__)

_LOST_EXIT: Final = 255
_IDS: Final = "[0-9a-f]" * 64
_LIVE: Final = (TaskStatus.RUNNING, TaskStatus.PAUSED, TaskStatus.PAUSING)
_GOING: Final = (Status.REMOVING, Status.DEAD)
_RETRY_FIRST: Final = 0.05
_RETRY_LAST: Final = 1.0


class Monitor:
    """Listens to containerd for as long as the engine lives, through restarts of it."""

    def __init__(
        self,
        parts: Parts,
        exits: ExitHandler,
        execs: ExecService,
        start: Callable[[Container], Awaitable[bool]],
        remove: Callable[[Container], Coroutine[Any, Any, None]],
        finish_removals: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._parts = parts
        self._exits = exits
        self._execs = execs
        self._start = start
        self._remove = remove
        self._finish_removals = finish_removals
        self._first = True
        """Until the first comparison has come to its end: containerd may die again in the middle of it."""
        self._unmet: set[str] = set()
        """Containers of an engine before us that we have not found out about yet."""
        self.ready = asyncio.Event()
        """Set once the first comparison is done."""

    async def run(self) -> None:
        """Listen for ever; whenever containerd is lost, find it again and compare."""
        self._unmet = {container.id for container in self._parts.index}
        pause = _RETRY_FIRST
        while True:
            try:
                async with contextlib.aclosing(self._parts.runtime.events()) as events:
                    async for event in events:
                        pause = _RETRY_FIRST
                        await self._handle(event)
            except CutawayError as error:
                log.warning("no events from containerd: %s; trying again", error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _RETRY_LAST)

    async def _handle(self, event: TaskExit | TaskOom | Subscribed) -> None:
        if isinstance(event, Subscribed):
            await self._compare()
            self.ready.set()
            return
        container = self._parts.index.by_id(event.container_id)
        if container is None:
            return  # another client's
        if isinstance(event, TaskOom):
            container.saw_oom = True
            self._parts.events.container(container, "oom")
        elif event.exec_id:
            self._parts.background(self._execs.handle_exit(event), f"exit of exec {event.exec_id[:12]}")
        elif not self._first:  # else a service that was down tells what it missed: the comparison sees it
            if container.id in self._unmet:
                self._unmet.discard(container.id)
                self._reopen(container)
            self._parts.background(self._exits.handle(container, event), f"exit of {container.short_id}")

    async def _compare(self) -> None:
        """Bring every container into step with containerd. Exits from here on come as events."""
        for container in list(self._parts.index):
            try:
                await self._settle(container, first=container.id in self._unmet)
                self._unmet.discard(container.id)
            except CutawayError as error:
                log.warning("container %s: %s", container.short_id, error)
        if self._first:
            await self._clear_leftovers()
            self._first = False
            self._resume()
        else:
            self._parts.background(self._parts.remains.settle_all(), "clean-up in containerd")
            self._parts.background(self._finish_removals(), "removals in containerd")

    async def _settle(self, container: Container, first: bool) -> None:
        stored = container.state
        if not stored.is_running and not first:
            return
        task = await self._parts.runtime.task(container.id)
        if task is not None and task.status in _LIVE and stored.status not in _GOING:
            async with container.lock:
                if first:
                    await self._adopt(container, task)
                else:
                    await self._agree_on_pause(container)
        elif stored.is_running:
            if first:
                self._reopen(container)
            await self._exits.handle(container, self._exit_of(container, task, stored))
        await self._settle_execs(container)

    async def _settle_execs(self, container: Container) -> None:
        """The same for its further processes; those of an engine before us are not known here."""
        for running in [e for e in container.execs.values() if e.running]:
            task = await self._parts.runtime.task(container.id, running.id)
            if task is None or task.status is TaskStatus.STOPPED:
                code, ended = (task.exit_code, task.exited_ns) if task else (_LOST_EXIT, 0)
                await self._execs.handle_exit(TaskExit(container.id, running.id, running.pid, code, ended))

    @staticmethod
    def _exit_of(container: Container, task: Task | None, stored: State) -> TaskExit:
        """The end of the run that was looked at; by now another may have begun."""
        pid = stored.pid
        if stored.is_noted:  # we died over the clean-up
            return TaskExit(container.id, "", pid, stored.exit_code, stored.finished_ns)
        if task is None:
            log.warning("container %s ended unseen; its exit code is lost", container.short_id)
            return TaskExit(container.id, "", pid, _LOST_EXIT, now_ns())
        return TaskExit(container.id, "", pid, task.exit_code, task.exited_ns or now_ns())

    async def _adopt(self, container: Container, task: Task) -> None:
        """A container that runs, made by an engine before us."""
        state = container.state
        if not state.is_running:
            state = state.running(task.pid, now_ns())
        status = Status.RUNNING if task.status is TaskStatus.RUNNING else Status.PAUSED
        if status is Status.PAUSED and state.status is Status.RUNNING:
            # Nobody was told that it is paused: we died over a commit, or in the middle of pausing it.
            try:
                await self._parts.runtime.resume(container.id)
                status = Status.RUNNING
            except CutawayError as error:
                log.warning("container %s stays paused: %s", container.short_id, error)
        container.state = State(
            status=status,
            pid=task.pid or state.pid,
            started_ns=state.started_ns,
            finished_ns=state.finished_ns,
        )
        container.endpoint = self._parts.network.endpoint(container.id)
        self._parts.index.save(container)
        self._reopen(container)
        log.info("container %s runs (pid %d): adopted", container.short_id, container.state.pid)

    async def _agree_on_pause(self, container: Container) -> None:
        """A pause or its end may have been done without an answer: the caller was told that it failed."""
        task = await self._parts.runtime.task(container.id)
        if task is None:
            return
        if container.state.status is Status.PAUSED and task.status is TaskStatus.RUNNING:
            container.state = container.state.become(Status.RUNNING)
            self._parts.index.save(container)
        elif container.state.status is Status.RUNNING and task.status is TaskStatus.PAUSED:
            await self._parts.runtime.resume(container.id)

    def _reopen(self, container: Container) -> None:
        """Our ends of its FIFOs, with what has gathered in them."""
        bundle = self._parts.bundle(container)
        outputs = streams_of(bundle, INIT, tty=container.config.tty)
        container.hub.open({stream: path for stream, path in outputs.items() if path.is_fifo()})
        stdin = bundle / f"{INIT}-stdin"
        if container.stdin and stdin.is_fifo():
            container.stdin.open(stdin)

    async def _clear_leftovers(self) -> None:
        """What a crash left of starts and removals that were under way."""
        parts = self._parts
        owner = str(parts.settings.fifo_dir)
        for container_id in await parts.runtime.containers_of(owner):
            container = parts.index.by_id(container_id)
            if container is None or not container.state.is_running:
                log.info("container %s was left half-started: cleared away", container_id[:12])
                await parts.remains.discard_now_or_later(container_id)
        for key in await parts.runtime.snapshots_of(owner):
            if parts.index.by_id(key) is None:
                await parts.remains.remove_snapshot_now_or_later(key)
        for path in parts.settings.containers_dir.glob(_IDS):
            if parts.index.by_id(path.name) is None:
                shutil.rmtree(path, ignore_errors=True)
        for path in parts.settings.fifo_dir.glob(_IDS):
            container = parts.index.by_id(path.name)
            if container is None or not container.state.is_running:
                shutil.rmtree(path, ignore_errors=True)

    def _resume(self) -> None:
        """Start what its restart policy wants up, and finish what `--rm` had begun."""
        for container in self._parts.index:
            policy, status = container.host.restart_policy.name, container.state.status
            wanted = policy == "always" or (policy == "unless-stopped" and not container.stopped_by_user)
            if status is Status.RESTARTING or (status is Status.EXITED and wanted):
                self._parts.background(self._start_again(container), f"start of {container.short_id}")
            elif status is Status.EXITED and container.host.auto_remove:
                self._parts.background(self._remove(container), f"auto-remove of {container.short_id}")

    async def _start_again(self, container: Container) -> None:
        async with container.lock:
            try:
                await self._start(container)
            except CutawayError as error:
                log.warning("start of %s: %s", container.short_id, error)
