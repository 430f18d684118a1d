"""A tar archive into the content store: an OCI image layout, or the archive of `docker save`.

The stream is put into a file without a name first (bounded; nothing of it is believed), and read in place.
Of an archive that is damaged nothing stays: all is held by the transfer's lease, and ends with it.
Sources: image-spec "image-layout.md", moby's image-spec v1.2.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from cutaway.containerd.pack.compress import DOCKER, pack
from cutaway.containerd.transfer.blobs import MAX_DOCUMENT, MAX_ENTRIES, Blobs, check
from cutaway.containerd.transfer.progress import is_layer
from cutaway.errors import InvalidArgument, NotFound, ResourceExhausted
from cutaway.oci import document
from cutaway.oci.archive.listings import (
    FULL_NAME,
    INDEX,
    LAYOUT,
    MANIFEST,
    REF_NAME,
    VERSION,
    Item,
    Layout,
    items,
)
from cutaway.oci.archive.spool import MAGIC_SIZE, compression_of, spooled, spooled_raw
from cutaway.oci.archive.tarfiles import Archive, Member
from cutaway.oci.image_spec import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_INDEX,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
)
from cutaway.registry import reference

GZIP: Final = f"{DOCKER}.gzip"
UNCOMPRESSED: Final = "containerd.io/uncompressed"

_FOREIGN: Final = (
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
)


async def spool(pieces: AsyncIterator[bytes], folder: Path, media_type: str) -> BinaryIO:
    """All of a stream in a file that is gone when it is closed; a media type says that it is plain tar."""
    return await (spooled_raw if media_type else spooled)(pieces, folder)


def is_foreign(descriptor: Descriptor) -> bool:
    """Whether a layer is one that is kept elsewhere, and may be missing from archives."""
    return bool(descriptor.urls) or descriptor.media_type.startswith(_FOREIGN)


@dataclass
class Importer:
    """One archive."""

    blobs: Blobs
    archive: Archive
    folder: Path
    """On the file system of the content store, for what is compressed on its way in."""
    compress: bool

    async def index(self) -> Descriptor:
        """Store the index of its images, and of Docker's kind the manifests. Raises `InvalidArgument`."""
        if LAYOUT in self.archive:
            return await self._layout()
        if MANIFEST in self.archive:
            return await self._docker()
        raise InvalidArgument("unrecognized image format")

    async def bring(self, descriptor: Descriptor, parent: Descriptor) -> None:
        """Have a blob in the store. Raises `NotFound` if neither the store nor the archive has it."""
        check(descriptor)
        # Held first: what is there, and nobody's, may be collected at any moment.
        await self.blobs.hold(descriptor.digest)
        if await self.blobs.info(descriptor.digest):
            return
        path = f"blobs/{descriptor.digest.replace(':', '/')}"
        if path not in self.archive:
            if is_layer(descriptor.media_type) and is_foreign(descriptor):
                return
            raise NotFound(f"content {descriptor.digest}: not found (a part of {parent.digest})")
        member = self.archive.find(path)
        if member.size != descriptor.size:
            raise InvalidArgument(f"{path}: has {member.size} bytes, expected {descriptor.size}")
        await self.blobs.write(descriptor, lambda: self._pieces(member))

    async def _layout(self) -> Descriptor:
        raw = await asyncio.to_thread(self.archive.read, LAYOUT, MAX_DOCUMENT)
        version = document.loads(Layout, raw, LAYOUT).image_layout_version
        if version != VERSION:
            raise InvalidArgument(f"unsupported OCI version {version[:40]}")
        if INDEX not in self.archive:
            raise InvalidArgument(f"missing {INDEX} in OCI layout {VERSION}")
        data = await asyncio.to_thread(self.archive.read, INDEX, MAX_DOCUMENT)
        return await self.blobs.write_document(OCI_INDEX, data)

    # Docker's kind.

    async def _docker(self) -> Descriptor:
        raw = await asyncio.to_thread(self.archive.read, MANIFEST, MAX_DOCUMENT)
        found = items(raw)
        if len(found) > MAX_ENTRIES:
            raise ResourceExhausted(f"{MANIFEST}: {len(found)} images: at most {MAX_ENTRIES} allowed")
        manifests: list[Descriptor] = []
        for item in found:
            made = await self._image(item)
            names = [str(reference.parse(text).with_default_tag()) for text in item.repo_tags or []]
            for name in names:
                named = {FULL_NAME: name, REF_NAME: object_of(name)}
                manifests.append(
                    Descriptor(media_type=made.media_type, digest=made.digest, size=made.size,
                               annotations=named, platform=made.platform)
                )  # fmt: skip
            if not names:
                manifests.append(made)
        index = Index(schema_version=2, media_type=OCI_INDEX, manifests=manifests)
        return await self.blobs.write_document(OCI_INDEX, document.dumps(index).encode())

    async def _image(self, item: Item) -> Descriptor:
        if item.config not in self.archive:
            raise InvalidArgument(f'image config "{item.config[:200]}" not found')
        raw = await asyncio.to_thread(self.archive.read, item.config, MAX_DOCUMENT)
        config = document.loads(ImageConfig, raw, f"image config {item.config[:200]}")
        stored = await self.blobs.write_document(DOCKER_CONFIG, raw)
        names, diff_ids = item.layers or [], config.rootfs.diff_ids
        if len(names) > MAX_ENTRIES:
            raise ResourceExhausted(f"{MANIFEST}: {len(names)} layers: at most {MAX_ENTRIES} allowed")
        if len(names) != len(diff_ids):
            raise InvalidArgument(f"image config: {len(diff_ids)} diff_ids for {len(names)} layers")
        manifest = Manifest(
            schema_version=2,
            media_type=DOCKER_MANIFEST,
            config=stored,
            layers=[await self._layer(name, diff_id) for name, diff_id in zip(names, diff_ids, strict=True)],
        )
        made = await self.blobs.write_document(DOCKER_MANIFEST, document.dumps(manifest).encode())
        made.platform = Platform(
            os=config.os,
            architecture=config.architecture,
            variant=config.variant,
            os_version=config.os_version,
        )
        return made

    async def _layer(self, name: str, diff_id: str) -> Descriptor:
        if name not in self.archive:
            raise InvalidArgument(f'failed to resolve layers: layer "{name[:200]}" not found')
        check(Descriptor(media_type=DOCKER, digest=diff_id, size=0))
        member = self.archive.find(name)
        for known in await self.blobs.with_label(f'labels."{UNCOMPRESSED}"=={diff_id}'):
            # The same layer as it was pulled, which keeps the image what it was.
            await self.blobs.hold(known.digest)
            kind = compression_of(await self.blobs.first_bytes(known.digest, MAGIC_SIZE))
            return Descriptor(media_type=_type(kind), digest=known.digest, size=known.size)
        head = await asyncio.to_thread(self._head, member)
        kind = compression_of(head)
        if not kind and self.compress:
            return await self._compressed(member, name, diff_id)
        return await self.blobs.write_unknown(f"tar-{name}", _type(kind), self._pieces(member))

    def _head(self, member: Member) -> bytes:
        return next(self.archive.pieces(member), b"")[:MAGIC_SIZE]

    async def _compressed(self, member: Member, name: str, diff_id: str) -> Descriptor:
        import tempfile

        with tempfile.TemporaryFile(dir=self.folder) as file:
            made = await self.blobs.workers.finish(pack, self.archive.pieces(member), GZIP, file.fileno())
            if made.diff_id != diff_id:
                raise InvalidArgument(
                    f"layer {name[:200]}: has the content {made.diff_id}, expected {diff_id}"
                )
            file.seek(0)

            async def pieces() -> AsyncIterator[bytes]:
                while data := await asyncio.to_thread(file.read, 1 << 20):
                    yield data

            ref = f"compress-blob-{diff_id.replace(':', '-')}"
            return await self.blobs.write_unknown(ref, GZIP, pieces(), {UNCOMPRESSED: diff_id})

    async def _pieces(self, member: Member) -> AsyncIterator[bytes]:
        iterator = self.archive.pieces(member)
        while piece := await asyncio.to_thread(next, iterator, b""):
            yield piece


def _type(compression: str) -> str:
    if compression in ("bzip2", "xz"):
        raise InvalidArgument(f"a layer is compressed with {compression}, which image layers may not be")
    return {"gzip": GZIP, "zstd": f"{DOCKER}.zstd"}.get(compression, DOCKER)


def object_of(name: str) -> str:
    """The tag of a name; the whole name where it has none."""
    head, _, tag = name.rpartition(":")
    return tag if head and "/" not in tag and "@" not in head else name
