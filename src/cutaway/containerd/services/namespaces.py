"""containerd.services.namespaces.v1.Namespaces."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from cutaway.containerd.app import App
from cutaway.containerd.metadata import namespaces
from cutaway.containerd.server import Call, Service
from cutaway.pb import namespace_events_pb2 as events
from cutaway.pb import namespaces_pb2 as pb


class Namespaces(Service):
    file = pb.DESCRIPTOR
    name = "Namespaces"

    def __init__(self, app: App) -> None:
        self._app = app

    async def get(self, request: pb.GetNamespaceRequest, _call: Call) -> pb.GetNamespaceResponse:
        labels = await self._app.db.read(namespaces.labels, request.name)
        return pb.GetNamespaceResponse(namespace=pb.Namespace(name=request.name, labels=labels))

    async def list(self, _request: pb.ListNamespacesRequest, _call: Call) -> pb.ListNamespacesResponse:
        found = await self._app.db.read(namespaces.all_of_them)
        return pb.ListNamespacesResponse(
            namespaces=[pb.Namespace(name=name, labels=labels) for name, labels in found]
        )

    async def create(self, request: pb.CreateNamespaceRequest, _call: Call) -> pb.CreateNamespaceResponse:
        new = request.namespace
        await self._app.db.write(namespaces.create, new.name, dict(new.labels))
        self._app.bus.publish(
            new.name, "/namespaces/create", events.NamespaceCreate(name=new.name, labels=new.labels)
        )
        return pb.CreateNamespaceResponse(namespace=new)

    async def update(self, request: pb.UpdateNamespaceRequest, _call: Call) -> pb.UpdateNamespaceResponse:
        new = request.namespace
        paths = list(request.update_mask.paths)
        labels = await self._app.db.write(namespaces.update, new.name, dict(new.labels), paths)
        self._app.bus.publish(
            new.name, "/namespaces/update", events.NamespaceUpdate(name=new.name, labels=labels)
        )
        return pb.UpdateNamespaceResponse(namespace=pb.Namespace())  # empty, as in containerd

    async def delete(self, request: pb.DeleteNamespaceRequest, _call: Call) -> Empty:
        await self._app.db.release(namespaces.delete, request.name)
        self._app.bus.publish(request.name, "/namespaces/delete", events.NamespaceDelete(name=request.name))
        return Empty()
