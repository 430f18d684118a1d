"""To a registry: blobs first, mounted or uploaded, then manifests and indexes, that with the tag last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from cutaway.containerd.transfer.archive_in import is_foreign
from cutaway.containerd.transfer.blobs import Blobs
from cutaway.containerd.transfer.images import ImageStore, descriptor_of, matches
from cutaway.containerd.transfer.progress import Job, Progress, is_layer, key_of
from cutaway.containerd.transfer.registry import Registry, first_of, source_label
from cutaway.containerd.transfer.walk import MAX_DEPTH
from cutaway.errors import InvalidArgument, NotFound
from cutaway.oci.image_spec import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from cutaway.registry.client import uploads
from cutaway.registry.client.client import Repository
from cutaway.registry.client.manifests import Fetched

MAX_UPLOADS: Final = 3  # containerd's default for transfers
MAX_SOURCES: Final = 5
"""Repositories that blobs are tried to be mounted from; each is one more right to ask a token for."""


async def push(registry: Registry, images: ImageStore, blobs: Blobs, progress: Progress) -> None:
    """Raises `NotFound` for the image or a part of it, and what the registry refuses."""
    image = images.get()
    target = descriptor_of(image)
    progress.tell(f"Pushing to {registry}")
    progress.tell("pushing content", image.name, target)
    pusher = _Pusher(registry, images, blobs, progress)
    await pusher.list_all(target, image.name)
    await pusher.send()
    progress.tell("pushed content", image.name, target)
    progress.tell(f"Completed push to {registry}", "", target)


class _Pusher:
    """One push under way."""

    def __init__(self, registry: Registry, images: ImageStore, blobs: Blobs, progress: Progress) -> None:
        self._registry = registry
        self._images = images
        self._blobs = blobs
        self._progress = progress
        self._label = source_label(registry.reference)
        self._listed: dict[str, tuple[Descriptor, Job]] = {}
        """In the order in which they are met, from the top."""
        self._sources: dict[str, list[str]] = {}

    async def list_all(self, top: Descriptor, name: str, depth: int = 0) -> None:
        """What is to be pushed. Raises `NotFound` for what is missing, before anything is sent."""
        if top.digest in self._listed:
            return
        if depth > MAX_DEPTH:
            raise InvalidArgument(f"image index: more than {MAX_DEPTH} indexes inside each other")
        info = await self._blobs.info(top.digest)
        if info is None:
            if is_layer(top.media_type) and is_foreign(top):
                return
            raise NotFound(f"content {top.digest}: not found")
        self._listed[top.digest] = top, Job(self._progress, top, name)
        paths = info.labels.get(self._label, "").split(",")
        self._sources[top.digest] = [one for one in paths if one and one != self._registry.reference.path]
        for child in await self._blobs.children(top):
            if matches(child.platform, self._images.platforms):
                await self.list_all(child, key_of(top), depth + 1)

    async def send(self) -> None:
        others = dict.fromkeys(path for paths in self._sources.values() for path in paths)
        await self._registry.use(self._send, list(others)[:MAX_SOURCES])

    async def _send(self, repository: Repository) -> None:
        everything = list(self._listed.values())
        documents = (*MANIFEST_TYPES, *INDEX_TYPES)
        slots = asyncio.Semaphore(MAX_UPLOADS)
        try:
            async with asyncio.TaskGroup() as group:
                for descriptor, job in everything:
                    if descriptor.media_type not in documents:
                        group.create_task(self._blob(repository, descriptor, job, slots))
        except ExceptionGroup as group_error:
            raise first_of(group_error) from None
        # Met after what refers to it, so in reverse everything is there before that.
        for descriptor, job in reversed(everything):
            if descriptor.media_type in documents:
                is_top = descriptor is everything[0][0]
                tag = self._registry.reference.tag if is_top else ""
                fetched = Fetched(descriptor, await self._blobs.read(descriptor))
                await uploads.put_manifest(repository, fetched, tag)
                job.tell("complete")

    async def _blob(
        self, repository: Repository, descriptor: Descriptor, job: Job, slots: asyncio.Semaphore
    ) -> None:
        async with slots:
            job.tell(await self._sent(repository, descriptor, job))
        # So that the next push to this registry can mount it.
        await self._blobs.note_source(descriptor.digest, self._label, repository.reference.path)

    async def _sent(self, repository: Repository, descriptor: Descriptor, job: Job) -> str:
        """Have the registry get a blob; says how."""
        if await uploads.has_blob(repository, descriptor.digest):
            return "already exists"
        for path in self._sources[descriptor.digest][:MAX_SOURCES]:
            if await uploads.mount_blob(repository, descriptor.digest, path):
                return "complete"

        async def pieces(offset: int) -> AsyncIterator[bytes]:
            done = offset
            async for piece in self._blobs.stream(descriptor.digest, offset):
                yield piece
                done += len(piece)
                job.moved("uploading", done)

        await uploads.upload_blob(repository, descriptor, pieces)
        return "complete"
