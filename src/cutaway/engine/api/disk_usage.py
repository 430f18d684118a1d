"""GET /system/df: what images, containers and volumes take on the disk; what is shared counts once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

from aiohttp import web

from cutaway.engine.api import body, container_views
from cutaway.engine.api.keys import daemon_of
from cutaway.engine.api.volumes import view
from cutaway.engine.images.describe import list_item
from cutaway.engine.volumes import folder_size
from cutaway.errors import CutawayError, InvalidArgument

if TYPE_CHECKING:
    from cutaway.engine.daemon import Daemon

Items = list[dict[str, object]]

KINDS: Final = ("container", "image", "volume", "build-cache")


def routes() -> list[web.RouteDef]:
    """The routes, without version prefix."""
    return [web.get("/system/df", disk_usage)]


async def disk_usage(request: web.Request) -> web.Response:
    """All of it, or the kinds that `type` asks for (API 1.42)."""
    daemon = daemon_of(request)
    kinds = request.query.getall("type", list(KINDS))
    for kind in kinds:
        if kind not in KINDS:
            raise InvalidArgument(f"unknown object type: {kind}")
    answer: dict[str, object] = {"LayersSize": 0, "Images": [], "Containers": [], "Volumes": []}
    if "image" in kinds:
        answer["LayersSize"], answer["Images"] = await _images(daemon)
    if "container" in kinds:
        answer["Containers"] = await _containers(daemon)
    if "volume" in kinds:
        answer["Volumes"] = await _volumes(daemon)
    return body.json_response({**answer, "BuildCache": [], "BuilderSize": 0})


async def _images(daemon: Daemon) -> tuple[int, Items]:
    """The size of all layers together, and each image with the part of it that others share."""
    images = await daemon.images.all()
    uses = Counter(chain_id for image in images for chain_id in set(image.chain_ids))
    sizes: dict[str, int] = {}
    items: Items = []
    for image in images:
        layers = dict(zip(image.chain_ids, await daemon.images.layer_sizes(image), strict=True))
        sizes |= layers
        size = await daemon.images.size(image)
        item = list_item(image, size, len(daemon.image_users(image.id)))
        item["SharedSize"] = sum(size for chain_id, size in layers.items() if uses[chain_id] > 1)
        items.append(item)
    return sum(sizes.values()), items


async def _containers(daemon: Daemon) -> Items:
    items: Items = []
    for container in daemon.containers.index:
        try:
            written = await daemon.runtime.snapshot_usage(container.id)
        except CutawayError:
            continue  # being removed just now
        try:
            below = await daemon.images.size(await daemon.images.resolve(container.image_id))
        except CutawayError:
            below = 0
        item = container_views.list_item(container, {container.id: written})
        items.append(item | {"SizeRootFs": below + written})
    return items


async def _volumes(daemon: Daemon) -> Items:
    items: Items = []
    for volume in daemon.volumes.list():
        size = await asyncio.to_thread(folder_size, volume.path)
        usage = {"RefCount": len(daemon.volumes.users(volume.name)), "Size": size}
        items.append(view(volume) | {"UsageData": usage})
    return items
