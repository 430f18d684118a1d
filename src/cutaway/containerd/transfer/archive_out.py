"""Images as a tar archive: an OCI image layout with Docker's manifest.json beside it, as containerd does.

What goes into it is listed first, so that an image that lacks a part is refused before a byte is sent.
The members are sorted, and carry neither times nor owners: the same images make the same bytes.
"""

from __future__ import annotations

import tarfile
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from cutaway.containerd.metadata.images import Image
from cutaway.containerd.transfer.archive_in import is_foreign, object_of
from cutaway.containerd.transfer.blobs import Blobs
from cutaway.containerd.transfer.images import descriptor_of, matches
from cutaway.errors import InvalidArgument, NotFound
from cutaway.oci import document, jsontext
from cutaway.oci.archive.listings import FULL_NAME, INDEX, LAYOUT, MANIFEST, REF_NAME, VERSION
from cutaway.oci.image_spec import INDEX_TYPES, MANIFEST_TYPES, OCI_INDEX, Descriptor, Index, Platform
from cutaway.registry import reference

SOURCE: Final = "containerd.io/distribution.source"

Write = Callable[[bytes], Awaitable[None]]


class Exporter:
    """Writes images to a stream."""

    def __init__(
        self, blobs: Blobs, platforms: Sequence[Platform], *, all_platforms: bool, foreign: bool, docker: bool
    ) -> None:
        self._blobs = blobs
        self._platforms = platforms
        self._all = all_platforms
        self._foreign = foreign
        self._docker = docker
        self._members: dict[str, Descriptor] = {}
        self._names: dict[str, tuple[Descriptor, list[str]]] = {}
        """Of manifests that Docker's manifest.json lists."""

    async def export(self, images: Sequence[Image], write: Write) -> None:
        """Raises `NotFound` for parts that are missing, `InvalidArgument`."""
        entries = [await self._entry(image) for image in images]
        indexes: dict[str, Descriptor] = {}
        for entry in entries:
            await self._take(entry, indexes)
        files = {LAYOUT: jsontext.dumps({"imageLayoutVersion": VERSION}).encode()}
        index = Index(schema_version=2, media_type=OCI_INDEX, manifests=entries)
        files[INDEX] = document.dumps(index).encode()
        if self._docker and self._names:
            files[MANIFEST] = await self._manifest_json()
        await self._write(files, write)

    async def _entry(self, image: Image) -> Descriptor:
        """What index.json says of an image."""
        target = descriptor_of(image)
        annotations = {**(target.annotations or {}), FULL_NAME: image.name, REF_NAME: object_of(image.name)}
        info = await self._blobs.info(target.digest)
        if info is None:
            raise NotFound(f"content {target.digest}: not found")
        annotations |= {key: value for key, value in info.labels.items() if key.startswith(SOURCE)}
        target.annotations = dict(sorted(annotations.items()))
        return target

    async def _take(self, entry: Descriptor, indexes: dict[str, Descriptor]) -> None:
        name = (entry.annotations or {})[FULL_NAME]
        if entry.media_type in MANIFEST_TYPES:
            await self._take_tree(entry)
            self._names.setdefault(entry.digest, (entry, []))[1].append(name)
        elif entry.media_type in INDEX_TYPES:
            if entry.digest not in indexes:
                indexes[entry.digest] = await self._take_index(entry)
            chosen = indexes[entry.digest]
            self._names.setdefault(chosen.digest, (chosen, []))[1].append(name)
        else:
            raise InvalidArgument("only manifests may be exported: invalid argument")

    async def _take_index(self, entry: Descriptor) -> Descriptor:
        """All of an index that is wanted; returns the manifest that Docker is to be shown."""
        await self._take_blob(entry)
        fitting = []
        for child in await self._blobs.children(entry):
            if matches(child.platform, self._platforms):
                fitting.append(child)
            elif not self._all:
                continue
            await self._take_tree(child)
        if not fitting:
            raise NotFound("no manifest found for platform: not found")
        # Those that say nothing of themselves come last.
        return min(fitting, key=lambda one: one.platform is None)

    async def _take_tree(self, top: Descriptor) -> None:
        if await self._take_blob(top):
            for child in await self._blobs.children(top):
                await self._take_tree(child)

    async def _take_blob(self, descriptor: Descriptor) -> bool:
        """List a blob; False if it is in the list or to be left out."""
        name = _path(descriptor)
        if name in self._members or (not self._foreign and is_foreign(descriptor)):
            return False
        info = await self._blobs.info(descriptor.digest)
        if info is None:
            raise NotFound(f"failed to get reader: content {descriptor.digest}: not found")
        if info.size != descriptor.size:
            raise InvalidArgument(f"{descriptor.digest} has {info.size} bytes, expected {descriptor.size}")
        self._members[name] = descriptor
        return True

    async def _manifest_json(self) -> bytes:
        items: list[dict[str, object]] = []
        for descriptor, names in self._names.values():
            manifest = await self._blobs.manifest(descriptor)
            tags = [reference.parse(name).with_default_tag().familiar for name in names]
            layers = [_path(layer) for layer in manifest.layers]
            items.append({"Config": _path(manifest.config), "RepoTags": tags, "Layers": layers})
        return jsontext.dumps(items).encode()

    async def _write(self, files: dict[str, bytes], write: Write) -> None:
        await write(_header("blobs/", 0, 0o755) + _header("blobs/sha256/", 0, 0o755))
        for name in sorted(self._members | dict.fromkeys(files)):
            if name in files:
                data = files[name]
                mode = 0o444 if name == LAYOUT else 0o644
                await write(_header(name, len(data), mode) + data + _padding(len(data)))
                continue
            descriptor = self._members[name]
            await write(_header(name, descriptor.size, 0o444))
            async for part in self._blobs.stream(descriptor.digest):
                await write(part)
            await write(_padding(descriptor.size))
        await write(b"\0" * 2 * tarfile.BLOCKSIZE)


def _path(descriptor: Descriptor) -> str:
    return f"blobs/{descriptor.digest.replace(':', '/')}"


def _padding(size: int) -> bytes:
    return b"\0" * (-size % tarfile.BLOCKSIZE)


def _header(name: str, size: int, mode: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, mode
    if name.endswith("/"):
        entry.type = tarfile.DIRTYPE
    # Only what is beyond 8 GiB needs more than the plain form.
    return entry.tobuf(tarfile.USTAR_FORMAT if size < 1 << 33 else tarfile.PAX_FORMAT)
