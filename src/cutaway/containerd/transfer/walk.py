"""The way down an image: every descriptor that is wanted, each once, brought in and held by its parent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from cutaway.containerd.transfer.blobs import Blobs
from cutaway.containerd.transfer.progress import is_layer
from cutaway.errors import InvalidArgument
from cutaway.oci.image_spec import CONFIG_TYPES, INDEX_TYPES, MANIFEST_TYPES, Descriptor

MAX_DEPTH: Final = 5  # of indexes inside each other

Bring = Callable[[Descriptor, Descriptor], Awaitable[None]]
"""Has content be there: of a descriptor, for its parent."""
Wanted = Callable[[Descriptor, list[Descriptor]], list[Descriptor]]


@dataclass(frozen=True)
class Found:
    """A manifest with those of its parts that were wanted: its configuration, then its layers."""

    descriptor: Descriptor
    parts: list[Descriptor]

    @property
    def is_image(self) -> bool:
        """Whether there are layers to unpack: those of Linux, and none of what speaks about an image."""
        platform = self.descriptor.platform
        return (
            len(self.parts) > 1
            and (platform is None or platform.os == "linux")
            and self.parts[0].media_type in CONFIG_TYPES
            and all(is_layer(one.media_type) for one in self.parts[1:])
        )


@dataclass
class Walk:
    """One walk over an index or manifest."""

    blobs: Blobs
    bring: Bring
    """For documents: they are there when it returns."""
    wanted: Wanted
    manifests: list[Found] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    async def down(self, top: Descriptor) -> None:
        """Bring in the documents below, and list what else there is to bring, in `manifests`."""
        await self._visit(top, top, 0)

    async def _visit(self, descriptor: Descriptor, parent: Descriptor, depth: int) -> None:
        if descriptor.digest in self.seen:
            return
        if depth > MAX_DEPTH:
            raise InvalidArgument(f"image index: more than {MAX_DEPTH} indexes inside each other")
        self.seen.add(descriptor.digest)
        await self.bring(descriptor, parent)
        children = await self.blobs.children(descriptor)
        await self.blobs.hold_children(descriptor, children)
        chosen = self.wanted(descriptor, children)
        if descriptor.media_type in INDEX_TYPES:
            for child in chosen:
                await self._visit(child, descriptor, depth + 1)
        elif descriptor.media_type in MANIFEST_TYPES:
            self.manifests.append(Found(descriptor, chosen))
