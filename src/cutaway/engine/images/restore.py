"""Layers whose blobs are gone while their snapshots are there: packed again, if they come out the same.

containerd keeps a blob while a manifest refers to it, but one can be removed by hand, or left out to save
room (`discard_unpacked_layers`). What is packed from a snapshot is the layer that the configuration names
only if its DiffID is: that hangs on who packed it first, for a tar file has an order and a form that files
have not. Compressed it may have another digest than before; then the image goes out under a manifest of
its own around the same configuration.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from typing import Final

from cutaway import errors
from cutaway.engine.containerd_client import GC_EXPIRE, ContainerdClient
from cutaway.engine.images.archived import Document, described, labels_of, to_json
from cutaway.engine.images.content import ContentStore
from cutaway.engine.images.install import Installer
from cutaway.engine.images.model import Image
from cutaway.engine.images.pull import UNCOMPRESSED
from cutaway.engine.images.snapshots import Snapshots
from cutaway.oci import document
from cutaway.oci.image_spec import (
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
)
from cutaway.pb import leases_pb2
from cutaway.pb.service import methods
from cutaway.trace import spans

KEPT_SECONDS: Final = 3600  # what was packed again stays for the next push or save

_LEASES: Final = methods(leases_pb2.DESCRIPTOR, "Leases")


class Restorer:
    """Makes images whole again."""

    def __init__(
        self, client: ContainerdClient, content: ContentStore, snapshots: Snapshots, installer: Installer
    ) -> None:
        self._client = client
        self._content = content
        self._snapshots = snapshots
        self._installer = installer

    async def whole(self, image: Image) -> Image:
        """The image with all its layers here, under another manifest if one is compressed otherwise now.

        Raises `NotFound` for a layer that is gone and cannot be made again.
        """
        missing = [
            number
            for number, layer in enumerate(image.manifest.layers)
            if not layer.urls and await self._content.info(layer.digest) is None
        ]
        if not missing:
            return image
        with spans.span("restore", image_id=image.id, layers=len(missing)):
            lease = await self._lease()
            try:
                return await self._restored(image, missing, lease)
            except BaseException:
                request = leases_pb2.DeleteRequest(id=lease, sync=True)
                await asyncio.shield(self._client.call(_LEASES["Delete"], request))
                raise

    async def _restored(self, image: Image, missing: list[int], lease: str) -> Image:
        layers = list(image.manifest.layers)
        for number in missing:
            layers[number] = await self._packed(image, number, lease)
        return image if layers == image.manifest.layers else await self._around(image, layers, lease)

    async def _lease(self) -> str:
        """A lease that ends by itself: nobody knows when the last byte of a push or a save is read."""
        lease = f"restore-{time.time_ns()}-{secrets.token_urlsafe(3)}"
        labels = {GC_EXPIRE: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + KEPT_SECONDS))}
        await self._client.call(_LEASES["Create"], leases_pb2.CreateRequest(id=lease, labels=labels))
        return lease

    async def _packed(self, image: Image, number: int, lease: str) -> Descriptor:
        layer, diff_id, chain_id = (
            image.manifest.layers[number],
            image.diff_ids[number],
            image.chain_ids[number],
        )
        if not await self._snapshots.exists(chain_id):
            raise errors.NotFound(f"layer {layer.digest} of {image.id} is not here, nor is it unpacked")
        media_type = DOCKER_LAYER_GZIP if image.manifest.media_type == DOCKER_MANIFEST else OCI_LAYER_GZIP
        below = image.chain_ids[number - 1] if number else ""
        ref = f"cutaway-restore-{secrets.token_hex(8)}"
        async with self._snapshots.view(below, lease) as left, self._snapshots.view(chain_id, lease) as right:
            made = await self._snapshots.diff(left, right, OCI_LAYER_GZIP, lease, ref)
        info = await self._content.info(made.digest)
        if info is None or info.labels.get(UNCOMPRESSED) != diff_id:
            raise errors.NotFound(
                f"layer {layer.digest} of {image.id} is not here, "
                "and packed again from its snapshot it is another one"
            )
        return layer if made.digest == layer.digest else _typed(made, media_type)

    async def _around(self, image: Image, layers: list[Descriptor], lease: str) -> Image:
        """The image under a manifest of other layers."""
        old = image.manifest
        manifest = Manifest(
            schema_version=2,
            media_type=old.media_type or OCI_MANIFEST,
            config=old.config,
            layers=layers,
            annotations=old.annotations,
        )
        data = to_json(document.encode(manifest))
        target = described(manifest.media_type or OCI_MANIFEST, data)
        await self._installer.documents([Document(target, data, labels_of(manifest))], lease)
        return dataclasses.replace(image, target=target, manifest_descriptor=target, manifest=manifest)


def _typed(layer: Descriptor, media_type: str) -> Descriptor:
    return Descriptor(media_type=media_type, digest=layer.digest, size=layer.size)
