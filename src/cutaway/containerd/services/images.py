"""containerd.services.images.v1.Images."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from cutaway.containerd.app import App
from cutaway.containerd.metadata import images
from cutaway.containerd.metadata.images import Image
from cutaway.containerd.server import Call, Service
from cutaway.containerd.services.convert import from_descriptor, record_filter, timestamp, to_descriptor
from cutaway.errors import InvalidArgument
from cutaway.pb import image_events_pb2 as events
from cutaway.pb import images_pb2 as pb


class Images(Service):
    file = pb.DESCRIPTOR
    name = "Images"

    def __init__(self, app: App) -> None:
        self._app = app

    async def get(self, request: pb.GetImageRequest, call: Call) -> pb.GetImageResponse:
        found = self._app.db.look_up(images.get, call.namespace, request.name)
        return pb.GetImageResponse(image=_encode(found))

    async def list(self, request: pb.ListImagesRequest, call: Call) -> pb.ListImagesResponse:
        wanted = record_filter(request.filters)
        return pb.ListImagesResponse(
            images=map(_encode, await self._app.db.read(images.find, call.namespace, wanted))
        )

    async def create(self, request: pb.CreateImageRequest, call: Call) -> pb.CreateImageResponse:
        image = _decode(request.image)
        made = await self._app.db.write(images.create, call.namespace, image)
        event = events.ImageCreate(name=made.name, labels=made.labels)
        self._app.bus.publish(call.namespace, "/images/create", event)
        return pb.CreateImageResponse(image=_encode(made))

    async def update(self, request: pb.UpdateImageRequest, call: Call) -> pb.UpdateImageResponse:
        image, paths = _decode(request.image), list(request.update_mask.paths)
        changed = await self._app.db.write(images.update, call.namespace, image, paths)
        event = events.ImageUpdate(name=changed.name, labels=changed.labels)
        self._app.bus.publish(call.namespace, "/images/update", event)
        return pb.UpdateImageResponse(image=_encode(changed))

    async def delete(self, request: pb.DeleteImageRequest, call: Call) -> Empty:
        await self._app.db.release(images.delete, call.namespace, request.name, request.target.digest)
        self._app.bus.publish(call.namespace, "/images/delete", events.ImageDelete(name=request.name))
        self._app.gc.released()
        if request.sync:
            await self._app.gc.collect()
        return Empty()


def _encode(image: Image) -> pb.Image:
    return pb.Image(
        name=image.name,
        labels=image.labels,
        target=to_descriptor(image.target),
        created_at=timestamp(image.created),
        updated_at=timestamp(image.updated),
    )


def _decode(message: pb.Image) -> Image:
    if not message.name:
        raise InvalidArgument("Image.Name required")
    return Image(message.name, dict(message.labels), from_descriptor(message.target))
