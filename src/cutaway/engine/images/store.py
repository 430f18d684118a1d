"""containerd's image store with an engine's eyes: names, IDs and digests, and the documents behind them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from google.protobuf.field_mask_pb2 import FieldMask

from cutaway import errors
from cutaway.engine.containerd_client import ContainerdClient
from cutaway.engine.images.content import ContentStore
from cutaway.engine.images.model import CHOSEN_MANIFEST, DANGLING, Image, Record
from cutaway.engine.timestamps import from_protobuf
from cutaway.oci.chain import chain_ids
from cutaway.oci.image_spec import INDEX_TYPES, Descriptor, ImageConfig, Index, Manifest, Platform
from cutaway.pb import descriptor_pb2
from cutaway.pb import images_pb2 as pb
from cutaway.pb.service import methods
from cutaway.registry import reference
from cutaway.registry.client.platforms import is_attestation, rank
from cutaway.registry.reference import Reference, is_id_prefix

log = logging.getLogger(__name__)

MAX_DEPTH: Final = 4  # of indexes inside indexes

_IMAGES: Final = methods(pb.DESCRIPTOR, "Images")


class ImageStore:
    """Images by name, digest, ID and the start of an ID."""

    def __init__(self, client: ContainerdClient, content: ContentStore, platform: Platform) -> None:
        self._client = client
        self._content = content
        self._platform = platform

    # Names

    async def record(self, name: str) -> Record | None:
        """What a normalized name points at."""
        try:
            reply: pb.GetImageResponse = await self._client.call(
                _IMAGES["Get"], pb.GetImageRequest(name=name)
            )
        except errors.NotFound:
            return None
        return _record(reply.image)

    async def records(self) -> list[Record]:
        """Every name."""
        reply: pb.ListImagesResponse = await self._client.call(_IMAGES["List"], pb.ListImagesRequest())
        return [_record(image) for image in reply.images]

    async def put(self, name: str, target: Descriptor, labels: dict[str, str], lease: str = "") -> None:
        """Make a name point at a target, whether it did exist or not."""
        image = pb.Image(name=name, target=_to_protobuf(target), labels=labels)
        try:
            request = pb.CreateImageRequest(image=image)
            await self._client.call(_IMAGES["Create"], request, lease=lease)
        except errors.AlreadyExists:
            mask = FieldMask(paths=["target", *(f"labels.{key}" for key in labels)])
            update = pb.UpdateImageRequest(image=image, update_mask=mask)
            await self._client.call(_IMAGES["Update"], update, lease=lease)

    async def delete(self, name: str, *, sync: bool = False) -> None:
        """Remove a name; with `sync`, return after what nothing refers to any more has been removed."""
        await self._client.call(_IMAGES["Delete"], pb.DeleteImageRequest(name=name, sync=sync))

    async def keep_dangling(self, image: Image) -> None:
        """Give an image that loses its last name one that only its ID leads to."""
        labels = {CHOSEN_MANIFEST: image.manifest_descriptor.digest}
        await self.put(f"{DANGLING}@{image.target.digest}", image.target, labels)

    async def keep_if_last(self, name: str, instead: Image) -> Image | None:
        """Keep the image that is about to lose a name to another; returns it if it will have none left."""
        record = await self.record(name)
        if record is None:
            return None
        try:
            before = await self.load(record)
        except (errors.NotFound, errors.InvalidArgument):
            return None  # not whole, or no image: nothing to keep
        known = await self.with_id(before.id)
        if before.id == instead.id or known is None or len(known.references) > 1:
            return None
        await self.keep_dangling(before)
        return before

    # Images

    async def images(self) -> list[Image]:
        """Every image that is whole, newest name first."""
        grouped: dict[str, list[tuple[Record, Image]]] = {}
        for record in await self.records():
            if image := await self._load_if_whole(record):
                grouped.setdefault(image.id, []).append((record, image))
        merged = [_merge(entries) for entries in grouped.values()]
        return sorted(merged, key=lambda image: image.updated_ns, reverse=True)

    async def find(self, text: str) -> Image:
        """The image that a person means by a reference, an ID or the start of one.

        Raises `NotFound` with Docker's text, `InvalidArgument` for what can be no reference.
        """
        if text.startswith("sha256:") or reference.is_full_id(text):
            return await self._by_id(text)
        try:
            named = reference.parse(text).with_default_tag()
        except errors.InvalidArgument:
            if is_id_prefix(text):
                return await self._by_id(text)
            raise
        if image := await self.by_reference(named):
            return image
        if is_id_prefix(text) and (image := await self._by_prefix(text)):
            return image
        raise errors.NotFound(f"No such image: {named.familiar}")

    async def by_reference(self, named: Reference) -> Image | None:
        """The image of a tag or of a digest, or None."""
        if named.digest:
            named = named.with_digest(named.digest)
        if record := await self.record(str(named)):
            return await self.load(record)
        if not named.digest:
            return None
        for image in await self.images():
            if named.familiar in image.repo_digests:
                return image
        return None

    async def with_id(self, image_id: str) -> Image | None:
        """The image of a whole ID, with all its names."""
        return next((image for image in await self.images() if image.id == image_id), None)

    async def _by_id(self, text: str) -> Image:
        if image := await self._by_prefix(text.removeprefix("sha256:")):
            return image
        raise errors.NotFound(f"No such image: {text}")

    async def _by_prefix(self, digits: str) -> Image | None:
        """The one image whose ID starts so; none if there are several, as Docker has it."""
        if not digits:
            return None
        found = [
            image
            for image in await self.images()
            if image.id.startswith(f"sha256:{digits}") or image.target.digest == f"sha256:{digits}"
        ]
        return found[0] if len(found) == 1 else None

    async def load(self, record: Record) -> Image:
        """The image behind a name, for the platform that was pulled or fits best; `NotFound` if not whole."""
        descriptor = await self._manifest_of(record)
        manifest = await self._content.document(Manifest, descriptor.digest)
        config = await self._content.document(ImageConfig, manifest.config.digest)
        named = record.reference
        digests = (f"{named.familiar_name}@{record.target.digest}",) if named else ()
        return Image(
            id=manifest.config.digest,
            target=record.target,
            manifest_descriptor=descriptor,
            manifest=manifest,
            config=config,
            names=(record.name,),
            repo_digests=digests,
            chain_ids=chain_ids(config.rootfs.diff_ids),
            updated_ns=record.updated_ns or record.created_ns,
        )

    async def _load_if_whole(self, record: Record) -> Image | None:
        try:
            return await self.load(record)
        except errors.NotFound as error:
            log.debug("image %s is not whole: %s", record.name, error)
        except errors.InvalidArgument as error:  # not an image: an artifact put there by other means
            log.debug("%s is no image: %s", record.name, error)
        return None

    async def _manifest_of(self, record: Record) -> Descriptor:
        if record.target.media_type not in INDEX_TYPES:
            return record.target
        chosen = record.labels.get(CHOSEN_MANIFEST, "")
        if found := await self._present(record.target, chosen, 0):
            return found
        raise errors.NotFound(f"{record.name}: none of its manifests is here")

    async def _present(self, target: Descriptor, chosen: str, depth: int) -> Descriptor | None:
        """The best manifest below an index that is here, None if there is none."""
        index = await self._content.document(Index, target.digest)
        for entry in sorted(_candidates(index, self._platform), key=lambda entry: entry.digest != chosen):
            # What was pulled under this name is held by it; of the others, any may be missing.
            if entry.digest != chosen and not await self._content.info(entry.digest):
                continue
            if entry.media_type not in INDEX_TYPES:
                return entry
            if depth < MAX_DEPTH and (found := await self._present(entry, chosen, depth + 1)):
                return found
        return None


def _candidates(index: Index, platform: Platform) -> Iterable[Descriptor]:
    """The images of an index, those for our platform first and best."""
    entries = [entry for entry in index.manifests if not is_attestation(entry)]

    def grade(entry: Descriptor) -> int:
        known = rank(entry.platform, platform) if entry.platform else None
        return 1 << 30 if known is None else known

    return sorted(entries, key=grade)


def _merge(entries: list[tuple[Record, Image]]) -> Image:
    """One image out of those that differ only in their names."""
    entries = sorted(entries, key=lambda entry: (entry[0].is_dangling, entry[0].name))
    first = entries[0][1]
    return Image(
        id=first.id,
        target=first.target,
        manifest_descriptor=first.manifest_descriptor,
        manifest=first.manifest,
        config=first.config,
        names=tuple(record.name for record, _ in entries),
        repo_digests=tuple(dict.fromkeys(digest for _, image in entries for digest in image.repo_digests)),
        chain_ids=first.chain_ids,
        updated_ns=max(image.updated_ns for _, image in entries),
    )


def _record(image: pb.Image) -> Record:
    target = image.target
    return Record(
        name=image.name,
        target=Descriptor(media_type=target.media_type, digest=target.digest, size=target.size),
        labels=dict(image.labels),
        created_ns=from_protobuf(image.created_at),
        updated_ns=from_protobuf(image.updated_at),
    )


def _to_protobuf(descriptor: Descriptor) -> descriptor_pb2.Descriptor:
    return descriptor_pb2.Descriptor(
        media_type=descriptor.media_type, digest=descriptor.digest, size=descriptor.size
    )
