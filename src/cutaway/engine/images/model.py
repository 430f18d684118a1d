"""What the engine knows of an image, and what the image service is told once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cutaway.errors import InvalidArgument
from cutaway.oci.image_spec import Descriptor, ImageConfig, Manifest, Platform
from cutaway.registry import reference
from cutaway.registry.client.platforms import host_platform
from cutaway.registry.client.settings import ClientSettings
from cutaway.registry.reference import Reference

# An image whose last tag has moved on keeps this name, as Docker's containerd-backed store calls it.
DANGLING: Final = "moby-dangling"
# Which manifest of an index was pulled for a name; without it, the best one present is meant.
CHOSEN_MANIFEST: Final = "io.cutaway.image.manifest"


@dataclass(frozen=True)
class EmbeddedSettings:
    """Where the built-in registry, which the engine starts at need, listens and keeps its blobs."""

    socket: Path
    root: Path
    otlp_endpoint: str = ""
    """Where it sends its spans; empty: where the engine's own environment says, if it does."""


@dataclass(frozen=True)
class ImageSettings:
    """Settings of the image service."""

    snapshotter: str = "overlayfs"
    registry: ClientSettings = field(default_factory=ClientSettings)
    embedded: EmbeddedSettings | None = None
    max_downloads: int = 3
    """Layers fetched at the same time, by all pulls together."""
    max_uploads: int = 5
    """Blobs sent at the same time, by all pushes together."""
    platform: Platform = field(default_factory=host_platform)
    temporary: Path | None = None
    """Folder for archives on their way in, on a disk with room; None: the system's own."""


@dataclass(frozen=True)
class Record:
    """One name in containerd's image store and what it points at."""

    name: str
    target: Descriptor
    labels: dict[str, str] = field(default_factory=dict)
    created_ns: int = 0
    updated_ns: int = 0

    @property
    def reference(self) -> Reference | None:
        """The name as a reference; None for names that are none, such as a dangling image's."""
        try:
            return reference.parse(self.name) if not self.is_dangling else None
        except InvalidArgument:
            return None

    @property
    def is_dangling(self) -> bool:
        return self.name.startswith(f"{DANGLING}@")


@dataclass(frozen=True)
class Image:
    """One image for one platform, with every name that points at it."""

    id: str
    """`sha256:` and the digest of its configuration."""
    target: Descriptor
    """What its (first) name points at: an index or a manifest."""
    manifest_descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig
    names: tuple[str, ...]
    """Names in containerd's store, normalized."""
    repo_digests: tuple[str, ...]
    """Familiar names with digest."""
    chain_ids: tuple[str, ...]
    """The snapshot of each layer, bottom first."""
    updated_ns: int = 0

    @property
    def chain_id(self) -> str:
        """The snapshot that containers of this image start from; empty for an image without layers."""
        return self.chain_ids[-1] if self.chain_ids else ""

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """Digests of the layers, uncompressed, bottom first."""
        return tuple(self.config.rootfs.diff_ids)

    @property
    def platform(self) -> Platform:
        return Platform(os=self.config.os, architecture=self.config.architecture, variant=self.config.variant)

    @property
    def size(self) -> int:
        """Bytes in the content store: manifest, configuration and compressed layers."""
        parts = (self.manifest_descriptor, self.manifest.config, *self.manifest.layers)
        return sum(part.size for part in parts)

    @property
    def created(self) -> str:
        """When it was built, RFC 3339; empty if it does not say."""
        return self.config.created or ""

    @property
    def references(self) -> tuple[Reference, ...]:
        """Those of its names that are references."""
        found = (Record(name, self.target).reference for name in self.names)
        return tuple(entry for entry in found if entry is not None)

    @property
    def repo_tags(self) -> tuple[str, ...]:
        """Familiar names with tag."""
        return tuple(entry.familiar for entry in self.references if entry.tag and not entry.digest)

    @property
    def short_id(self) -> str:
        return self.id.removeprefix("sha256:")[:12]
