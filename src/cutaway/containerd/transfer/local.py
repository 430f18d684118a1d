"""What can be transferred from where to where, and the transfers that stay on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from cutaway.containerd.app import App
from cutaway.containerd.metadata import leases
from cutaway.containerd.transfer.blobs import Blobs
from cutaway.containerd.transfer.bytestream import Sender, received
from cutaway.containerd.transfer.images import EXPIRE, ImageStore, descriptor_of, platform_of
from cutaway.containerd.transfer.progress import Progress
from cutaway.containerd.transfer.streams import Stream, unpacked
from cutaway.containerd.transfer.walk import Found, Walk
from cutaway.errors import NotFound, Unimplemented, Unknown
from cutaway.oci.image_spec import Descriptor
from cutaway.pb import transfer_pb2 as pb
from cutaway.pb import transfer_types_pb2 as types
from cutaway.registry.client.platforms import host_platform
from cutaway.trace import spans

if TYPE_CHECKING:
    from cutaway.containerd.transfer.registry import Registry

LEASE_TIME: Final = timedelta(hours=24)


async def transfer(app: App, request: pb.TransferRequest, namespace: str, lease: str) -> None:
    """Do one transfer. Raises classes of `cutaway.errors`."""
    name = request.options.progress_stream
    stream = app.streams.get(namespace, name) if name else None
    async with Progress(stream) as progress:
        kinds = [_kind(request.source), _kind(request.destination)]
        with spans.span("transfer", source=kinds[0], destination=kinds[1]):
            async with _held(app, namespace, lease) as held:
                one = _Transfer(app, request, progress, Blobs(app, namespace, held))
                await one.run()


def _kind(value: Any) -> str:
    """The name of a type that is known to somebody. Raises `Unknown` for one that is not."""
    name = value.type_url.rpartition("/")[2]
    try:
        descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        raise Unknown(f"type with url {value.type_url}: not found") from None
    return name


@asynccontextmanager
async def _held(app: App, namespace: str, lease: str) -> AsyncIterator[str]:
    """The caller's lease, or one for the time of the transfer."""
    if lease:
        yield lease
        return
    expires = (datetime.now(UTC) + LEASE_TIME).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = await app.db.write(leases.create, namespace, leases.random_id(), {EXPIRE: expires})
    try:
        yield made.id
    finally:
        await asyncio.shield(asyncio.ensure_future(_release(app, namespace, made.id)))


async def _release(app: App, namespace: str, lease: str) -> None:
    with suppress(NotFound):
        await app.db.release(leases.delete, namespace, lease)
    app.gc.released()


class _Transfer:
    """One transfer between two ends."""

    def __init__(self, app: App, request: pb.TransferRequest, progress: Progress, blobs: Blobs) -> None:
        self._app = app
        self._request = request
        self._progress = progress
        self._blobs = blobs

    async def run(self) -> None:
        source = self._end(self._request.source)
        destination = self._end(self._request.destination)
        match source, destination:
            case types.ImageStore(), types.ImageStore():
                await self._tag(source, destination)
            case types.ImageStore(), types.ImageExportStream():
                await self._export(source, destination)
            case types.ImageImportStream(), types.ImageStore():
                await self._import(source, destination)
            case types.OCIRegistry(), types.ImageStore():
                await self._pull(source, destination)
            case types.ImageStore(), types.OCIRegistry():
                await self._push(source, destination)
            case types.ImageImportStream(), types.ImageExportStream():
                await self._echo(source, destination)
            case _:
                raise Unimplemented(
                    f"method Transfer not implemented for {self._request.source.type_url} "
                    f"to {self._request.destination.type_url}"
                )

    def _end(self, value: Any) -> Message | None:
        for kind in _ENDS:
            if (found := unpacked(value, kind)) is not None:
                return found
        return None

    def _images(self, message: types.ImageStore) -> ImageStore:
        return ImageStore(self._app, self._blobs.namespace, message)

    def _stream(self, name: str) -> Stream:
        return self._app.streams.get(self._blobs.namespace, name)

    async def _tag(self, source: types.ImageStore, destination: types.ImageStore) -> None:
        image = self._images(source).get()
        await self._images(destination).store(descriptor_of(image))

    async def _echo(self, source: types.ImageImportStream, destination: types.ImageExportStream) -> None:
        """Send back what comes: containerd's way to try its streams."""
        coming, going = self._stream(source.stream), self._stream(destination.stream)
        sender = Sender(going)
        try:
            async for data in received(coming):
                await sender.write(data)
        finally:
            coming.close()
            going.close()

    async def _export(self, source: types.ImageStore, destination: types.ImageExportStream) -> None:
        from cutaway.containerd.transfer.archive_out import Exporter

        stream = self._stream(destination.stream)
        try:
            self._progress.tell("Exporting")
            images = self._images(source).look_up()
            exporter = Exporter(
                self._blobs,
                [platform_of(one) for one in destination.platforms] or [host_platform()],
                all_platforms=destination.all_platforms,
                foreign=not destination.skip_non_distributable,
                docker=not destination.skip_compatibility_manifest,
            )
            await exporter.export(images, Sender(stream).write)
            self._progress.tell("Completed export")
        finally:
            stream.close()

    async def _import(self, source: types.ImageImportStream, destination: types.ImageStore) -> None:
        from cutaway.containerd.transfer.archive_in import Importer, spool
        from cutaway.oci.archive.tarfiles import Archive

        stream = self._stream(source.stream)
        images = self._images(destination)
        folder = self._app.config.content_root
        try:
            self._progress.tell("Importing")
            file = await spool(received(stream), folder, source.media_type)
        finally:
            stream.close()
        with file:
            archive = await asyncio.to_thread(Archive, file)
            importer = Importer(self._blobs, archive, folder, source.force_compress)
            index = await importer.index()
            walk = Walk(self._blobs, importer.bring, images.wanted)
            await walk.down(index)
            if not walk.manifests:
                raise Unknown("image might be filtered out")
            for found in walk.manifests:
                for part in found.parts:
                    await importer.bring(part, found.descriptor)
        await self._unpack(images, walk.manifests)
        entries = [one for one in await self._blobs.children(index) if one.digest in walk.seen]
        await self._name(images, index, entries)
        self._progress.tell("Completed import")

    async def _name(self, images: ImageStore, index: Descriptor, entries: list[Descriptor]) -> None:
        """Only now, that all of it is whole, does any of it get a name."""
        for descriptor, store in ((index, images.store), *((entry, images.store_entry) for entry in entries)):
            with suppress(NotFound):
                for image in await store(descriptor):
                    self._progress.tell("saved", image.name, descriptor)

    async def _unpack(self, images: ImageStore, manifests: list[Found]) -> None:
        from cutaway.containerd.transfer.unpacking import Unpacker, snapshotters

        async def ready(_layer: Descriptor) -> None:
            """All of it is there."""

        for snapshotter in snapshotters(images.unpacks):
            unpacker = Unpacker(self._app, self._blobs, snapshotter)
            for found in manifests:
                if found.is_image:
                    await unpacker.unpack(found.parts[0], found.parts[1:], lambda layer, done: None, ready)

    async def _pull(self, source: types.OCIRegistry, destination: types.ImageStore) -> None:
        from cutaway.containerd.transfer.pull import pull

        async with self._registry(source, push=False) as registry:
            images = self._images(destination)
            await pull(self._app, registry, images, self._blobs, self._progress)

    async def _push(self, source: types.ImageStore, destination: types.OCIRegistry) -> None:
        from cutaway.containerd.transfer.push import push

        async with self._registry(destination, push=True) as registry:
            await push(registry, self._images(source), self._blobs, self._progress)

    @asynccontextmanager
    async def _registry(self, message: types.OCIRegistry, *, push: bool) -> AsyncIterator[Registry]:
        from cutaway.containerd.transfer.registry import Registry

        auth = message.resolver.auth_stream
        registry = Registry(message, self._stream(auth) if auth else None, push=push)
        try:
            yield registry
        finally:
            await registry.close()


_ENDS: Final[tuple[type[Message], ...]] = (
    types.ImageStore,
    types.ImageImportStream,
    types.ImageExportStream,
    types.OCIRegistry,
)
