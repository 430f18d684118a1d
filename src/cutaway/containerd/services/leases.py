"""containerd.services.leases.v1.Leases."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from cutaway.containerd.app import App
from cutaway.containerd.metadata import leases
from cutaway.containerd.metadata.leases import Lease, Resource
from cutaway.containerd.server import Call, Service
from cutaway.containerd.services.convert import record_filter, timestamp
from cutaway.pb import leases_pb2 as pb


class Leases(Service):
    file = pb.DESCRIPTOR
    name = "Leases"

    def __init__(self, app: App) -> None:
        self._app = app

    async def create(self, request: pb.CreateRequest, call: Call) -> pb.CreateResponse:
        id = request.id or leases.random_id()
        made = await self._app.db.write(leases.create, call.namespace, id, dict(request.labels))
        return pb.CreateResponse(lease=_encode(made))

    async def delete(self, request: pb.DeleteRequest, call: Call) -> Empty:
        await self._app.db.release(leases.delete, call.namespace, request.id)
        self._app.gc.released()
        if request.sync:
            await self._app.gc.collect()
        return Empty()

    async def list(self, request: pb.ListRequest, call: Call) -> pb.ListResponse:
        wanted = record_filter(request.filters)
        return pb.ListResponse(
            leases=map(_encode, await self._app.db.read(leases.find, call.namespace, wanted))
        )

    async def add_resource(self, request: pb.AddResourceRequest, call: Call) -> Empty:
        await self._app.db.write(leases.add, call.namespace, request.id, _resource(request.resource))
        return Empty()

    async def delete_resource(self, request: pb.DeleteResourceRequest, call: Call) -> Empty:
        await self._app.db.release(leases.remove, call.namespace, request.id, _resource(request.resource))
        self._app.gc.released()
        return Empty()

    async def list_resources(self, request: pb.ListResourcesRequest, call: Call) -> pb.ListResourcesResponse:
        found = await self._app.db.read(leases.resources, call.namespace, request.id)
        return pb.ListResourcesResponse(resources=[pb.Resource(id=one.id, type=one.type) for one in found])


def _encode(lease: Lease) -> pb.Lease:
    return pb.Lease(id=lease.id, labels=lease.labels, created_at=timestamp(lease.created))


def _resource(message: pb.Resource) -> Resource:
    return Resource(message.type, message.id)
