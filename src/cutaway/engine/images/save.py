"""`docker save`: a tar file that is an OCI image layout and Docker's archive in one, as Docker 25 makes it.

    oci-layout, index.json           names in annotations, digests as they were pulled or pushed
    manifest.json, repositories      the same images for Docker before 25 and other readers of its archive
    blobs/sha256/...                 every blob once, byte for byte as it is stored

Images of which parts are missing are refused before the first byte goes out.
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from cutaway import errors
from cutaway.engine.images.archived import to_json
from cutaway.engine.images.content import ContentStore
from cutaway.engine.images.model import Image
from cutaway.engine.images.parts import PartsFinder
from cutaway.engine.images.restore import Restorer
from cutaway.engine.images.store import ImageStore
from cutaway.oci.archive.listings import FULL_NAME, INDEX, LAYOUT, REF_NAME, VERSION
from cutaway.oci.document import encode
from cutaway.oci.image_spec import DOCKER_LAYER, OCI_INDEX, Descriptor
from cutaway.registry import reference
from cutaway.registry.reference import Reference

_MANIFEST: Final = "manifest.json"
_REPOSITORIES: Final = "repositories"


@dataclass
class _Wanted:
    """An image to be saved, and the tags of it that were asked for."""

    image: Image
    tags: dict[str, Reference] = field(default_factory=dict)


class Saver:
    """Saves images."""

    def __init__(self, store: ImageStore, content: ContentStore, restorer: Restorer) -> None:
        self._store = store
        self._content = content
        self._restorer = restorer
        self._parts = PartsFinder(content)

    async def plan(self, names: Sequence[str]) -> Plan:
        """Find what is to be saved. Raises `NotFound` for an image or a part that is not there."""
        wanted: dict[str, _Wanted] = {}
        for text in names:
            await self._add(text, wanted)
        blobs: dict[str, Descriptor] = {}
        for entry in wanted.values():
            entry.image = await self._restorer.whole(entry.image)
            for blob in await self._parts.of(entry.image):
                blobs.setdefault(blob.digest, blob)
        return Plan(list(wanted.values()), blobs)

    async def _add(self, text: str, wanted: dict[str, _Wanted]) -> None:
        """One argument: a tag stands for itself, a name without one for all its tags, an ID for no tag."""
        if found := await self._tags_of(text):
            for tag, image in found:
                wanted.setdefault(image.id, _Wanted(image)).tags[str(tag)] = tag
            return
        image = await self._store.find(text)
        wanted.setdefault(image.id, _Wanted(image))

    async def _tags_of(self, text: str) -> list[tuple[Reference, Image]]:
        """The tags that a name means; none for an ID, a digest, or what is not here."""
        if text.startswith("sha256:") or reference.is_full_id(text):
            return []
        named = reference.parse(text)
        if named.digest:
            return []
        return [
            (entry, image)
            for image in await self._store.images()
            for entry in image.references
            if entry.name == named.name and not entry.digest and named.tag in ("", entry.tag)
        ]

    async def write(self, plan: Plan) -> AsyncIterator[bytes]:
        """The tar file, piece by piece."""
        yield _folder("blobs/") + _folder("blobs/sha256/")
        for digest in sorted(plan.blobs):
            blob = plan.blobs[digest]
            yield _header(f"blobs/{digest.replace(':', '/')}", blob.size)
            sent = 0
            async with aclosing(self._content.stream(digest)) as pieces:
                async for piece in pieces:
                    sent += len(piece)
                    yield piece
            if sent != blob.size:
                raise errors.DataLoss(f"{digest} has {sent} bytes, expected {blob.size}")
            yield bytes(-sent % tarfile.BLOCKSIZE)
        for name, data in plan.documents().items():
            yield _header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Plan:
    """What goes into an archive."""

    images: list[_Wanted]
    blobs: dict[str, Descriptor]

    @property
    def image_ids(self) -> list[str]:
        """The images, in the order they were asked for."""
        return [entry.image.id for entry in self.images]

    def documents(self) -> dict[str, bytes]:
        """The files that lead to the blobs, by name."""
        return {
            LAYOUT: to_json({"imageLayoutVersion": VERSION}),
            INDEX: to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(self._index())}),
            _MANIFEST: to_json([_item(entry) for entry in self.images]),
            _REPOSITORIES: to_json(self._repositories()),
        }

    def _index(self) -> Iterable[object]:
        for entry in self.images:
            target = encode(entry.image.target)
            for tag in entry.tags.values():
                yield {**target, "annotations": {FULL_NAME: str(tag), REF_NAME: tag.tag}}
            if not entry.tags:
                yield target

    def _repositories(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for entry in self.images:
            layers = entry.image.manifest.layers
            for tag in entry.tags.values():
                top = layers[-1].digest if layers else entry.image.id
                found.setdefault(tag.familiar_name, {})[tag.tag] = top.partition(":")[2]
        return found


def _item(entry: _Wanted) -> dict[str, object]:
    image = entry.image
    sources = {
        diff_id: described_layer(layer)
        for diff_id, layer in zip(image.diff_ids, image.manifest.layers, strict=False)
    }
    return {
        "Config": _path(image.id),
        "RepoTags": [tag.familiar for tag in entry.tags.values()] or None,
        "Layers": [_path(layer.digest) for layer in image.manifest.layers],
        "LayerSources": sources,
    }


def described_layer(layer: Descriptor) -> dict[str, object]:
    """A layer's entry in LayerSources."""
    return {"mediaType": layer.media_type or DOCKER_LAYER, "size": layer.size, "digest": layer.digest}


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry.tobuf(tarfile.GNU_FORMAT)


def _folder(name: str) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    return entry.tobuf(tarfile.GNU_FORMAT)
