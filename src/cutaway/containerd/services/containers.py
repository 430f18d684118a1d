"""containerd.services.containers.v1.Containers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from cutaway.containerd.app import App
from cutaway.containerd.metadata import containers
from cutaway.containerd.metadata.containers import Container
from cutaway.containerd.server import Call, Service
from cutaway.containerd.services.convert import fill_any, fill_time, from_any, record_filter, to_any
from cutaway.pb import container_events_pb2 as events
from cutaway.pb import containers_pb2 as pb


class Containers(Service):
    file = pb.DESCRIPTOR
    name = "Containers"

    def __init__(self, app: App) -> None:
        self._app = app

    async def get(self, request: pb.GetContainerRequest, call: Call) -> pb.GetContainerResponse:
        found = self._app.db.look_up(containers.get, call.namespace, request.id)
        return pb.GetContainerResponse(container=encode(found))

    async def list(self, request: pb.ListContainersRequest, call: Call) -> pb.ListContainersResponse:
        wanted = record_filter(request.filters)
        found = await self._app.db.read(containers.find, call.namespace, wanted)
        response = pb.ListContainersResponse()
        for container in found:
            fill(response.containers.add(), container)
        return response

    async def list_stream(
        self, request: pb.ListContainersRequest, call: Call
    ) -> AsyncIterator[pb.ListContainerMessage]:
        wanted = record_filter(request.filters)
        for container in await self._app.db.read(containers.find, call.namespace, wanted):
            yield pb.ListContainerMessage(container=encode(container))

    async def create(self, request: pb.CreateContainerRequest, call: Call) -> pb.CreateContainerResponse:
        made = await self._app.db.write(containers.create, call.namespace, decode(request.container))
        runtime = events.ContainerCreate.Runtime(name=made.runtime, options=to_any(made.options))
        self._app.bus.publish(
            call.namespace,
            "/containers/create",
            events.ContainerCreate(id=made.id, image=made.image, runtime=runtime),
        )
        return pb.CreateContainerResponse(container=encode(made))

    async def update(self, request: pb.UpdateContainerRequest, call: Call) -> pb.UpdateContainerResponse:
        paths = list(request.update_mask.paths)
        changed = await self._app.db.write(
            containers.update, call.namespace, decode(request.container), paths
        )
        event = events.ContainerUpdate(
            id=changed.id, image=changed.image, labels=changed.labels, snapshot_key=changed.snapshot_key
        )
        self._app.bus.publish(call.namespace, "/containers/update", event)
        return pb.UpdateContainerResponse(container=encode(changed))

    async def delete(self, request: pb.DeleteContainerRequest, call: Call) -> Empty:
        await self._app.db.release(containers.delete, call.namespace, request.id)
        self._app.gc.released()
        self._app.bus.publish(call.namespace, "/containers/delete", events.ContainerDelete(id=request.id))
        return Empty()


def encode(container: Container) -> pb.Container:
    message = pb.Container()
    fill(message, container)
    return message


def fill(message: pb.Container, container: Container) -> None:
    """Write a container into an empty message. Of specs, which are long, this makes one copy."""
    message.id = container.id
    message.labels.update(container.labels)
    message.image = container.image
    message.runtime.name = container.runtime
    if container.options is not None:
        fill_any(message.runtime.options, container.options)
    if container.spec is not None:
        fill_any(message.spec, container.spec)
    message.snapshotter = container.snapshotter
    message.snapshot_key = container.snapshot_key
    fill_time(message.created_at, container.created)
    fill_time(message.updated_at, container.updated)
    message.sandbox = container.sandbox
    for key, value in container.extensions.items():
        fill_any(message.extensions[key], value)


def decode(message: pb.Container) -> Container:
    runtime = message.runtime
    return Container(
        id=message.id,
        runtime=runtime.name,
        options=from_any(runtime.options) if runtime.HasField("options") else None,
        spec=from_any(message.spec) if message.HasField("spec") else None,
        image=message.image,
        snapshotter=message.snapshotter,
        snapshot_key=message.snapshot_key,
        sandbox=message.sandbox,
        labels=dict(message.labels),
        extensions={key: from_any(value) for key, value in message.extensions.items()},
    )
