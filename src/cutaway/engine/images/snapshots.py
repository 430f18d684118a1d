"""Unpacking: each layer becomes a committed snapshot, named by the chain of the layers below it.

Source: image-spec "config.md" (ChainID) and containerd's docs on content flow.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from cutaway import errors
from cutaway.engine.containerd_client import ContainerdClient
from cutaway.oci.image_spec import Descriptor
from cutaway.pb import descriptor_pb2, diff_pb2, leases_pb2
from cutaway.pb import snapshots_pb2 as pb
from cutaway.pb.mount_pb2 import Mount
from cutaway.pb.service import methods
from cutaway.trace import spans

_SNAPSHOTS: Final = methods(pb.DESCRIPTOR, "Snapshots")
_DIFF: Final = methods(diff_pb2.DESCRIPTOR, "Diff")
_LEASES: Final = methods(leases_pb2.DESCRIPTOR, "Leases")


class Snapshots:
    """containerd's snapshots of images' layers, over seam 3."""

    def __init__(self, client: ContainerdClient, snapshotter: str) -> None:
        self.snapshotter = snapshotter
        self._client = client
        self._usage: dict[str, int] = {}

    async def exists(self, name: str) -> bool:
        """Whether a snapshot of this name is there."""
        try:
            request = pb.StatSnapshotRequest(snapshotter=self.snapshotter, key=name)
            await self._client.call(_SNAPSHOTS["Stat"], request)
        except errors.NotFound:
            return False
        return True

    async def usage(self, name: str) -> int:
        """Bytes that a committed snapshot takes on disk, its parents not counted; 0 if it is not there."""
        if name not in self._usage:
            request = pb.UsageRequest(snapshotter=self.snapshotter, key=name)
            try:
                reply: pb.UsageResponse = await self._client.call(_SNAPSHOTS["Usage"], request)
            except errors.NotFound:
                return 0
            self._usage[name] = reply.size
        return self._usage[name]

    async def hold(self, name: str, lease: str) -> None:
        """Let a lease hold a snapshot that was there before it."""
        resource = leases_pb2.Resource(id=name, type=f"snapshots/{self.snapshotter}")
        request = leases_pb2.AddResourceRequest(id=lease, resource=resource)
        with suppress(errors.AlreadyExists):
            await self._client.call(_LEASES["AddResource"], request)

    async def unpack(self, layer: Descriptor, diff_id: str, parent: str, chain_id: str, lease: str) -> None:
        """Make the snapshot `chain_id` of a layer on top of `parent`, all of it or nothing.

        Raises `DataLoss` if the layer's content is not what the image's configuration says.
        """
        key = f"extract-{time.time_ns()}-{secrets.token_urlsafe(3)} {chain_id}"
        with spans.span("unpack layer", digest=layer.digest, chain_id=chain_id, bytes=layer.size):
            request = pb.PrepareSnapshotRequest(snapshotter=self.snapshotter, key=key, parent=parent)
            prepared: pb.PrepareSnapshotResponse = await self._client.call(
                _SNAPSHOTS["Prepare"], request, lease=lease
            )
            try:
                await self._apply(layer, diff_id, prepared, lease)
                await self._commit(chain_id, key, lease)
            except BaseException:
                await asyncio.shield(self._remove(key))
                raise

    @asynccontextmanager
    async def view(self, parent: str, lease: str) -> AsyncIterator[Sequence[Mount]]:
        """How to mount a committed snapshot to read it; none at all for no parent."""
        if not parent:
            yield []
            return
        key = f"view-{secrets.token_hex(8)}"
        request = pb.ViewSnapshotRequest(snapshotter=self.snapshotter, key=key, parent=parent)
        reply: pb.ViewSnapshotResponse = await self._client.call(_SNAPSHOTS["View"], request, lease=lease)
        try:
            yield list(reply.mounts)
        finally:
            await asyncio.shield(self._remove(key))

    async def diff(
        self, left: Sequence[Mount], right: Sequence[Mount], media_type: str, lease: str, ref: str
    ) -> Descriptor:
        """Pack what a tree has beyond another one as a layer, in the content store under a lease.

        `right` may be in use: it is only read.
        """
        request = diff_pb2.DiffRequest(
            left=left, right=[read_only(mount) for mount in right], media_type=media_type, ref=ref
        )
        with spans.span("pack layer", media_type=media_type):
            reply: diff_pb2.DiffResponse = await self._client.call(_DIFF["Diff"], request, lease=lease)
        made = reply.diff
        return Descriptor(media_type=media_type, digest=made.digest, size=made.size)

    async def _apply(
        self, layer: Descriptor, diff_id: str, prepared: pb.PrepareSnapshotResponse, lease: str
    ) -> None:
        descriptor = descriptor_pb2.Descriptor(
            media_type=layer.media_type, digest=layer.digest, size=layer.size
        )
        request = diff_pb2.ApplyRequest(diff=descriptor, mounts=prepared.mounts)
        reply: diff_pb2.ApplyResponse = await self._client.call(_DIFF["Apply"], request, lease=lease)
        if reply.applied.digest != diff_id:
            raise errors.DataLoss(
                f"layer {layer.digest} has the content {reply.applied.digest}, "
                f"but its image's configuration says {diff_id}"
            )

    async def _commit(self, chain_id: str, key: str, lease: str) -> None:
        request = pb.CommitSnapshotRequest(snapshotter=self.snapshotter, name=chain_id, key=key)
        try:
            await self._client.call(_SNAPSHOTS["Commit"], request, lease=lease)
        except errors.AlreadyExists:  # another client unpacked it meanwhile
            await self._remove(key)

    async def _remove(self, key: str) -> None:
        request = pb.RemoveSnapshotRequest(snapshotter=self.snapshotter, key=key)
        with suppress(errors.NotFound):
            await self._client.call(_SNAPSHOTS["Remove"], request)


def read_only(mount: Mount) -> Mount:
    """The same tree to be read only. An overlay's upper directory becomes its topmost lower one:

    two overlays must not share one that both could write to.
    """
    kept = [option for option in mount.options if option != "rw"]
    if mount.type != "overlay":
        return Mount(type=mount.type, source=mount.source, options=[*kept, "ro"])
    values = dict(option.partition("=")[::2] for option in kept)
    layers = ":".join(filter(None, (values.get("upperdir"), values.get("lowerdir"))))
    others = [option for option in kept if not option.startswith(("upperdir=", "lowerdir=", "workdir="))]
    return Mount(type=mount.type, source=mount.source, options=[*others, f"lowerdir={layers}"])
