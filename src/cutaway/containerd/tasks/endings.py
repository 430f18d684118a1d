"""How tasks end: in good order, after a failed start, or with a shim that is dead.

In every case the last two steps are the same: the shim's binary is run for `delete`, which must work for
a task in any state, and the bundle is removed.
"""

from __future__ import annotations

import logging
import time

from google.protobuf.message import DecodeError

from cutaway.containerd.bus import Bus, Event, event_now
from cutaway.containerd.services.convert import timestamp
from cutaway.containerd.tasks.bundles import Bundle
from cutaway.containerd.tasks.launch import Launcher
from cutaway.containerd.tasks.shim import Shim
from cutaway.containerd.workers import Workers
from cutaway.errors import Aborted, CutawayError
from cutaway.pb import shim_pb2, task_events_pb2

log = logging.getLogger("containerd.tasks")

# Seconds, as containerd has them.
SHUTDOWN_TIMEOUT = 3.0
CLEANUP_TIMEOUT = 5.0

# The exit code of a task of which nobody knows how it ended.
UNKNOWN_EXIT = 255


class Endings:
    """What is done about a task that goes. Nothing here raises: what cannot be cleaned up is logged."""

    def __init__(self, launcher: Launcher, workers: Workers, bus: Bus) -> None:
        self._launcher = launcher
        self._workers = workers
        self._bus = bus

    async def undo(self, shim: Shim) -> None:
        """After a failed Create: what the shim has made of the task goes, and the shim with it."""
        try:
            await shim.call("Delete", shim_pb2.DeleteRequest(id=shim.id), timeout=CLEANUP_TIMEOUT)
        except CutawayError as error:
            log.debug("%s: delete after a failed create: %s", shim.id, error)
        await self.shut_down(shim)

    async def shut_down(self, shim: Shim) -> None:
        """End a shim whose task has been deleted."""
        shim.deleting = True
        hangs = False
        try:
            request = shim_pb2.ShutdownRequest(id=shim.id)
            await shim.call("Shutdown", request, timeout=SHUTDOWN_TIMEOUT)
        except CutawayError as error:
            # A shim that shuts down at once may close the connection before it answers.
            hangs = not shim.client.ended
            log.debug("%s: shutdown: %s", shim.id, error)
        shim.close()
        await self.clear(shim.bundle, shim.binary, evict=hangs)

    async def clear(self, bundle: Bundle, binary: str, *, evict: bool = False) -> shim_pb2.DeleteResponse:
        """Let the binary clean up and remove the bundle.

        Where the binary was killed at it the bundle stays: it is cleared when a task of its name is made,
        or when the daemon starts again. `evict` also kills processes that were started for the bundle and
        that nobody can talk to. Returns how the task ended, as far as the binary knows.
        """
        if evict:
            await self._workers.run(bundle.evict)
        response = shim_pb2.DeleteResponse(exit_status=UNKNOWN_EXIT)
        try:
            response.ParseFromString(await self._launcher.delete(binary, bundle))
        except Aborted as error:
            log.error("%s/%s: cleaning up, to be tried again: %s", bundle.namespace, bundle.id, error)
        except (CutawayError, DecodeError) as error:
            log.warning("%s/%s: cleaning up: %s", bundle.namespace, bundle.id, error)
            await self.remove(bundle)
        except BaseException:
            await self.remove(bundle)
            raise
        else:
            await self.remove(bundle)
        if not response.HasField("exited_at"):
            response.exited_at.CopyFrom(timestamp(time.time_ns()))
        return response

    async def remove(self, bundle: Bundle) -> None:
        """Remove a bundle that has nothing in it to be cleaned up by a shim's binary."""
        try:
            await self._workers.run(bundle.remove)
        except OSError as error:
            log.error("bundle %s cannot be removed: %s", bundle.path, error)

    def announce(self, bundle: Bundle, ended: shim_pb2.DeleteResponse) -> None:
        """Tell in a dead shim's place how its task has ended."""
        exited = exit_event(bundle, ended)
        deleted = task_events_pb2.TaskDelete(
            container_id=bundle.id, pid=ended.pid, exit_status=ended.exit_status, exited_at=ended.exited_at
        )
        self._bus.forward(exited)
        self._bus.publish(bundle.namespace, "/tasks/delete", deleted)


def exit_event(bundle: Bundle, ended: shim_pb2.DeleteResponse | shim_pb2.StateResponse) -> Event:
    """The end of a task as its shim would have told it."""
    exited = task_events_pb2.TaskExit(
        container_id=bundle.id,
        id=bundle.id,
        pid=ended.pid,
        exit_status=ended.exit_status,
        exited_at=ended.exited_at,
    )
    return event_now(bundle.namespace, "/tasks/exit", exited)
