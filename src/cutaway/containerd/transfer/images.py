"""Images by name as ends of a transfer: which of their content is wanted, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from cutaway.containerd.app import App
from cutaway.containerd.metadata import images
from cutaway.containerd.metadata.images import Image, Target
from cutaway.errors import AlreadyExists, NotFound, Unimplemented
from cutaway.oci.archive.listings import FULL_NAME, REF_NAME
from cutaway.oci.image_spec import CONFIG_TYPES, INDEX_TYPES, MANIFEST_TYPES, Descriptor, Platform
from cutaway.pb import image_events_pb2 as events
from cutaway.pb import platform_pb2
from cutaway.pb import transfer_types_pb2 as pb
from cutaway.registry.client.platforms import rank

BACK_REFERENCE: Final = "containerd.io/gc.bref.image"
EXPIRE: Final = "containerd.io/gc.expire"


def platform_of(message: platform_pb2.Platform) -> Platform:
    return Platform(os=message.os, architecture=message.architecture, variant=message.variant or None)


def matches(offered: Platform | None, wanted: Sequence[Platform]) -> bool:
    """Whether this is one of the platforms; what says nothing is, and nothing wanted is all wanted."""
    return offered is None or not wanted or any(rank(offered, one) == 0 for one in wanted)


def descriptor_of(image: Image) -> Descriptor:
    target = image.target
    return Descriptor(
        media_type=target.media_type,
        digest=target.digest,
        size=target.size,
        annotations=target.annotations or None,
    )


@dataclass(frozen=True)
class Unpack:
    """A platform whose layers are to be unpacked, and the snapshotter for it."""

    platform: Platform
    snapshotter: str


class ImageStore:
    """`containerd.types.transfer.ImageStore`."""

    def __init__(self, app: App, namespace: str, message: pb.ImageStore) -> None:
        self._app = app
        self._namespace = namespace
        self.name = message.name
        self._labels = dict(message.labels)
        self.platforms = [platform_of(one) for one in message.platforms]
        self._all_metadata = message.all_metadata
        self._limit = message.manifest_limit
        self._references = list(message.extra_references)
        self.unpacks = [Unpack(platform_of(one.platform), one.snapshotter) for one in message.unpacks]

    def get(self) -> Image:
        """Raises `NotFound`."""
        return self._app.db.look_up(images.get, self._namespace, self.name)

    def look_up(self) -> list[Image]:
        """All that are named. Raises `NotFound`, `Unimplemented`."""
        if any(one.is_prefix for one in self._references):
            raise Unimplemented("prefix lookup on export not implemented: not implemented")
        wanted = [self.name] if self.name else []
        wanted += [one.name for one in self._references]
        return [self._app.db.look_up(images.get, self._namespace, name) for name in wanted]

    def wanted(self, of: Descriptor, children: list[Descriptor]) -> list[Descriptor]:
        """Those of a descriptor's children that are wanted. Raises `NotFound` where one has to be."""
        if not self._all_metadata:
            children = [one for one in children if matches(one.platform, self.platforms)]
        elif of.media_type in MANIFEST_TYPES and not matches(of.platform, self.platforms):
            children = [one for one in children if one.media_type in CONFIG_TYPES]
        if self._limit and of.media_type in INDEX_TYPES:
            if not children:
                raise NotFound("no match for platform in manifest: not found")
            children = sorted(children, key=self._place)[: self._limit]
        return children

    def _place(self, entry: Descriptor) -> int:
        places = (
            at for at, one in enumerate(self.platforms) if entry.platform and rank(entry.platform, one) == 0
        )
        return next(places, len(self.platforms))

    # Naming.

    async def store(self, target: Descriptor) -> list[Image]:
        """Give content its names; those that are there are changed. Raises `NotFound` for no name."""
        wanted: list[tuple[str, Mapping[str, str]]] = [(self.name, self._labels)] if self.name else []
        for one in self._references:
            if one.add_digest or not one.is_prefix:
                name = f"{one.name}@{target.digest}" if one.add_digest else one.name
                wanted.append((name, self._extra_labels()))
        return await self._put(target, wanted)

    async def store_entry(self, entry: Descriptor) -> list[Image]:
        """The same for what an archive has, by the names that it has there. Raises `NotFound` for none."""
        wanted: list[tuple[str, Mapping[str, str]]] = []
        for one in self._references:
            if not one.is_prefix:
                continue
            name = _name_of(entry, one)
            if name:
                wanted.append((name, self._extra_labels()))
            if one.add_digest and not (name and one.skip_named_digest):
                wanted.append((f"{one.name}@{entry.digest}", self._extra_labels()))
        return await self._put(entry, wanted)

    def _extra_labels(self) -> Mapping[str, str]:
        """Beside the image that was named, others go when that goes."""
        if not self.name:
            return self._labels
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {**self._labels, BACK_REFERENCE: self.name, EXPIRE: now}

    async def _put(self, target: Descriptor, wanted: Sequence[tuple[str, Mapping[str, str]]]) -> list[Image]:
        if not wanted:
            raise NotFound("no image name found: not found")
        meant = Target(target.media_type, target.digest, target.size, dict(target.annotations or {}))
        return [await self._put_one(Image(name, dict(labels), meant)) for name, labels in wanted]

    async def _put_one(self, image: Image) -> Image:
        db, namespace = self._app.db, self._namespace
        while True:
            try:
                made = await db.write(images.create, namespace, image)
                created = events.ImageCreate(name=made.name, labels=made.labels)
                self._app.bus.publish(namespace, "/images/create", created)
                return made
            except AlreadyExists:
                pass
            try:
                changed = await db.write(images.update, namespace, replace(image), ())
            except NotFound:
                continue  # removed in between
            updated = events.ImageUpdate(name=changed.name, labels=changed.labels)
            self._app.bus.publish(namespace, "/images/update", updated)
            return changed


def _name_of(entry: Descriptor, prefix: pb.ImageReference) -> str:
    """What an archive's entry is to be called: a whole name it has, or the prefix with its tag, or ""."""
    annotations = entry.annotations or {}
    if full := annotations.get(FULL_NAME, ""):
        # Containerd's own annotation holds a whole name, or is none.
        return full if _prefixed(full, prefix) == full else ""
    short = annotations.get(REF_NAME, "")
    return _prefixed(short, prefix) if short else ""


def _prefixed(text: str, prefix: pb.ImageReference) -> str:
    if not prefix.name:
        return ""
    if not any(mark in text for mark in "/:@"):
        return f"{prefix.name}:{text}"
    rest = text.removeprefix(prefix.name)
    fits = text.startswith(prefix.name) and rest[:1] in ("", "/", ":", "@")
    return text if fits or prefix.allow_overwrite else ""
