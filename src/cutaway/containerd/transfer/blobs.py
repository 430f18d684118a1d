"""Content as transfers need it: documents of an image read and checked, blobs written under a lease."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Final

from cutaway.containerd import filters, names
from cutaway.containerd.app import App
from cutaway.containerd.content.store import Session
from cutaway.containerd.metadata import leases
from cutaway.containerd.metadata.blobs import Blob
from cutaway.containerd.transfer.progress import is_layer, key_of
from cutaway.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from cutaway.oci import document
from cutaway.oci.image_spec import (
    CONFIG_TYPES,
    INDEX_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
)
from cutaway.pb.content_events_pb2 import ContentCreate

MAX_DOCUMENT: Final = 8 << 20  # bytes, as in containerd
MAX_ENTRIES: Final = 1000  # of an index or of a manifest's layers; the largest known have some hundred
WAIT: Final = 0.1  # seconds before another try where somebody else writes the same blob
GC_CONTENT: Final = "containerd.io/gc.ref.content"

Pieces = Callable[[], AsyncIterable[bytes]]
"""A blob's bytes, from its beginning each time."""


class Blobs:
    """The content of one namespace, held by one lease."""

    def __init__(self, app: App, namespace: str, lease: str) -> None:
        self._app = app
        self._store = app.content
        self.workers = app.workers
        self.namespace = namespace
        self.lease = lease

    async def info(self, digest: str) -> Blob | None:
        try:
            return await self._store.info(self.namespace, digest)
        except NotFound:
            return None

    async def read(self, descriptor: Descriptor) -> bytes:
        """A document. Raises `NotFound`, `ResourceExhausted` for one that is too large."""
        check(descriptor)
        if descriptor.size > MAX_DOCUMENT:
            raise ResourceExhausted(f"{descriptor.digest} is larger than {MAX_DOCUMENT} bytes")
        return b"".join([part async for part in self.stream(descriptor.digest)])

    def stream(self, digest: str, offset: int = 0) -> AsyncIterator[bytes]:
        """A blob's bytes from an offset on. Raises `NotFound`."""
        return self._store.read(self.namespace, digest, offset, 0)

    async def first_bytes(self, digest: str, size: int) -> bytes:
        fd, _ = await self._store.open(self.namespace, digest)
        try:
            return os.pread(fd, size, 0)
        finally:
            os.close(fd)

    async def with_label(self, wanted: str) -> list[Blob]:
        """Blobs by a filter on their labels."""
        return await self._store.find(self.namespace, filters.parse_all([wanted]))

    async def label(self, digest: str, labels: Mapping[str, str]) -> None:
        """Set labels. Raises `NotFound`."""
        await self._store.update(self.namespace, digest, labels, [f"labels.{key}" for key in labels])

    async def hold(self, digest: str) -> None:
        """Let the lease hold a blob, whether it is there or going to be."""
        await self._app.db.write(leases.hold, self.namespace, self.lease, leases.CONTENT, digest)

    async def note_source(self, digest: str, label: str, path: str) -> None:
        """Add a repository to the list of those that a blob is known to be in, which a label holds."""
        info = await self.info(digest)
        known = [one for one in info.labels.get(label, "").split(",") if one] if info else []
        if info and path not in known:
            await self.label(digest, {label: ",".join([*known, path])})

    async def write(
        self,
        descriptor: Descriptor,
        pieces: Pieces,
        labels: Mapping[str, str] | None = None,
        wrote: Callable[[int], None] = lambda done: None,
    ) -> bool:
        """Store a blob; False if it was there. Raises `DataLoss` for other bytes than the digest says.

        Whoever writes the same blob at this moment is waited for.
        """
        check(descriptor)
        ref, digest, size = key_of(descriptor), descriptor.digest, descriptor.size
        while True:
            try:
                async with self._store.write(self.namespace, ref, size, digest, self.lease) as session:
                    await _fill(session, pieces, wrote)
                    try:
                        await self._commit(session, size, digest, labels or {})
                    except FailedPrecondition as error:
                        await session.abort()
                        raise DataLoss(f"content is not {digest}: {error}") from None
                return True
            except AlreadyExists:
                if labels:
                    await self.label(digest, labels)
                return False
            except Unavailable as error:
                if "locked" not in str(error):
                    raise
                await asyncio.sleep(WAIT)

    async def write_unknown(
        self, ref: str, media_type: str, pieces: AsyncIterable[bytes], labels: Mapping[str, str] | None = None
    ) -> Descriptor:
        """Store a blob whose digest shows when it has been written."""
        async with self._store.write(self.namespace, ref, 0, "", self.lease) as session:
            await _fill(session, lambda: pieces, lambda done: None)
            size, digest = session.offset, session.digest
            with suppress(AlreadyExists):
                await self._commit(session, size, digest, labels or {})
        return Descriptor(media_type=media_type, digest=digest, size=size)

    async def write_document(self, media_type: str, data: bytes) -> Descriptor:
        async def pieces() -> AsyncIterator[bytes]:
            yield data

        return await self.write_unknown(f"document-{hashlib.sha256(data).hexdigest()}", media_type, pieces())

    async def _commit(self, session: Session, size: int, digest: str, labels: Mapping[str, str]) -> None:
        blob = await session.commit(size, digest, labels)
        event = ContentCreate(digest=blob.digest, size=blob.size)
        self._app.bus.publish(self.namespace, "/content/create", event)

    # Images.

    async def children(self, descriptor: Descriptor) -> list[Descriptor]:
        """What a manifest or index refers to; nothing for all else. Raises `NotFound`, `InvalidArgument`."""
        if descriptor.media_type in MANIFEST_TYPES:
            manifest = await self.manifest(descriptor)
            return [manifest.config, *manifest.layers]
        if descriptor.media_type in INDEX_TYPES:
            return await self._entries(descriptor)
        return []

    async def manifest(self, descriptor: Descriptor) -> Manifest:
        data = await self.read(descriptor)
        if document.loads(_Kind, data, descriptor.digest).manifests is not None:
            raise InvalidArgument(f"media-type: expected manifest but found index ({descriptor.media_type})")
        manifest = document.loads(Manifest, data, descriptor.digest)
        _check_all([manifest.config, *manifest.layers], descriptor)
        return manifest

    async def _entries(self, descriptor: Descriptor) -> list[Descriptor]:
        data = await self.read(descriptor)
        kind = document.loads(_Kind, data, descriptor.digest)
        if kind.config is not None or kind.layers is not None:
            raise InvalidArgument(f"media-type: expected index but found manifest ({descriptor.media_type})")
        manifests = document.loads(Index, data, descriptor.digest).manifests
        _check_all(manifests, descriptor)
        return manifests

    async def config(self, descriptor: Descriptor) -> ImageConfig:
        return document.loads(ImageConfig, await self.read(descriptor), descriptor.digest)

    async def hold_children(self, descriptor: Descriptor, children: list[Descriptor]) -> None:
        """Let a blob keep what it refers to from garbage collection."""
        labels: dict[str, str] = {}
        counts: dict[str, int] = {}
        for child in children:
            label = _label_of(child)
            number = counts.get(label, 0)
            counts[label] = number + 1
            labels[f"{label}{number}" if number or label.endswith(".") else label] = child.digest
        if labels:
            await self.label(descriptor.digest, labels)


class _Kind(document.Document):
    """What tells a manifest from an index that is sold as one, whichever a reader may look at."""

    config: object | None = None
    layers: object | None = None
    manifests: object | None = None


def check(descriptor: Descriptor) -> None:
    """Refuse a descriptor whose digest or size cannot be. Raises `InvalidArgument`."""
    if problem := names.digest_problem(descriptor.digest):
        raise InvalidArgument(f"{descriptor.digest[:80]!r}: {problem}")
    if descriptor.size < 0:
        raise InvalidArgument(f"{descriptor.digest}: negative size {descriptor.size}")


def _check_all(entries: list[Descriptor], of: Descriptor) -> None:
    if len(entries) > MAX_ENTRIES:
        raise ResourceExhausted(f"{of.digest}: {len(entries)} entries: at most {MAX_ENTRIES} allowed")
    for entry in entries:
        check(entry)


def _label_of(child: Descriptor) -> str:
    if child.media_type in CONFIG_TYPES:
        return f"{GC_CONTENT}.config"
    if child.media_type in MANIFEST_TYPES:
        return f"{GC_CONTENT}.m."
    return f"{GC_CONTENT}.l." if is_layer(child.media_type) else f"{GC_CONTENT}."


async def _fill(session: Session, pieces: Pieces, wrote: Callable[[int], None]) -> None:
    """Write all of a blob; of one that breaks off nothing stays."""
    if session.ingest.shared:
        return  # another namespace has it
    try:
        if session.offset:
            await session.truncate()
        async for piece in pieces():
            await session.write(piece)
            wrote(session.offset)
    except BaseException:
        await asyncio.shield(asyncio.ensure_future(session.abort()))
        raise
