"""Layers of images that a transfer has brought, unpacked into snapshots.

As in containerd a snapshot is called by its chain ID, the image's configuration holds the topmost, and a
layer's blob is told what it is when it is decompressed.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from cutaway.containerd.app import App
from cutaway.containerd.metadata import leases
from cutaway.containerd.metadata.leases import Resource
from cutaway.containerd.metadata.snapshots import Kind, Space
from cutaway.containerd.transfer.blobs import Blobs
from cutaway.containerd.transfer.images import Unpack
from cutaway.containerd.unpack.onto import unpack_onto
from cutaway.errors import AlreadyExists, CutawayError, DataLoss, InvalidArgument, NotFound
from cutaway.oci.chain import chain_ids
from cutaway.oci.image_spec import Descriptor
from cutaway.pb import snapshot_events_pb2 as events
from cutaway.trace import spans

log = logging.getLogger("containerd.transfer")

DEFAULT_SNAPSHOTTER: Final = "overlayfs"
SNAPSHOTTERS: Final = ("overlayfs", "native")
UNCOMPRESSED: Final = "containerd.io/uncompressed"
GC_SNAPSHOT: Final = "containerd.io/gc.ref.snapshot"


def snapshotters(unpacks: Sequence[Unpack]) -> list[str]:
    """Those that can be unpacked to; as in containerd others are passed over, with a word in the log."""
    found: list[str] = []
    for one in unpacks:
        name = one.snapshotter or DEFAULT_SNAPSHOTTER
        if one.platform.os not in ("", "linux") or name not in SNAPSHOTTERS:
            log.warning("cannot unpack for %s to snapshotter %r, skipping", one.platform.os, name)
        elif name not in found:
            found.append(name)
    return found


class Unpacker:
    """Unpacks into one snapshotter."""

    def __init__(self, app: App, blobs: Blobs, snapshotter: str) -> None:
        self._app = app
        self._blobs = blobs
        self._space = Space(blobs.namespace, snapshotter)

    async def unpack(
        self,
        config: Descriptor,
        layers: Sequence[Descriptor],
        tell: Callable[[Descriptor, bool], None],
        ready: Callable[[Descriptor], Awaitable[None]],
    ) -> None:
        """Unpack an image's layers, from the lowest; `tell` is told of each, before and after.

        `ready` is awaited for each: its content is there when it returns.

        Raises `InvalidArgument`, `DataLoss` for layers that are not what the configuration says.
        """
        diff_ids = (await self._blobs.config(config)).rootfs.diff_ids
        if len(diff_ids) != len(layers):
            raise InvalidArgument(
                f"number of layers and diffIDs don't match: {len(layers)} != {len(diff_ids)}"
            )
        parent = ""
        for layer, diff_id, chain_id in zip(layers, diff_ids, chain_ids(diff_ids), strict=True):
            await ready(layer)
            await self._hold(chain_id)  # first: it may be nobody's, and collected at any moment
            if not await self._exists(chain_id):
                tell(layer, False)
                await self._unpack_one(layer, diff_id, parent, chain_id)
                tell(layer, True)
            await self._blobs.label(layer.digest, {UNCOMPRESSED: diff_id})
            parent = chain_id
        if parent:
            await self._blobs.label(config.digest, {f"{GC_SNAPSHOT}.{self._space.snapshotter}": parent})

    async def _exists(self, name: str) -> bool:
        try:
            await self._app.snapshots.stat(self._space, name)
        except NotFound:
            return False
        return True

    async def _hold(self, name: str) -> None:
        resource = Resource(f"{leases.SNAPSHOTS}/{self._space.snapshotter}", name)
        await self._app.db.write(leases.add, self._blobs.namespace, self._blobs.lease, resource)

    async def _unpack_one(self, layer: Descriptor, diff_id: str, parent: str, chain_id: str) -> None:
        """Make the snapshot of a layer, all of it or nothing."""
        chance = base64.urlsafe_b64encode(os.urandom(3)).decode()
        key = f"extract-{time.time_ns() % 1_000_000_000}-{chance} {chain_id}"
        store, lease = self._app.snapshots, self._blobs.lease
        mounts = await store.create(self._space, key, parent, Kind.ACTIVE, {}, lease)
        snapshotter, bus, namespace = self._space.snapshotter, self._app.bus, self._space.namespace
        prepared = events.SnapshotPrepare(key=key, parent=parent, snapshotter=snapshotter)
        bus.publish(namespace, "/snapshot/prepare", prepared)
        try:
            fd, _ = await self._app.content.open(namespace, layer.digest)
            try:
                with spans.span("unpack", digest=layer.digest, compressed=layer.size) as span:
                    folder = self._app.config.mounts_root
                    done = await self._app.workers.finish(unpack_onto, fd, mounts, folder, sync=False)
                    span.set(diff_id=done.diff_id, size=done.size, entries=done.entries)
            finally:
                os.close(fd)
            if done.diff_id != diff_id:
                raise DataLoss(f"wrong diff id calculated on extraction {done.diff_id!r}, expected {diff_id}")
            await store.commit(self._space, key, chain_id, {}, lease)
        except AlreadyExists:  # another client unpacked it meanwhile
            await store.remove(self._space, key, lease)
            return
        except CutawayError as error:
            await self._remove(key)
            raise type(error)(f"failed to extract layer {layer.digest}: {error}") from None
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._remove(key)))
            raise
        committed = events.SnapshotCommit(key=key, name=chain_id, snapshotter=snapshotter)
        bus.publish(namespace, "/snapshot/commit", committed)

    async def _remove(self, key: str) -> None:
        with suppress(NotFound):
            await self._app.snapshots.remove(self._space, key, self._blobs.lease)
