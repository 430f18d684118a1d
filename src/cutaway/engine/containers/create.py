"""POST /containers/create: the request and the image's defaults become a container, or nothing is left."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from cutaway.engine.containers import defaults
from cutaway.engine.containers.binds import MountPlanner, prepare_sources
from cutaway.engine.containers.config import Config, CreateRequest
from cutaway.engine.containers.copyup import fill_volumes
from cutaway.engine.containers.model import Container
from cutaway.engine.containers.parts import Parts
from cutaway.engine.images import Image
from cutaway.engine.timestamps import now_ns
from cutaway.errors import NotFound
from cutaway.oci.image_spec import ContainerConfig, Platform
from cutaway.trace import spans

if TYPE_CHECKING:
    from cutaway.pb.mount_pb2 import Mount


class Creator:
    """Creates containers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def create(self, request: CreateRequest, name: str, platform: Platform | None = None) -> Container:
        """A new container in the state created.

        Raises `InvalidArgument` for a bad configuration, `AlreadyExists` for a name that is taken, and
        `NotFound` for an image that is not here (which makes a client pull it).
        """
        parts = self._parts
        container_id = secrets.token_hex(32)
        reserved = parts.index.reserve(name, container_id)
        async with AsyncExitStack() as undo:
            undo.callback(parts.index.release, reserved)
            image = await parts.images.resolve(request.image, platform)
            config = self._configure(request, image, container_id)
            planner = MountPlanner(parts.volumes)
            undo.callback(lambda: parts.volumes.remove_anonymous(planner.made))
            points = planner.plan(config, request.host_config)
            container = Container(
                id=container_id,
                name=reserved,
                created_ns=now_ns(),
                image_id=image.id,
                config=config,
                host=request.host_config,
                mounts=points,
                mac_address=_mac_address(request),
                trace=spans.current(),
            )
            await self._materialize(container, image, planner, undo)
            parts.index.add(container)
            undo.pop_all()
        parts.events.container(container, "create")
        return container

    def _configure(self, request: CreateRequest, image: Image, container_id: str) -> Config:
        """The request's Config, completed and checked; its HostConfig is completed in place."""
        settings = self._parts.settings
        values = {name: getattr(request, name) for name in Config._fields}
        config = Config(**values)
        defaults.merge_image(config, image.config.config or ContainerConfig())
        defaults.check_config(config)
        defaults.check_host_config(request.host_config)
        defaults.fill_host_config(request.host_config, settings.runtimes, settings.default_runtime)
        defaults.default_hostname(config, request.host_config, container_id)
        return config

    async def _materialize(
        self, container: Container, image: Image, planner: MountPlanner, undo: AsyncExitStack
    ) -> None:
        """The container's snapshot, files and folders."""
        parts = self._parts
        undo.push_async_callback(parts.remains.remove_snapshot_now_or_later, container.id)
        container.rootfs = await self._snapshot(container, image)
        files = parts.files(container)
        undo.callback(files.remove)
        files.make()
        prepare_sources(container.mounts)
        if planner.fresh:
            await asyncio.to_thread(fill_volumes, container.rootfs, planner.fresh)
        parts.equip(container)

    async def _snapshot(self, container: Container, image: Image) -> Sequence[Mount]:
        """A writable snapshot on the image's, which is made first where others brought the image."""
        parts, bundle = self._parts, str(self._parts.bundle(container))
        try:
            return await parts.runtime.prepare_snapshot(container.id, image.chain_id, bundle)
        except NotFound:
            await parts.images.ensure_unpacked(image)
        return await parts.runtime.prepare_snapshot(container.id, image.chain_id, bundle)


def _mac_address(request: CreateRequest) -> str:
    """The address asked for: since API 1.44 in the endpoint's settings, before in the Config."""
    for endpoint in (request.networking_config.endpoints_config or {}).values():
        if endpoint.mac_address:
            return endpoint.mac_address
    return request.mac_address or ""
