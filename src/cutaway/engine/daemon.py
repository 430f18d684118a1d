"""The daemon: all parts, in the order they come up and, reversed, go down. Containers outlive it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from aiohttp import web

import cutaway
from cutaway.engine import listeners
from cutaway.engine.api.app import make_app
from cutaway.engine.collector import Collector
from cutaway.engine.containerd_client import ContainerdClient
from cutaway.engine.containers.index import ContainerIndex
from cutaway.engine.containers.parts import Parts
from cutaway.engine.containers.service import ContainerService
from cutaway.engine.events import EventBus
from cutaway.engine.images import EmbeddedSettings, ImageService, ImageSettings, User
from cutaway.engine.managed import ManagedContainerd
from cutaway.engine.network import NetworkService
from cutaway.engine.runtime import ContainerdRuntime
from cutaway.engine.settings import Settings
from cutaway.engine.state.containers import ContainerTable
from cutaway.engine.state.database import open_database
from cutaway.engine.timestamps import now_ns
from cutaway.engine.traces.store import TraceStore
from cutaway.engine.volumes import VolumeStore
from cutaway.errors import Unavailable
from cutaway.registry.client.settings import ClientSettings
from cutaway.trace import spans

log = logging.getLogger(__name__)

SERVICE: Final = "cutawayd"
_ADOPTION_SECONDS: Final = 60.0
_SHUTDOWN_SECONDS: Final = 2.0


class Daemon:
    """What the API's handlers reach the engine by."""

    identity: str
    settings: Settings
    events: EventBus
    traces: TraceStore
    images: ImageService
    network: NetworkService
    volumes: VolumeStore
    runtime: ContainerdRuntime
    parts: Parts
    containers: ContainerService

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started_ns = now_ns()

    def image_users(self, image_id: str) -> list[User]:
        """The containers made from an image."""
        return [
            User(container.id, container.state.is_active)
            for container in self.containers.index
            if container.image_id == image_id
        ]

    def tell_image(self, action: str, image_id: str, attributes: dict[str, str]) -> None:
        """Publish an image's event."""
        self.events.publish("image", action, image_id, attributes)

    async def run(self) -> None:
        """Come up, serve until SIGTERM or SIGINT, go down. Raises why it could not come up."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        async with AsyncExitStack() as down:
            await self._come_up(down)
            log.info("API listen on %s", ", ".join(self.settings.hosts))
            await stopping.wait()
            log.info("going down; containers go on")

    async def _come_up(self, down: AsyncExitStack) -> None:
        settings = self.settings
        for folder, mode in ((settings.data_root, 0o710), (settings.exec_root, 0o711)):
            folder.mkdir(parents=True, exist_ok=True, mode=mode)
        settings.containers_dir.mkdir(exist_ok=True, mode=0o710)
        settings.fifo_dir.mkdir(exist_ok=True, mode=0o711)
        self.identity = identity(settings.data_root / "engine-id")
        # Bound first, served last: a second daemon on the same socket is refused before it touches anything.
        sockets = listeners.bind_all(settings.hosts)
        for host, opened in zip(settings.hosts, sockets, strict=True):
            down.callback(listeners.close, host, opened)
        self.traces = TraceStore(settings.trace_database, settings.otlp_endpoint)
        down.callback(self.traces.close)
        spans.configure(SERVICE, self.traces.record)
        client = ContainerdClient(await self._containerd(down), settings.containerd_namespace)
        down.push_async_callback(client.close)
        await self._assemble(client, down)
        await self._serve(sockets, down)

    async def _containerd(self, down: AsyncExitStack) -> str:
        if self.settings.containerd:
            return self.settings.containerd
        managed = ManagedContainerd(self.settings)
        await managed.start()
        down.push_async_callback(managed.stop)
        return managed.address

    async def _assemble(self, client: ContainerdClient, down: AsyncExitStack) -> None:
        settings = self.settings
        database = open_database(settings.database)
        down.callback(database.close)
        self.events = EventBus()
        self.runtime = ContainerdRuntime(client, settings.snapshotter, str(settings.runtime_root))
        self.images = ImageService(client, image_settings(settings))
        down.push_async_callback(self.images.close)
        self.network = NetworkService(settings, database)
        down.push_async_callback(self.network.close)
        self.volumes = VolumeStore(database, settings.volumes_dir, self.events)
        index = ContainerIndex(ContainerTable(database, settings.database))
        self.volumes.users = lambda name: [c.id for c in index if any(p.name == name for p in c.mounts)]
        self.parts = Parts(
            settings, index, self.runtime, self.images, self.network, self.volumes, self.events
        )
        self.containers = ContainerService(self.parts)
        await self.network.setup()
        await self.containers.open()
        down.push_async_callback(self.containers.close)
        try:
            await asyncio.wait_for(self.containers.adopt(), _ADOPTION_SECONDS)
        except TimeoutError:
            raise Unavailable(
                f"containerd at {client.address} sends no events for {_ADOPTION_SECONDS:g} s: does it run?"
            ) from None

    async def _serve(self, sockets: list[listeners.Listener], down: AsyncExitStack) -> None:
        runner = web.AppRunner(
            make_app(self), handle_signals=False, access_log=None, handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )  # fmt: skip
        await runner.setup()
        down.push_async_callback(runner.cleanup)
        for opened in sockets:
            await web.SockSite(runner, opened, backlog=listeners.BACKLOG).start()
        spans_socket = listeners.bind(f"unix://{self.settings.collector_socket}")
        down.callback(listeners.close, f"unix://{self.settings.collector_socket}", spans_socket)
        down.callback(Collector(spans_socket, self.traces.add).close)


def image_settings(settings: Settings) -> ImageSettings:
    """The image service's part; the built-in registry is there for when Docker Hub is not."""
    return ImageSettings(
        snapshotter=settings.snapshotter,
        temporary=settings.data_root,
        registry=ClientSettings(
            insecure_registries=frozenset(settings.insecure_registries),
            registry_mirrors=settings.registry_mirrors,
            certs_dir=settings.certs_dir,
            proxies=settings.proxies,
            max_resumes=settings.max_download_attempts,
            user_agent=f"cutaway/{cutaway.__version__}",
        ),
        embedded=EmbeddedSettings(
            socket=settings.exec_root / "registry.sock",
            root=settings.data_root / "registry",
            otlp_endpoint=f"unix://{settings.collector_socket}",
        ),
        max_downloads=settings.max_downloads,
        max_uploads=settings.max_uploads,
    )


def identity(path: Path) -> str:
    """The daemon's id, made once and kept. A file that a power loss has emptied counts as none."""
    with contextlib.suppress(FileNotFoundError):
        if found := path.read_text().strip():
            return found
    made = str(uuid.uuid4())
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(made + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return made
