"""`docker push`: an image's blobs to a registry, then its manifests, the one with the tag last.

A blob that the repository has is not sent, one that came from another repository of the same registry is
mounted from there. An index goes as a whole if all its manifests are here, otherwise only the manifest
of the one platform that is. Documents go byte for byte, so digests are what they were when pulled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from cutaway import errors
from cutaway.engine.images.content import ContentStore
from cutaway.engine.images.model import Image
from cutaway.engine.images.parts import PartsFinder, Tree
from cutaway.engine.images.progress import SHORT, LayerProgress, Progress, status
from cutaway.engine.images.pull import first_of, source_labels
from cutaway.engine.images.restore import Restorer
from cutaway.engine.images.store import ImageStore
from cutaway.oci.image_spec import Descriptor
from cutaway.registry.client import uploads
from cutaway.registry.client.client import RegistryClient, Repository
from cutaway.registry.client.failures import RegistryUnreachable
from cutaway.registry.client.manifests import Fetched
from cutaway.registry.client.settings import Credentials
from cutaway.registry.reference import Reference
from cutaway.trace import spans

MAX_SOURCES: Final = 5
"""Repositories that blobs are tried to be mounted from; each is one more right to ask a token for."""


class Pusher:
    """Pushes images."""

    def __init__(
        self,
        store: ImageStore,
        content: ContentStore,
        restorer: Restorer,
        registry: RegistryClient,
        max_uploads: int,
    ) -> None:
        self._store = store
        self._content = content
        self._restorer = restorer
        self._registry = registry
        # One for all pushes together, as in dockerd.
        self._uploads = asyncio.Semaphore(max_uploads)
        self._parts = PartsFinder(content)

    async def push(self, named: Reference, credentials: Credentials, report: Progress) -> list[Reference]:
        """Push one tag, or with a name alone all tags of it; returns what was pushed.

        Raises `NotFound` for a tag that is not here, and what the registry refuses.
        """
        report(status(f"The push refers to repository [{named.name}]"))
        tags = await self._tags(named)
        for tag, image in tags:
            with spans.span("push", image=str(tag)):
                try:
                    await self._push(tag, image, credentials, report)
                except RegistryUnreachable as error:
                    raise errors.Unavailable(str(error)) from error
        return [tag for tag, _ in tags]

    async def _tags(self, named: Reference) -> list[tuple[Reference, Image]]:
        found = [
            (entry, image)
            for image in await self._store.images()
            for entry in image.references
            if entry.name == named.name and entry.tag and not entry.digest
        ]
        if not found:
            raise errors.NotFound(f"An image does not exist locally with the tag: {named.familiar_name}")
        wanted = [(entry, image) for entry, image in found if named.tag in ("", entry.tag)]
        if not wanted:
            raise errors.NotFound(f"tag does not exist: {named.familiar}")
        return sorted(wanted, key=lambda item: item[0].tag)

    async def _push(self, tag: Reference, image: Image, credentials: Credentials, report: Progress) -> None:
        image = await self._restorer.whole(image)
        tree = await self._tree(image)
        tree.blobs = [blob for blob in tree.blobs if not blob.urls]
        sources = {blob.digest: await self._sources(blob, tag) for blob in tree.blobs}
        others = list(dict.fromkeys(path for paths in sources.values() for path in paths))[:MAX_SOURCES]
        repository = self._registry.repository(tag, credentials, push=True, mount_from=others)
        diff_ids = {
            layer.digest: diff_id
            for layer, diff_id in zip(image.manifest.layers, image.diff_ids, strict=False)
        }
        lines = {
            blob.digest: LayerProgress(blob, report, diff_ids[blob.digest])
            for blob in reversed(tree.blobs)
            if blob.digest in diff_ids
        }
        for line in lines.values():
            line.say("Preparing")
        for layer in image.manifest.layers:
            if layer.urls:
                report({**status("Skipped foreign layer", id=_short(layer)), "progressDetail": {}})
        try:
            async with asyncio.TaskGroup() as group:
                for blob in tree.blobs:
                    mounts = [path for path in sources[blob.digest] if path in others]
                    line = lines.get(blob.digest) or LayerProgress(blob, lambda event: None)
                    group.create_task(self._blob(repository, blob, mounts, line))
        except ExceptionGroup as group_error:
            raise first_of(group_error) from None
        await self._manifests(repository, tree, tag, report)

    async def _tree(self, image: Image) -> Tree:
        """What to push: all of an index, or else the one manifest that is here."""
        tree = await self._parts.tree(image)
        if tree.is_whole:
            return tree
        tree = Tree()
        await self._parts.add_manifest(image.manifest_descriptor, tree)
        return tree

    async def _sources(self, blob: Descriptor, tag: Reference) -> list[str]:
        """The registry's repositories that a blob has come from or gone to."""
        info = await self._content.info(blob.digest)
        label = next(iter(source_labels(tag)))
        paths = info.labels.get(label, "").split(",") if info else []
        return [path for path in paths if path and path != tag.path]

    async def _blob(
        self, repository: Repository, blob: Descriptor, mounts: Sequence[str], line: LayerProgress
    ) -> None:
        if self._uploads.locked():
            line.say("Waiting")
        async with self._uploads:
            line.say(await self._sent(repository, blob, mounts, line))
        # So that the next push to this registry can mount it.
        for label, path in source_labels(repository.reference).items():
            await self._content.note_source(blob.digest, label, path)

    async def _sent(
        self, repository: Repository, blob: Descriptor, mounts: Sequence[str], line: LayerProgress
    ) -> str:
        """Have the registry get a blob; says how."""
        if await uploads.has_blob(repository, blob.digest):
            return "Layer already exists"
        for path in mounts:
            if await uploads.mount_blob(repository, blob.digest, path):
                return f"Mounted from {path}"

        async def pieces(offset: int) -> AsyncIterator[bytes]:
            done = offset
            async for piece in self._content.stream(blob.digest, offset):
                yield piece
                done += len(piece)
                line.pushing(done)

        await uploads.upload_blob(repository, blob, pieces)
        return "Pushed"

    async def _manifests(self, repository: Repository, tree: Tree, tag: Reference, report: Progress) -> None:
        *others, top = tree.manifests
        for descriptor in others:
            await uploads.put_manifest(repository, await self._fetched(descriptor))
        await uploads.put_manifest(repository, await self._fetched(top), tag.tag)
        report(status(f"{tag.tag}: digest: {top.digest} size: {top.size}"))
        report({"progressDetail": {}, "aux": {"Tag": tag.tag, "Digest": top.digest, "Size": top.size}})

    async def _fetched(self, descriptor: Descriptor) -> Fetched:
        return Fetched(descriptor, await self._content.read(descriptor.digest))


def _short(layer: Descriptor) -> str:
    return layer.digest.partition(":")[2][:SHORT]
