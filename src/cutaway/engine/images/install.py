"""Putting images that did not come from a registry into containerd's stores, with a name as the last step.

What fails before that leaves nothing: blobs and snapshots are held by a lease until then, and a lease
that ends by a failure takes them along.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping

from cutaway import errors
from cutaway.engine.containerd_client import ContainerdClient
from cutaway.engine.images.archived import Document
from cutaway.engine.images.content import ContentStore
from cutaway.engine.images.locks import KeyedLocks
from cutaway.engine.images.model import CHOSEN_MANIFEST, Image, Record
from cutaway.engine.images.pull import Puller, Ready, at_once
from cutaway.engine.images.store import ImageStore
from cutaway.oci.image_spec import Descriptor
from cutaway.registry.reference import Reference


class Installer:
    """Stores blobs, unpacks and names images."""

    def __init__(
        self,
        client: ContainerdClient,
        store: ImageStore,
        content: ContentStore,
        puller: Puller,
        locks: KeyedLocks,
    ) -> None:
        self._client = client
        self._store = store
        self._content = content
        self._puller = puller
        self._locks = locks

    async def blob(
        self,
        descriptor: Descriptor,
        pieces: Callable[[], AsyncIterator[bytes]],
        *,
        lease: str,
        labels: Mapping[str, str],
        wrote: Callable[[int], None] = lambda total: None,
    ) -> None:
        """Store a blob unless it is there; either way the lease holds it and it has the labels."""
        async with self._locks.of(descriptor.digest):
            new = await self._content.write(descriptor, pieces, lease=lease, labels=labels, wrote=wrote)
            if labels and not new:
                await self._content.set_labels(descriptor.digest, labels)

    async def documents(self, found: Iterable[Document], lease: str) -> None:
        """Store documents, in an order in which none refers to a later one."""
        for document in found:
            await self.blob(document.descriptor, _whole(document.data), lease=lease, labels=document.labels)

    async def unpacked(self, target: Descriptor, ready: Ready = at_once) -> Image:
        """The image of a target whose documents are there, unpacked; `ready` waits for a layer's blob.

        Raises `InvalidArgument`, `DataLoss`.
        """
        image = await self._store.load(Record("", target))
        said, sent = len(image.diff_ids), len(image.manifest.layers)
        if said != sent:
            raise errors.InvalidArgument(
                f"invalid manifest, layers length mismatch: expected {sent}, got {said}"
            )
        await self._puller.ensure_unpacked(image, ready)
        return image

    async def name(self, image: Image, names: Iterable[Reference], lease: str) -> list[tuple[str, Image]]:
        """Give an image its names, or one that only its ID leads to.

        Returns each name that another image had until now, with that image.
        """
        renamed: list[tuple[str, Image]] = []
        labels = {CHOSEN_MANIFEST: image.manifest_descriptor.digest}
        for named in names:
            if before := await self._store.keep_if_last(str(named), image):
                renamed.append((named.familiar, before))
            await self._store.put(str(named), image.target, labels, lease)
        if not await self._store.with_id(image.id):
            await self._store.keep_dangling(image)
        return renamed


def _whole(data: bytes) -> Callable[[], AsyncIterator[bytes]]:
    async def pieces() -> AsyncIterator[bytes]:
        yield data

    return pieces
