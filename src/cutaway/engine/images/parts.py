"""Which blobs an image is made of, and of an index those of its manifests that are here whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cutaway import errors
from cutaway.engine.images.content import ContentStore
from cutaway.engine.images.model import Image
from cutaway.oci.image_spec import INDEX_TYPES, Descriptor, Index, Manifest

MAX_DEPTH: Final = 4


@dataclass
class Tree:
    """A manifest or index that is here, with all below it, what is referred to before what refers to it."""

    blobs: list[Descriptor] = field(default_factory=list)
    """Configurations and layers."""
    manifests: list[Descriptor] = field(default_factory=list)
    is_whole: bool = True
    """Whether every manifest that an index names is here."""


class PartsFinder:
    """Walks from an image's target down."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content

    async def of(self, image: Image) -> list[Descriptor]:
        """Every blob of an image. Raises `NotFound` when its own manifest lacks a part."""
        tree = await self.tree(image)
        return [*tree.blobs, *tree.manifests]

    async def tree(self, image: Image) -> Tree:
        """The same, told apart."""
        tree = Tree()
        if image.target.digest != image.manifest_descriptor.digest:
            await self._walk(image.target, tree, 0)
        else:
            await self.add_manifest(image.manifest_descriptor, tree)
        if not any(entry.digest == image.manifest_descriptor.digest for entry in tree.manifests):
            await self.add_manifest(image.manifest_descriptor, tree)  # tells what is missing
        return tree

    async def _walk(self, target: Descriptor, tree: Tree, depth: int) -> None:
        index = await self._content.document(Index, target.digest)
        for entry in index.manifests:
            try:
                if entry.media_type not in INDEX_TYPES:
                    await self.add_manifest(entry, tree)
                elif depth < MAX_DEPTH:
                    await self._walk(entry, tree, depth + 1)
            except (errors.NotFound, errors.InvalidArgument):
                tree.is_whole = False
        tree.manifests.append(
            Descriptor(media_type=target.media_type, digest=target.digest, size=target.size)
        )

    async def add_manifest(self, entry: Descriptor, tree: Tree) -> None:
        """A manifest and its parts. Raises `NotFound` if one is missing."""
        if await self._content.info(entry.digest) is None:
            raise errors.NotFound(f"manifest {entry.digest} is not here")
        manifest = await self._content.document(Manifest, entry.digest)
        parts = []
        for part in (manifest.config, *manifest.layers):
            if await self._content.info(part.digest) is not None:
                parts.append(part)
            elif not part.urls:  # those are kept elsewhere
                raise errors.NotFound(f"content {part.digest} of manifest {entry.digest} is not here")
        known = {blob.digest for blob in tree.blobs}
        tree.blobs += [part for part in parts if part.digest not in known]
        tree.manifests.append(entry)
