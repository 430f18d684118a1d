"""containerd.services.snapshots.v1.Snapshots."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from google.protobuf.empty_pb2 import Empty

from cutaway.containerd import filters
from cutaway.containerd.app import App
from cutaway.containerd.metadata.snapshots import Kind, Snapshot, Space
from cutaway.containerd.mounts import Mount
from cutaway.containerd.server import Call, Service
from cutaway.containerd.services.convert import timestamp, to_mount
from cutaway.errors import InvalidArgument, Unknown
from cutaway.pb import snapshot_events_pb2 as events
from cutaway.pb import snapshots_pb2 as pb
from cutaway.trace import spans

LIST_BLOCK = 100


class Snapshots(Service):
    file = pb.DESCRIPTOR
    name = "Snapshots"

    def __init__(self, app: App) -> None:
        self._app = app
        self._store = app.snapshots

    async def prepare(self, request: pb.PrepareSnapshotRequest, call: Call) -> pb.PrepareSnapshotResponse:
        mounts = await self._create(request, Kind.ACTIVE, call)
        event = events.SnapshotPrepare(
            key=request.key, parent=request.parent, snapshotter=request.snapshotter
        )
        self._app.bus.publish(call.namespace, "/snapshot/prepare", event)
        return pb.PrepareSnapshotResponse(mounts=map(to_mount, mounts))

    async def view(self, request: pb.ViewSnapshotRequest, call: Call) -> pb.ViewSnapshotResponse:
        return pb.ViewSnapshotResponse(mounts=map(to_mount, await self._create(request, Kind.VIEW, call)))

    async def _create(
        self, request: pb.PrepareSnapshotRequest | pb.ViewSnapshotRequest, kind: Kind, call: Call
    ) -> Sequence[Mount]:
        space = _space(call, request.snapshotter)
        with spans.span(f"snapshot {kind.name.lower()}", key=request.key) as span:
            mounts = await self._store.create(
                space, request.key, request.parent, kind, dict(request.labels), call.lease
            )
            span.set(
                snapshot_parent=request.parent,
                mount=" ".join((mounts[0].type, mounts[0].source, ",".join(mounts[0].options))),
            )
        return mounts

    async def mounts(self, request: pb.MountsRequest, call: Call) -> pb.MountsResponse:
        found = await self._store.mounts(_space(call, request.snapshotter), request.key)
        return pb.MountsResponse(mounts=map(to_mount, found))

    async def commit(self, request: pb.CommitSnapshotRequest, call: Call) -> Empty:
        space = _space(call, request.snapshotter)
        await self._store.commit(space, request.key, request.name, dict(request.labels), call.lease)
        event = events.SnapshotCommit(key=request.key, name=request.name, snapshotter=request.snapshotter)
        self._app.bus.publish(call.namespace, "/snapshot/commit", event)
        return Empty()

    async def remove(self, request: pb.RemoveSnapshotRequest, call: Call) -> Empty:
        await self._store.remove(_space(call, request.snapshotter), request.key, call.lease)
        self._app.gc.released()
        event = events.SnapshotRemove(key=request.key, snapshotter=request.snapshotter)
        self._app.bus.publish(call.namespace, "/snapshot/remove", event)
        return Empty()

    async def stat(self, request: pb.StatSnapshotRequest, call: Call) -> pb.StatSnapshotResponse:
        found = await self._store.stat(_space(call, request.snapshotter), request.key)
        return pb.StatSnapshotResponse(info=_info(found))

    async def update(self, request: pb.UpdateSnapshotRequest, call: Call) -> pb.UpdateSnapshotResponse:
        info, paths = request.info, list(request.update_mask.paths)
        space = _space(call, request.snapshotter)
        changed = await self._store.update(space, info.name, dict(info.labels), paths)
        return pb.UpdateSnapshotResponse(info=_info(changed))

    async def list(
        self, request: pb.ListSnapshotsRequest, call: Call
    ) -> AsyncIterator[pb.ListSnapshotsResponse]:
        try:
            wanted = filters.parse_all(request.filters)
        except InvalidArgument as error:  # containerd loses the class of it
            raise Unknown(str(error)) from None
        found = await self._store.find(_space(call, request.snapshotter), wanted)
        for start in range(0, len(found), LIST_BLOCK):
            yield pb.ListSnapshotsResponse(info=map(_info, found[start : start + LIST_BLOCK]))

    async def usage(self, request: pb.UsageRequest, call: Call) -> pb.UsageResponse:
        size, inodes = await self._store.usage(_space(call, request.snapshotter), request.key)
        return pb.UsageResponse(size=size, inodes=inodes)

    async def cleanup(self, request: pb.CleanupRequest, call: Call) -> Empty:
        await self._store.cleanup(request.snapshotter)
        return Empty()


def _space(call: Call, snapshotter: str) -> Space:
    return Space(call.namespace, snapshotter)


def _info(snapshot: Snapshot) -> pb.Info:
    return pb.Info(
        name=snapshot.name,
        parent=snapshot.parent,
        kind=snapshot.kind.name,
        created_at=timestamp(snapshot.created),
        updated_at=timestamp(snapshot.updated),
        labels=snapshot.labels,
    )
