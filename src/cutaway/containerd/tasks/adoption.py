"""Taking over the tasks of an earlier run of the daemon.

A bundle is there with, at some moment of its making, all of what follows:

    no address          the daemon died while a shim was starting: kill what starts, clean up
    nobody answers      the shim has died, or hangs: clean up; who comes back in time is told how it ended
    shim has no task    the daemon died before the shim was asked to create: clean up
    shim has a task     it is ours again, in whatever state; if it has exited, the shim still knows how
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from cutaway.containerd.metadata import containers
from cutaway.containerd.tasks import endpoint, runtimes
from cutaway.containerd.tasks.bundles import BINARY, BOOTSTRAP, Bundle, existing
from cutaway.containerd.tasks.endings import CLEANUP_TIMEOUT, exit_event
from cutaway.containerd.tasks.shim import Shim, ShimLog
from cutaway.errors import CutawayError, NotFound
from cutaway.faults import point
from cutaway.pb import process_pb2, shim_pb2

if TYPE_CHECKING:
    from cutaway.containerd.app import App
    from cutaway.containerd.tasks.manager import Manager
    from cutaway.containerd.tasks.missed import MissedExits

log = logging.getLogger("containerd.tasks")

ADDRESS = "address"


async def adopt(app: App, manager: Manager, missed: MissedExits) -> None:
    """Find what there is, all at once: a shim that hangs must not hold up the others."""
    bundles = await app.workers.run(existing, app.config.state, app.config.root)
    await asyncio.gather(*(_adopt(app, bundle, manager, missed) for bundle in bundles))


async def _adopt(app: App, bundle: Bundle, manager: Manager, missed: MissedExits) -> None:
    try:
        binary = bundle.read(BINARY) or _binary(app, bundle)
    except CutawayError:
        log.warning("bundle %s was not finished; removing it", bundle.path)
        await manager.endings.remove(bundle)
        return
    try:
        shim = await _connect(bundle, binary)
    except CutawayError as error:
        log.warning("shim of %s/%s is gone (%s); cleaning up", bundle.namespace, bundle.id, error)
        missed.adopt(bundle.namespace, bundle.id)
        ended = await manager.endings.clear(bundle, binary, evict=True)
        if ended.pid:
            missed.note(exit_event(bundle, ended))
        return
    point("containerd.adoption.connected")
    missed.adopt(bundle.namespace, bundle.id)
    try:
        state = await shim.state("", timeout=CLEANUP_TIMEOUT)
        if state.status == process_pb2.STOPPED:
            missed.note(exit_event(bundle, state))
    except NotFound:
        log.warning("shim of %s/%s has no task; ending it", bundle.namespace, bundle.id)
        await manager.endings.shut_down(shim)
        return
    except CutawayError as error:
        log.warning("state of %s/%s: %s", bundle.namespace, bundle.id, error)
    log.info("task %s/%s goes on, pid %d", bundle.namespace, bundle.id, shim.pid)
    manager.add(shim)


def _binary(app: App, bundle: Bundle) -> str:
    """The shim of a bundle's container, for a bundle that does not say. Raises `NotFound` or `Unknown`."""
    container = app.db.look_up(containers.get, bundle.namespace, bundle.id)
    return runtimes.resolve(container.runtime)


async def _connect(bundle: Bundle, binary: str) -> Shim:
    """The shim of a bundle, asked for its task's process. Raises what it answers, or `Unavailable`."""
    told = bundle.read(BOOTSTRAP) or bundle.read(ADDRESS)
    if not told:
        raise NotFound("it has no address")
    shim = await Shim.connect(bundle, binary, endpoint.parse(told), ShimLog(bundle))
    try:
        request = shim_pb2.ConnectRequest(id=bundle.id)
        shim.pid = (await shim.call("Connect", request, timeout=CLEANUP_TIMEOUT)).task_pid
    except BaseException:
        shim.close()
        raise
    return shim
