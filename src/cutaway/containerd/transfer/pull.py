"""From a registry: resolve, fetch what is wanted, unpack while more is fetched, and name it in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from cutaway.containerd.app import App
from cutaway.containerd.transfer.blobs import Blobs, Pieces
from cutaway.containerd.transfer.images import ImageStore
from cutaway.containerd.transfer.progress import Job, Progress, key_of
from cutaway.containerd.transfer.registry import Registry, first_of, plain, source_label
from cutaway.containerd.transfer.unpacking import Unpacker, snapshotters
from cutaway.containerd.transfer.walk import Found, Walk
from cutaway.errors import CutawayError, NotFound
from cutaway.oci.image_spec import Descriptor
from cutaway.registry.client import blobs as registry_blobs
from cutaway.registry.client import manifests
from cutaway.registry.client.client import Repository
from cutaway.registry.client.manifests import Fetched

MAX_DOWNLOADS: Final = 3  # containerd's default for transfers


async def pull(app: App, registry: Registry, images: ImageStore, blobs: Blobs, progress: Progress) -> None:
    """Raises what the registry refuses, `DataLoss`, `InvalidArgument`; no name is given then."""
    progress.tell(f"Resolving from {registry}")
    try:
        repository, top = await registry.use(_resolve)
    except NotFound as error:
        text = f"{registry.text}: not found" if "manifest unknown" in str(error) else str(error)
        raise NotFound(f"failed to resolve image: {text}") from None
    except CutawayError as error:
        raise type(error)(f"failed to resolve image: {error}") from None
    progress.tell(f"Pulling from {registry}")
    progress.tell("fetching image content", registry.text, top.descriptor)
    puller = _Puller(repository, blobs, progress, top, registry.text)
    walk = Walk(blobs, puller.document, images.wanted)
    try:
        await walk.down(top.descriptor)
        await puller.parts(
            walk.manifests, [Unpacker(app, blobs, one) for one in snapshotters(images.unpacks)]
        )
    except CutawayError as error:
        raise plain(error) from None
    for image in await images.store(top.descriptor):
        progress.tell("saved", image.name, top.descriptor)
    progress.tell(f"Completed pull from {registry}")


async def _resolve(repository: Repository) -> tuple[Repository, Fetched]:
    return repository, await manifests.fetch(repository, await manifests.resolve(repository))


class _Puller:
    """One pull under way."""

    def __init__(
        self, repository: Repository, blobs: Blobs, progress: Progress, top: Fetched, name: str
    ) -> None:
        self._repository = repository
        self._blobs = blobs
        self._progress = progress
        self._top = top
        self._name = name
        self._source = source_label(repository.reference)
        self._slots = asyncio.Semaphore(MAX_DOWNLOADS)
        self._coming: dict[str, asyncio.Task[None]] = {}

    async def document(self, descriptor: Descriptor, parent: Descriptor) -> None:
        """Have a manifest or index in the store."""
        is_top = descriptor is self._top.descriptor
        job = Job(self._progress, descriptor, self._name if is_top else key_of(parent))

        async def pieces() -> AsyncIterator[bytes]:
            fetched = self._top if is_top else await manifests.fetch(self._repository, descriptor)
            yield fetched.data

        await self._store(descriptor, pieces, job)

    async def parts(self, found: list[Found], unpackers: list[Unpacker]) -> None:
        """Fetch configurations and layers, some at a time, and unpack each layer when it is there."""
        try:
            async with asyncio.TaskGroup() as group:
                for one in found:
                    for part in one.parts:
                        if part.digest not in self._coming:
                            fetching = self._blob(part, one.descriptor)
                            self._coming[part.digest] = group.create_task(fetching)
                group.create_task(self._unpack(found, unpackers))
        except ExceptionGroup as group_error:
            raise first_of(group_error) from None

    async def _unpack(self, found: list[Found], unpackers: list[Unpacker]) -> None:
        for unpacker in unpackers:
            for one in found:
                if one.is_image:
                    await self._ready(one.parts[0])
                    await unpacker.unpack(one.parts[0], one.parts[1:], self._unpacked, self._ready)

    async def _ready(self, part: Descriptor) -> None:
        await self._coming[part.digest]

    def _unpacked(self, layer: Descriptor, done: bool) -> None:
        event, size = ("extracted", layer.size) if done else ("extracting", 0)
        self._progress.tell(event, key_of(layer), layer, progress=size, total=layer.size)

    async def _blob(self, descriptor: Descriptor, parent: Descriptor) -> None:
        job = Job(self._progress, descriptor, key_of(parent))
        async with self._slots:
            await self._store(descriptor, lambda: registry_blobs.stream(self._repository, descriptor), job)

    async def _store(self, descriptor: Descriptor, pieces: Pieces, job: Job) -> None:
        path = self._repository.reference.path
        new = await self._blobs.write(descriptor, pieces, {}, lambda done: job.moved("downloading", done))
        await self._blobs.note_source(descriptor.digest, self._source, path)
        job.tell("complete" if new else "already exists")
