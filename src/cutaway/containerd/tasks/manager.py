"""All tasks of the daemon: creating them, finding them, cleaning up after them, adopting them.

create   bundle -> shim start -> connect -> Task.Create            undone in reverse when a step fails
delete   Task.State -> Task.Delete -> Task.Shutdown -> shim delete -> bundle removed
died     shim delete -> bundle removed -> /tasks/exit (137) and /tasks/delete published
adopt    bundles of an earlier run: connect to the shim's address, or clean up as if it had died
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from cutaway.containerd import names
from cutaway.containerd.services.convert import timestamp
from cutaway.containerd.tasks import launch
from cutaway.containerd.tasks.bundles import Bundle, existing
from cutaway.containerd.tasks.launch import Launcher
from cutaway.containerd.tasks.shim import Shim, ShimLog
from cutaway.containerd.ttrpc.client import Client
from cutaway.errors import AlreadyExists, CutawayError, NotFound, Unknown
from cutaway.pb import mount_pb2, shim_pb2, task_events_pb2
from cutaway.trace import spans

if TYPE_CHECKING:
    from cutaway.containerd.app import App

log = logging.getLogger("containerd.tasks")

# Seconds, as containerd has them.
STATE_TIMEOUT = 2.0
SHUTDOWN_TIMEOUT = 3.0
CLEANUP_TIMEOUT = 5.0

KILLED = 128 + 9


@dataclass(frozen=True)
class NewTask:
    """What a task is made from."""

    namespace: str
    id: str
    runtime: str
    spec: bytes
    options: Any
    rootfs: Sequence[mount_pb2.Mount]
    stdin: str
    stdout: str
    stderr: str
    terminal: bool


class Manager:
    """Tasks by namespace and container id. Belongs to the event loop."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._shims: dict[tuple[str, str], Shim] = {}
        self._creating: set[tuple[str, str]] = set()
        self._watchers: set[asyncio.Task[None]] = set()
        config = app.config
        self._launcher = Launcher(config.address, config.ttrpc_address, config.debug, app.zygote)

    def get(self, namespace: str, id: str) -> Shim:
        """Raises `NotFound`."""
        shim = self._shims.get((namespace, id))
        if shim is None:
            raise NotFound(f"task {id} not found: not found")
        return shim

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
            shim = await self._create(task)
            self._shims[key] = shim
            return shim
        finally:
            self._creating.discard(key)

    async def _create(self, task: NewTask) -> Shim:
        binary = launch.resolve(task.runtime)
        bundle = self._bundle(task.namespace, task.id)
        with spans.span("bundle", path=str(bundle.path), bytes=len(task.spec)):
            await self._app.workers.run(bundle.create, task.spec)
        try:
            shim = await self._started(bundle, binary, task.options)
        except BaseException:
            await finish(self._removed(bundle, binary))
            raise
        try:
            response = await shim.call("Create", creation(task, bundle))
        except CutawayError as error:
            await finish(self._undo(shim))
            raise type(error)(f"failed to create shim task: {error}") from None
        except BaseException:
            await finish(self._undo(shim))
            raise
        shim.pid = response.pid
        self._watch(shim)
        return shim

    async def _started(self, bundle: Bundle, binary: str, options: Any) -> Shim:
        """Start the shim's process and connect to it. Raises `Unknown`."""
        shim_log = ShimLog(bundle)
        try:
            address = await self._launcher.start(binary, bundle, options.SerializeToString())
            bundle.write_atomically("shim-binary-path", binary)
            client = await Client.connect(address)
        except CutawayError as error:
            shim_log.close()
            raise Unknown(f"failed to start shim: {error}: unknown") from None
        except BaseException:
            shim_log.close()
            raise
        return Shim(bundle, binary, client, shim_log)

    async def _undo(self, shim: Shim) -> None:
        """After a failed Create: what the shim has made of the task goes, and the shim with it."""
        shim.deleting = True
        try:
            await shim.call("Delete", shim_pb2.DeleteRequest(id=shim.id), timeout=CLEANUP_TIMEOUT)
        except CutawayError as error:
            log.debug("%s: delete after a failed create: %s", shim.id, error)
        await self._end(shim)

    async def delete(self, shim: Shim) -> shim_pb2.DeleteResponse:
        """Delete a stopped task; returns how its process ended. Raises `FailedPrecondition` if it runs."""
        response: shim_pb2.DeleteResponse = await shim.call("Delete", shim_pb2.DeleteRequest(id=shim.id))
        shim.deleting = True
        self._shims.pop((shim.namespace, shim.id), None)
        await finish(self._end(shim))
        return response

    async def _end(self, shim: Shim) -> None:
        """Let the shim's process end and remove what is left of it."""
        try:
            request = shim_pb2.ShutdownRequest(id=shim.id)
            await shim.call("Shutdown", request, timeout=SHUTDOWN_TIMEOUT)
        except CutawayError as error:
            # A shim that shuts down at once may close the connection before it answers.
            log.debug("%s: shutdown: %s", shim.id, error)
        shim.close()
        await self._removed(shim.bundle, shim.binary)

    async def _removed(self, bundle: Bundle, binary: str) -> shim_pb2.DeleteResponse:
        """Run the binary's `delete`, which must work for a shim in any state, and remove the bundle."""
        response = shim_pb2.DeleteResponse()
        try:
            response.ParseFromString(await self._launcher.delete(binary, bundle))
        except (CutawayError, DecodeError) as error:
            log.warning("%s/%s: cleaning up: %s", bundle.namespace, bundle.id, error)
        try:
            await self._app.workers.run(bundle.remove)
        except OSError as error:
            log.error("bundle %s cannot be removed: %s", bundle.path, error)
        return response

    def _watch(self, shim: Shim) -> None:
        watcher = asyncio.create_task(self._await_end(shim))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _await_end(self, shim: Shim) -> None:
        await asyncio.wait([shim.client.closed])
        if not shim.deleting:
            log.warning("shim of %s/%s has ended; cleaning up", shim.namespace, shim.id)
            self._shims.pop((shim.namespace, shim.id), None)
            shim.close()
            await self._died(shim.bundle, shim.binary, shim.pid)

    async def _died(self, bundle: Bundle, binary: str, pid: int) -> None:
        """Clean up after a shim that cannot tell how its task ended, and tell it in its place."""
        response = await self._removed(bundle, binary)
        status = response.exit_status or KILLED
        exited_at = response.exited_at if response.HasField("exited_at") else timestamp(time.time_ns())
        pid = pid or response.pid
        self._app.bus.publish(
            bundle.namespace,
            "/tasks/exit",
            task_events_pb2.TaskExit(
                container_id=bundle.id, id=bundle.id, pid=pid, exit_status=status, exited_at=exited_at
            ),
        )
        self._app.bus.publish(
            bundle.namespace,
            "/tasks/delete",
            task_events_pb2.TaskDelete(
                container_id=bundle.id, pid=pid, exit_status=status, exited_at=exited_at
            ),
        )

    async def adopt(self) -> None:
        """Take over the tasks of an earlier run of the daemon."""
        config = self._app.config
        bundles = await self._app.workers.run(lambda: list(existing(config.state, config.root)))
        for bundle in bundles:
            await self._adopt(bundle)

    async def _adopt(self, bundle: Bundle) -> None:
        binary, address = bundle.read("shim-binary-path"), bundle.read("address")
        if not binary:
            log.warning("bundle %s has no shim; removing it", bundle.path)
            await self._app.workers.run(bundle.remove)
            return
        try:
            client = await Client.connect(address.removeprefix("unix://"))
            shim = Shim(bundle, binary, client, ShimLog(bundle))
            request = shim_pb2.ConnectRequest(id=bundle.id)
            shim.pid = (await shim.call("Connect", request, timeout=CLEANUP_TIMEOUT)).task_pid
        except (CutawayError, OSError) as error:
            log.warning("shim of %s/%s is gone (%s); cleaning up", bundle.namespace, bundle.id, error)
            await self._died(bundle, binary, 0)
            return
        self._shims[bundle.namespace, bundle.id] = shim
        self._watch(shim)

    async def stop(self) -> None:
        """Let go of all shims; they and their tasks go on."""
        for shim in self._shims.values():
            shim.deleting = True
            shim.close()
        self._shims.clear()
        for watcher in tuple(self._watchers):
            watcher.cancel()

    def _bundle(self, namespace: str, id: str) -> Bundle:
        return Bundle(self._app.config.state, self._app.config.root, namespace, id)


def creation(task: NewTask, bundle: Bundle) -> shim_pb2.CreateTaskRequest:
    """The shim's part of a creation."""
    request = shim_pb2.CreateTaskRequest(
        id=task.id,
        bundle=str(bundle.path),
        rootfs=task.rootfs,
        terminal=task.terminal,
        stdin=task.stdin,
        stdout=task.stdout,
        stderr=task.stderr,
    )
    if task.options.type_url:
        request.options.CopyFrom(task.options)
    return request


async def finish(cleaning: Awaitable[object]) -> None:
    """Clean up even when the caller goes away in the middle of it."""
    work = asyncio.ensure_future(cleaning)
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
