"""All tasks of the daemon: creating them, finding them, letting them go.

create   bundle -> shim start -> connect -> Task.Create            undone in reverse when a step fails
delete   Task.Delete, answered -> Task.Shutdown -> shim delete -> bundle removed
died     shim delete -> bundle removed -> /tasks/exit and /tasks/delete published
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any

from cutaway.containerd import names
from cutaway.containerd.tasks import runtimes
from cutaway.containerd.tasks.bundles import BINARY, BOOTSTRAP, Bundle
from cutaway.containerd.tasks.endings import CLEANUP_TIMEOUT, Endings
from cutaway.containerd.tasks.endpoint import Endpoint
from cutaway.containerd.tasks.launch import Launcher, failed_start
from cutaway.containerd.tasks.shim import Shim, ShimLog
from cutaway.errors import AlreadyExists, CutawayError, NotFound
from cutaway.pb import mount_pb2, shim_pb2
from cutaway.trace import spans

if TYPE_CHECKING:
    from cutaway.containerd.app import App

log = logging.getLogger("containerd.tasks")

Key = tuple[str, str]

# In a bundle: the images that a task is restored from, which the runtime reads when the task is started.
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class NewTask:
    """What a task is made from."""

    namespace: str
    id: str
    runtime: str
    spec: bytes
    options: Any | None
    """The runtime's options, in whose type only the shim has an interest."""
    rootfs: Sequence[mount_pb2.Mount]
    stdin: str
    stdout: str
    stderr: str
    terminal: bool
    checkpoint: str = ""
    """The directory to restore it from."""
    saved: Callable[[Path], None] | None = None
    """Makes that directory, inside of the bundle; blocks."""


class Manager:
    """Tasks by namespace and container id. Belongs to the event loop."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._shims: dict[Key, Shim] = {}
        self._creating: set[Key] = set()
        self._ending: dict[Key, asyncio.Task[None]] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        config = app.config
        launcher = Launcher(config.address, config.ttrpc_address, config.debug, app.zygote)
        self._launcher = launcher
        self.endings = Endings(launcher, app.workers, app.bus)

    def find(self, namespace: str, id: str) -> Shim | None:
        """The shim of a container's task."""
        return self._shims.get((namespace, id))

    def all(self, namespace: str) -> list[Shim]:
        return [shim for (where, _), shim in self._shims.items() if where == namespace]

    async def create(self, task: NewTask) -> Shim:
        """Bring a task to the state created. A failure leaves no bundle, shim, mount or record.

        Raises `AlreadyExists`, and `Unknown` with the chain of reasons that clients look into.
        """
        key = (task.namespace, task.id)
        names.validate(task.id)
        if key in self._shims or key in self._creating:
            raise AlreadyExists(f"task {task.id}: already exists")
        self._creating.add(key)
        try:
            if ending := self._ending.get(key):
                # Its predecessor is gone for clients, but not yet from the bundle's place.
                await asyncio.wait([ending])
            shim = await self._create(task)
            self.add(shim)
            return shim
        finally:
            self._creating.discard(key)

    def add(self, shim: Shim) -> None:
        """Keep a shim, and notice when it dies."""
        self._shims[shim.key] = shim
        watcher = asyncio.create_task(self._watch(shim))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _create(self, task: NewTask) -> Shim:
        launching = asyncio.ensure_future(self._launch(task))
        try:
            shim = await asyncio.shield(launching)
        except asyncio.CancelledError:
            # A shim is never stopped half way: it comes up, and goes again.
            await asyncio.wait([launching])
            if launching.exception() is None:
                await finish(self.endings.undo(launching.result()))
            raise
        try:
            if task.saved is not None:
                folder = shim.bundle.path / CHECKPOINT
                await self._app.workers.finish(task.saved, folder)
                task = replace(task, checkpoint=str(folder))
            response = await self._created(shim, task)
        except CutawayError as error:
            await finish(self.endings.undo(shim))
            raise type(error)(f"failed to create shim task: {error}") from None
        except BaseException:
            await finish(self.endings.undo(shim))
            raise
        shim.pid = response.pid
        return shim

    async def _created(self, shim: Shim, task: NewTask) -> shim_pb2.CreateTaskResponse:
        """Have the shim create the task.

        Nor is a shim left in the middle of that when the caller goes away: what it is at would come to its
        end after the clean-up, and nobody would know of it.
        """
        call = asyncio.ensure_future(shim.call("Create", creation(task, shim.bundle)))
        try:
            response: shim_pb2.CreateTaskResponse = await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait([call])
            call.exception()  # looked at: the task goes in either case
            raise
        return response

    async def _launch(self, task: NewTask) -> Shim:
        """Make the bundle, start the shim's process and connect to it."""
        binary = runtimes.resolve(task.runtime)
        bundle = self.bundle(task.namespace, task.id)
        if bundle.path.exists():
            # No task is there, so what could not be cleaned up after the last one is in its place.
            await self.endings.clear(bundle, bundle.read(BINARY) or binary, evict=True)
        with spans.span("bundle", path=str(bundle.path), bytes=len(task.spec)):
            await self._app.workers.run(bundle.create, task.spec, binary)
        options = task.options.SerializeToString() if task.options is not None else b""
        shim_log = ShimLog(bundle)
        try:
            where = await self._launcher.start(binary, bundle, options)
            if where.version != Endpoint.version:
                bundle.write(BOOTSTRAP, where.to_json().encode(), 0o644)
            return await Shim.connect(bundle, binary, where, shim_log)
        except BaseException as error:
            shim_log.close()
            await self.endings.clear(bundle, binary, evict=True)
            if isinstance(error, CutawayError):
                raise failed_start(error) from None
            raise

    async def delete(self, shim: Shim, timeout: float | None = None) -> shim_pb2.DeleteResponse:
        """Delete a stopped task; returns how its process ended.

        The task is gone then, and what it was made of: mounts, cgroup, processes. The shim itself and
        the bundle go right after; who creates a task of this id, or ends the daemon, waits for that.
        Raises `NotFound` when another was quicker, and what the shim answers, as for a task that runs.
        """
        # One at a time: the second to ask must not end the shim before it has answered the first.
        async with shim.deletion:
            if self._shims.get(shim.key) is not shim:
                raise NotFound(f"task {shim.id} not found")
            return await self._delete(shim, timeout)

    async def _delete(self, shim: Shim, timeout: float | None) -> shim_pb2.DeleteResponse:
        request = shim_pb2.DeleteRequest(id=shim.id)
        try:
            response: shim_pb2.DeleteResponse = await shim.call("Delete", request, timeout=timeout)
        except NotFound as error:
            # Deleted before, perhaps by a daemon that crashed then: what is left of it goes now.
            await self._end(shim, self._dismiss)
            raise NotFound(f"failed to delete task: {error}") from None
        except CutawayError as error:
            raise type(error)(f"failed to delete task: {error}") from None
        self._begin_end(shim, self._dismiss)
        return response

    def _begin_end(self, shim: Shim, ending: Callable[[Shim], Coroutine[None, None, None]]) -> None:
        """Let a task go, once, however many ask for it."""
        if self._shims.get(shim.key) is shim:
            del self._shims[shim.key]
            self._ending[shim.key] = asyncio.create_task(ending(shim))

    async def _end(self, shim: Shim, ending: Callable[[Shim], Coroutine[None, None, None]]) -> None:
        """Let a task go and wait for that. A caller that goes away does not stop it."""
        self._begin_end(shim, ending)
        if shim.key in self._ending:
            await asyncio.shield(self._ending[shim.key])

    async def _dismiss(self, shim: Shim) -> None:
        """The end of a shim whose task has been deleted."""
        try:
            await self.endings.shut_down(shim)
        finally:
            del self._ending[shim.key]

    async def _bury(self, shim: Shim) -> None:
        """The end of a task whose shim has died."""
        log.warning("shim of %s/%s has ended; cleaning up", shim.namespace, shim.id)
        shim.close()
        try:
            ended = await self.endings.clear(shim.bundle, shim.binary, evict=True)
        finally:
            del self._ending[shim.key]
        # Only now, with the name free again: who hears of it may create the task anew at once.
        ended.pid = shim.pid or ended.pid
        self.endings.announce(shim.bundle, ended)

    async def _watch(self, shim: Shim) -> None:
        await asyncio.wait([shim.client.closed])
        if not shim.deleting:
            await self._end(shim, self._bury)

    async def stop(self) -> None:
        """Let go of all shims; they and their tasks go on. What is just ending is waited for."""
        if self._ending:
            await asyncio.wait(self._ending.values(), timeout=CLEANUP_TIMEOUT)
        for shim in self._shims.values():
            shim.deleting = True
            shim.close()
        self._shims.clear()
        for watcher in tuple(self._watchers):
            watcher.cancel()

    def bundle(self, namespace: str, id: str) -> Bundle:
        return Bundle(self._app.config.state, self._app.config.root, namespace, id)


def creation(task: NewTask, bundle: Bundle) -> shim_pb2.CreateTaskRequest:
    """The shim's part of a creation."""
    return shim_pb2.CreateTaskRequest(
        id=task.id,
        bundle=str(bundle.path),
        rootfs=task.rootfs,
        terminal=task.terminal,
        stdin=task.stdin,
        stdout=task.stdout,
        stderr=task.stderr,
        options=task.options,
        checkpoint=task.checkpoint,
    )


async def finish(cleaning: Awaitable[object]) -> None:
    """Clean up even when the caller goes away in the middle of it."""
    work = asyncio.ensure_future(cleaning)
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
