"""`docker load`: images out of an archive, of Docker's kind or an OCI image layout, compressed or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cutaway import errors
from cutaway.engine.containerd_client import ContainerdClient
from cutaway.engine.images import docker_archive, oci_layout
from cutaway.engine.images.archived import ArchivedImage, ArchivedLayer
from cutaway.engine.images.install import Installer
from cutaway.engine.images.model import Image
from cutaway.engine.images.progress import LayerProgress, Progress, stream
from cutaway.engine.images.pull import first_of
from cutaway.oci.archive import listings
from cutaway.oci.archive.spool import spooled
from cutaway.oci.archive.tarfiles import Archive
from cutaway.oci.image_spec import Descriptor
from cutaway.trace import spans

UNCOMPRESSED: Final = "containerd.io/uncompressed"


@dataclass(frozen=True)
class Loaded:
    """An image that is here now, and the names it was given."""

    image: Image
    names: tuple[str, ...]


class Loader:
    """Loads archives."""

    def __init__(self, client: ContainerdClient, installer: Installer, folder: Path | None) -> None:
        self._client = client
        self._installer = installer
        self._folder = folder

    async def load(self, pieces: AsyncIterator[bytes], report: Progress, *, quiet: bool) -> list[Loaded]:
        """Bring in every image of an archive; of one that is bad in any way, none.

        Raises `InvalidArgument`, `NotFound`, `DataLoss`, `ResourceExhausted` with one line.
        """
        with spans.span("load") as span:
            file = await spooled(pieces, self._folder)
            try:
                archive = await asyncio.to_thread(Archive, file)
                found = await asyncio.to_thread(_read_images, archive)
                loaded = await self._store(archive, found, report, quiet)
            finally:
                file.close()
            span.set(images=len(loaded))
        return loaded

    async def _store(
        self, archive: Archive, found: list[ArchivedImage], report: Progress, quiet: bool
    ) -> list[Loaded]:
        async with self._client.lease(collect_on_error=True) as lease:
            images: list[Image] = []
            for entry in found:
                images.append(await self._image(archive, entry, lease, None if quiet else report))
            loaded: list[Loaded] = []
            # Only now, that all of them are whole, does any of them get a name.
            for entry, image in zip(found, images, strict=True):
                for name, before in await self._installer.name(image, entry.names, lease):
                    report(stream(_renaming(name, before)))
                names = tuple(named.familiar for named in entry.names)
                for name in names:
                    report(stream(f"Loaded image: {name}\n"))
                if not names:
                    report(stream(f"Loaded image ID: {image.id}\n"))
                loaded.append(Loaded(image, names))
        return loaded

    async def _image(
        self, archive: Archive, entry: ArchivedImage, lease: str, report: Progress | None
    ) -> Image:
        """Store an image; each layer is unpacked while those above it are still being stored."""
        await self._installer.documents(entry.documents, lease)
        stored = {layer.descriptor.digest: asyncio.Event() for layer in entry.layers}

        async def store() -> None:
            for layer in entry.layers:
                await self._layer(archive, layer, lease, report)
                stored[layer.descriptor.digest].set()

        async def ready(layer: Descriptor) -> None:
            if layer.digest in stored:
                await stored[layer.digest].wait()

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(store())
                unpacking = group.create_task(self._installer.unpacked(entry.target, ready))
        except ExceptionGroup as error:
            raise first_of(error) from None
        return unpacking.result()

    async def _layer(
        self, archive: Archive, layer: ArchivedLayer, lease: str, report: Progress | None
    ) -> None:
        line = LayerProgress(layer.descriptor, report or (lambda event: None), layer.diff_id)
        labels = {UNCOMPRESSED: layer.diff_id} if layer.diff_id else {}
        try:
            await self._installer.blob(
                layer.descriptor, _pieces(archive, layer), lease=lease, labels=labels, wrote=line.loading
            )
        except errors.FailedPrecondition as error:
            # containerd has digested something else than it was promised.
            raise errors.DataLoss(
                f"invalid layer {layer.member.name}: its content is not {layer.descriptor.digest}: {error}"
            ) from None


def _read_images(archive: Archive) -> list[ArchivedImage]:
    if oci_layout.is_layout(archive):
        return oci_layout.read_images(archive)
    if listings.MANIFEST in archive:
        return docker_archive.read_images(archive)
    raise errors.InvalidArgument(
        "invalid archive: neither manifest.json (docker save, 1.10 and later) nor an OCI image layout in it"
    )


def _pieces(archive: Archive, layer: ArchivedLayer) -> Callable[[], AsyncIterator[bytes]]:
    async def pieces() -> AsyncIterator[bytes]:
        iterator = archive.pieces(layer.member)
        while piece := await asyncio.to_thread(next, iterator, b""):
            yield piece

    return pieces


def _renaming(name: str, before: Image) -> str:
    return f"The image {name} already exists, renaming the old one with ID {before.id} to empty string\n"
