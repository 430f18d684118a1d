"""Images made here: of a tar file (`import`), or of what a container has changed (`commit`)."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from cutaway import errors
from cutaway.engine.containerd_client import ContainerdClient
from cutaway.engine.images.archived import Document, described, labels_of, to_json
from cutaway.engine.images.content import ContentStore
from cutaway.engine.images.install import Installer
from cutaway.engine.images.load import UNCOMPRESSED
from cutaway.engine.images.model import Image
from cutaway.engine.images.snapshots import Snapshots
from cutaway.engine.timestamps import now_ns, rfc3339
from cutaway.oci import document
from cutaway.oci.archive.spool import MAGIC_SIZE, PIECE, compression_of, decompressed, expanded, spooled_raw
from cutaway.oci.image_spec import (
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    ContainerConfig,
    Descriptor,
    History,
    ImageConfig,
    Manifest,
    Platform,
    RootFs,
)
from cutaway.pb.mount_pb2 import Mount
from cutaway.registry.reference import Reference
from cutaway.trace import spans

EMPTY_TAR: Final = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""The digest of a tar file with nothing in it: a layer that is none."""

_KEPT: Final = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_AS_OCI: Final = {DOCKER_LAYER: OCI_LAYER, DOCKER_LAYER_GZIP: OCI_LAYER_GZIP}


@dataclass(frozen=True)
class Made:
    """What is said of an image that is being made."""

    settings: ContainerConfig
    platform: Platform
    names: Sequence[Reference] = ()
    author: str = ""
    comment: str = ""
    created_by: str = ""


@dataclass(frozen=True)
class _NewLayer:
    descriptor: Descriptor
    diff_id: str


class Composer:
    """Makes images."""

    def __init__(
        self,
        client: ContainerdClient,
        content: ContentStore,
        snapshots: Snapshots,
        installer: Installer,
        folder: Path | None,
    ) -> None:
        self._client = client
        self._content = content
        self._snapshots = snapshots
        self._installer = installer
        self._folder = folder

    async def import_tar(self, pieces: AsyncIterator[bytes], made: Made) -> Image:
        """An image of one layer, a tar file as it comes in, compressed or not.

        Raises `InvalidArgument` or `DataLoss` for what is no tar file.
        """
        with spans.span("import"):
            file = await spooled_raw(pieces, self._folder)
            try:
                kind = compression_of(file.read(MAGIC_SIZE))
                if kind not in _KEPT:  # what no registry would take as a layer
                    file, kind = await asyncio.to_thread(expanded, file, self._folder), ""
                layer = await asyncio.to_thread(_digest, file, kind)
                async with self._client.lease(collect_on_error=True) as lease:
                    await self._installer.blob(
                        layer.descriptor,
                        _pieces(file),
                        lease=lease,
                        labels={UNCOMPRESSED: layer.diff_id},
                    )
                    return await self._install(None, layer, made, lease)
            finally:
                file.close()

    async def commit(self, base: Image | None, mounts: Sequence[Mount], made: Made) -> Image:
        """An image of another one's layers and what a container's root file system has beyond them.

        Without `base`, all of the root file system becomes one layer.
        """
        with spans.span("commit"):
            async with self._client.lease(collect_on_error=True) as lease:
                layer = await self._changes(base, mounts, lease)
                return await self._install(base, layer, made, lease)

    async def export(self, mounts: Sequence[Mount]) -> AsyncIterator[bytes]:
        """A container's root file system as a tar file."""
        async with self._client.lease(collect_on_error=True) as lease:
            packed = await self._snapshots.diff([], mounts, OCI_LAYER, lease, _reference())
            async for piece in self._content.stream(packed.digest):
                yield piece

    async def _changes(self, base: Image | None, mounts: Sequence[Mount], lease: str) -> _NewLayer:
        below = base.chain_id if base else ""
        async with self._snapshots.view(below, lease) as left:
            packed = await self._snapshots.diff(left, mounts, OCI_LAYER_GZIP, lease, _reference())
        info = await self._content.info(packed.digest)
        diff_id = info.labels.get(UNCOMPRESSED, "") if info else ""
        if not diff_id:
            raise errors.Unknown(f"containerd does not say what layer {packed.digest} is uncompressed")
        return _NewLayer(packed, diff_id)

    async def _install(self, base: Image | None, layer: _NewLayer, made: Made, lease: str) -> Image:
        empty = layer.diff_id == EMPTY_TAR and base is not None
        layers = [_as_oci(known) for known in base.manifest.layers] if base else []
        config = _config(base, layer, made, empty)
        if not empty:
            layers.append(layer.descriptor)
        raw = to_json(document.encode(config))
        described_config = described(OCI_CONFIG, raw)
        manifest = Manifest(schema_version=2, media_type=OCI_MANIFEST, config=described_config, layers=layers)
        data = to_json(document.encode(manifest))
        target = described(OCI_MANIFEST, data)
        await self._installer.documents(
            [Document(described_config, raw), Document(target, data, labels_of(manifest))], lease
        )
        image = await self._installer.unpacked(target)
        await self._installer.name(image, made.names, lease)
        return image


def _config(base: Image | None, layer: _NewLayer, made: Made, empty: bool) -> ImageConfig:
    created = rfc3339(now_ns())
    entry = History(
        created=created,
        created_by=made.created_by or None,
        author=made.author or None,
        comment=made.comment or None,
        empty_layer=True if empty else None,
    )
    return ImageConfig(
        created=created,
        author=made.author or None,
        architecture=made.platform.architecture,
        os=made.platform.os,
        variant=made.platform.variant,
        config=made.settings,
        rootfs=RootFs(
            type="layers",
            diff_ids=[*(base.diff_ids if base else ()), *(() if empty else (layer.diff_id,))],
        ),
        history=[*((base.config.history or []) if base else []), entry],
    )


def _as_oci(layer: Descriptor) -> Descriptor:
    """A layer's descriptor with OCI's name for what it is: one manifest does not mix the two kinds."""
    media_type = _AS_OCI.get(layer.media_type, layer.media_type)
    return Descriptor(media_type=media_type, digest=layer.digest, size=layer.size, urls=layer.urls)


def _digest(file: BinaryIO, kind: str) -> _NewLayer:
    """The descriptor and the diff ID of a layer in a file."""
    outer, size = hashlib.sha256(), 0
    file.seek(0)
    while piece := file.read(PIECE):
        outer.update(piece)
        size += len(piece)
    digest = f"sha256:{outer.hexdigest()}"
    descriptor = Descriptor(media_type=_KEPT[kind], digest=digest, size=size)
    if not kind:
        return _NewLayer(descriptor, digest)
    inner = hashlib.sha256()
    file.seek(0)
    for piece in decompressed(file, kind):
        inner.update(piece)
    return _NewLayer(descriptor, f"sha256:{inner.hexdigest()}")


def _pieces(file: BinaryIO) -> Callable[[], AsyncIterator[bytes]]:
    async def pieces() -> AsyncIterator[bytes]:
        file.seek(0)
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece

    return pieces


def _reference() -> str:
    return f"cutaway-diff-{secrets.token_hex(8)}"
