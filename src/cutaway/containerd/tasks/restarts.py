"""The restart monitor: containers whose labels say that they are to run are brought to run again.

    containerd.io/restart.status               running or stopped: what the task is to be
    containerd.io/restart.policy               always (as without one), no, unless-stopped, on-failure[:N]
    containerd.io/restart.explicitly-stopped   true: as a client says who stops it on purpose
    containerd.io/restart.count                how often it was restarted; kept here
    containerd.io/restart.loguri, .logpath     where its output goes; nowhere without

It looks every ten seconds. The policy and the count are of containerd 1.7, the rest of 1.6.
Source: containerd's core/runtime/restart and plugins/restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from cutaway.containerd.metadata import containers
from cutaway.containerd.metadata.containers import Container
from cutaway.containerd.metadata.snapshots import Space
from cutaway.containerd.services.convert import to_any, to_mount
from cutaway.containerd.tasks.manager import NewTask
from cutaway.errors import AlreadyExists, CutawayError
from cutaway.pb import container_events_pb2 as events
from cutaway.pb import process_pb2, shim_pb2

if TYPE_CHECKING:
    from cutaway.containerd.app import App
    from cutaway.containerd.tasks.manager import Manager
    from cutaway.containerd.tasks.shim import Shim

log = logging.getLogger("containerd.restart")

PREFIX: Final = "containerd.io/restart."
STATUS: Final = f"{PREFIX}status"
POLICY: Final = f"{PREFIX}policy"
COUNT: Final = f"{PREFIX}count"
STATE_TIMEOUT: Final = 2.0  # seconds

_RUNNING: Final = "running"
_STOPPED: Final = "stopped"
_TRUE: Final = ("1", "t", "T", "true", "TRUE", "True")  # Go's strconv.ParseBool

State = shim_pb2.StateResponse


def wants_restart(labels: Mapping[str, str], exit_status: int) -> bool:
    """Whether a task that does not run is to be started again; what cannot be read is never met."""
    name, _, most = labels.get(POLICY, "").partition(":")
    match name:
        case "" | "always":
            return not most
        case "unless-stopped":
            return not most and labels.get(f"{PREFIX}explicitly-stopped") not in _TRUE
        case "on-failure":
            count = labels.get(COUNT, "0")
            if not count.isdecimal() or (most and not most.isdecimal()):
                return False
            return exit_status != 0 and (not int(most or 0) or int(count) < int(most))
    if name != "no":
        log.error('restart policy "%s" not supported', labels[POLICY])
    return False


class RestartMonitor:
    """Belongs to the event loop."""

    def __init__(self, app: App, manager: Manager, interval: float) -> None:
        """`interval` is in seconds."""
        self._app = app
        self._manager = manager
        self._interval = interval
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._running:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    async def _run(self) -> None:
        while True:
            try:
                found = await self._app.db.read(containers.labelled, STATUS)
                await asyncio.gather(*(self._reconcile(*one) for one in found))
            except sqlite3.Error as error:
                log.error("reconcile: %s", error)
            await asyncio.sleep(self._interval)

    async def _reconcile(self, namespace: str, container: Container) -> None:
        try:
            await self._apply(namespace, container)
        except (CutawayError, OSError, ValueError, sqlite3.Error) as error:
            log.error("%s/%s: apply change: %s", namespace, container.id, error)

    async def _apply(self, namespace: str, container: Container) -> None:
        shim = self._manager.find(namespace, container.id)
        state = await _state(shim) if shim else None
        wanted, is_down = container.labels[STATUS], _is_down(state)
        if wanted == _STOPPED and shim and state and not is_down:
            await self._kill(shim)
        exit_status = state.exit_status if state else 0
        if wanted == _RUNNING and is_down and wants_restart(container.labels, exit_status):
            await self._restart(namespace, container, shim)

    async def _restart(self, namespace: str, container: Container, shim: Shim | None) -> None:
        log.info("starting %s/%s again", namespace, container.id)
        await self._count(namespace, container)
        if shim:
            await self._kill(shim)
        task = await self._task(namespace, container)
        try:
            made = await self._manager.create(task)
        except AlreadyExists:
            return  # its client was quicker
        await made.call("Start", shim_pb2.StartRequest(id=made.id))

    async def _count(self, namespace: str, container: Container) -> None:
        known = container.labels.get(COUNT, "")
        count = int(known) + 1 if known.isdecimal() else 1
        counted = Container(container.id, labels={COUNT: str(count)})
        changed = await self._app.db.write(containers.update, namespace, counted, [f"labels.{COUNT}"])
        event = events.ContainerUpdate(
            id=changed.id, image=changed.image, labels=changed.labels, snapshot_key=changed.snapshot_key
        )
        self._app.bus.publish(namespace, "/containers/update", event)

    async def _task(self, namespace: str, container: Container) -> NewTask:
        spec = container.spec.value if container.spec else b""
        output = _output(container.labels)
        mounts = []
        if container.snapshot_key:
            space = Space(namespace, container.snapshotter)
            mounts = await self._app.snapshots.mounts(space, container.snapshot_key)
        return NewTask(
            namespace=namespace,
            id=container.id,
            runtime=container.runtime,
            spec=spec,
            options=to_any(container.options),
            rootfs=[to_mount(one) for one in mounts],
            stdin="",
            stdout=output,
            stderr="" if _has_terminal(spec) else output,
            terminal=bool(output) and _has_terminal(spec),
        )

    async def _kill(self, shim: Shim) -> None:
        """End a task and delete it; one that has ended is only deleted."""
        waiting = asyncio.ensure_future(shim.call("Wait", shim_pb2.WaitRequest(id=shim.id)))
        try:
            kill = shim_pb2.KillRequest(id=shim.id, signal=signal.SIGKILL, all=True)
            await shim.call("Kill", kill)
            await waiting
        except CutawayError as error:
            log.debug("%s/%s: %s", shim.namespace, shim.id, error)
        finally:
            waiting.cancel()
        await self._manager.delete(shim)


async def _state(shim: Shim) -> State | None:
    try:
        return await shim.state("", timeout=STATE_TIMEOUT)
    except CutawayError as error:
        log.error("%s/%s: monitor: %s", shim.namespace, shim.id, error)
        return None


def _is_down(state: State | None) -> bool:
    """A task that was created is its client's to start; a paused one runs."""
    return state is None or state.status == process_pb2.STOPPED


def _output(labels: Mapping[str, str]) -> str:
    """Where standard output goes, as a URI for the shim."""
    if uri := labels.get(f"{PREFIX}loguri", ""):
        return uri
    path = labels.get(f"{PREFIX}logpath", "")
    return f"file://{path}" if path else ""


def _has_terminal(spec: bytes) -> bool:
    """Raises `ValueError` for a spec that is none."""
    process = json.loads(spec).get("process") or {}
    return process.get("terminal") is True
