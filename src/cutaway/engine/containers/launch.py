"""Start: from a created (or exited) container to a running process, or back with all of it undone.

network.attach ─┐
snapshot mounts ┼─▶ files, spec ─▶ FIFOs ─▶ Containers/Create ─▶ Tasks/Create ─▶ Tasks/Start
user lookup     ┘
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.engine.containers.config import PortBinding
from cutaway.engine.containers.failures import classify
from cutaway.engine.containers.model import Container, Status
from cutaway.engine.containers.namespaces import CONTAINER, joined_network
from cutaway.engine.containers.parts import Parts
from cutaway.engine.containers.specs import container_spec
from cutaway.engine.network import Endpoint
from cutaway.engine.runtime import Stdio, describe_mounts
from cutaway.engine.stdio import fifo
from cutaway.engine.stdio.framing import STDERR, STDOUT
from cutaway.engine.stdio.hub import streams_of
from cutaway.engine.timestamps import now_ns
from cutaway.errors import CutawayError, FailedPrecondition
from cutaway.trace import spans

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cutaway.pb.mount_pb2 import Mount

log = logging.getLogger(__name__)

INIT = "init"


class Launcher:
    """Starts containers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def start(self, container: Container) -> bool:
        """Start it; False if it runs already. The caller holds the container's lock.

        Raises what forbids it (`FailedPrecondition`), or why it failed; then nothing of the attempt is
        left, and the container is as before but for its `error` and `exit_code`.
        """
        if container.state.status is Status.PAUSED:
            raise FailedPrecondition("cannot start a paused container, try unpause instead")
        if container.state.is_running:
            return False
        if container.state.status in (Status.REMOVING, Status.DEAD):
            raise FailedPrecondition("container is marked for removal and cannot be started")
        try:
            async with AsyncExitStack() as undo:
                await self._launch(container, undo)
                undo.pop_all()
        except CutawayError as error:
            raise self._failed(container, error) from error
        except OSError as error:
            failure = FailedPrecondition(f"cannot start container {container.id}: {error}")
            raise self._failed(container, failure) from error
        self._parts.events.container(container, "start")
        return True

    def _failed(self, container: Container, error: CutawayError) -> CutawayError:
        """Keep the reason with the container and let go of those who wait for it."""
        answer, exit_code = classify(error)
        container.state = container.state.start_failed(answer.message, exit_code)
        self._parts.index.save(container)
        container.hub.finish()
        if container.stdin:
            container.stdin.renew()
        container.settle(container.next_exit)
        return answer

    async def _launch(self, container: Container, undo: AsyncExitStack) -> None:
        parts = self._parts
        await parts.remains.settle(container.id)
        endpoint, rootfs = await self._gather(container, undo)
        files = parts.files(container)
        files.make()
        on_host = container.host.network_mode == "host"
        files.write(container, address=endpoint.address, gateway=endpoint.gateway, on_host=on_host)
        spec = await container_spec(parts, container, endpoint, rootfs)
        runtime = parts.settings.runtimes[container.host.runtime]
        bundle = parts.bundle(container)
        undo.callback(shutil.rmtree, bundle, ignore_errors=True)
        stdio = self._open_stdio(container, bundle, undo)
        undo.push_async_callback(parts.remains.discard_now_or_later, container.id)
        await parts.runtime.create_container(
            container.id, spec=spec, runtime=runtime, image=container.image, bundle=str(bundle)
        )
        with spans.span("create task", container=container.id, rootfs=describe_mounts(rootfs)):
            pid = await parts.runtime.create_task(container.id, rootfs=rootfs, stdio=stdio, runtime=runtime)
        await parts.runtime.start(container.id)
        container.saw_oom = False
        container.stopped_by_user = False
        container.state = container.state.running(pid, now_ns())
        parts.index.save(container)
        await parts.end_input(container)

    async def _gather(self, container: Container, undo: AsyncExitStack) -> tuple[Endpoint, Sequence[Mount]]:
        """The container's place in the network and its root file system, side by side."""
        undo.push_async_callback(self._detach, container)
        attaching = asyncio.create_task(self._attach(container))
        try:
            rootfs = await self._rootfs(container)
        except BaseException:
            await asyncio.wait([attaching])
            attaching.exception()  # looked at: the first failure is the one that is told
            raise
        return await attaching, rootfs

    async def _attach(self, container: Container) -> Endpoint:
        parts, host = self._parts, container.host
        mode = "bridge" if host.network_mode == "default" else host.network_mode
        if mode.startswith(CONTAINER):
            container.endpoint = Endpoint(container.id, mode, joined_network(parts.index, mode))
            return container.endpoint
        endpoint = await parts.network.attach(
            container.id, mode, container.config.hostname, _bindings(container), container.mac_address or None
        )
        container.endpoint = endpoint
        self._tell_network(container, endpoint, "connect")
        return endpoint

    async def _detach(self, container: Container) -> None:
        endpoint, container.endpoint = container.endpoint, None
        await self._parts.network.detach(container.id)
        if endpoint is not None:
            self._tell_network(container, endpoint, "disconnect")

    def _tell_network(self, container: Container, endpoint: Endpoint, action: str) -> None:
        self._parts.events.network(endpoint.network_id, endpoint.mode, container.id, action)

    async def _rootfs(self, container: Container) -> Sequence[Mount]:
        """The snapshot's mounts; they are asked for once, unless this process made the snapshot itself."""
        if container.rootfs is None:
            container.rootfs = await self._parts.runtime.snapshot_mounts(container.id)
        return container.rootfs

    def _open_stdio(self, container: Container, bundle: Path, undo: AsyncExitStack) -> Stdio:
        """Make the FIFOs and open our ends, so that the shim finds someone at the other end of each."""
        bundle.mkdir(parents=True, exist_ok=True, mode=0o700)
        tty = container.config.tty
        outputs = streams_of(bundle, INIT, tty=tty)
        for path in outputs.values():
            fifo.make(path)
        container.hub.open(outputs)
        undo.callback(container.hub.close)
        stdin = bundle / f"{INIT}-stdin"
        if container.stdin is not None:
            fifo.make(stdin)
            container.stdin.open(stdin)
            undo.callback(container.stdin.close)
        return Stdio(
            stdin=str(stdin) if container.stdin is not None else "",
            stdout=str(outputs[STDOUT]),
            stderr="" if tty else str(outputs[STDERR]),
            terminal=tty,
        )


def _bindings(container: Container) -> Mapping[str, Sequence[PortBinding]]:
    """`-p`, and with `-P` every other exposed port on a free one of the host's."""
    bound: dict[str, Sequence[PortBinding]] = dict(container.host.port_bindings or {})
    if container.host.publish_all_ports:
        for port in container.config.exposed_ports or {}:
            bound.setdefault(port, [PortBinding()])
    return bound
