"""Pulling: from a reference to an image in containerd's stores, unpacked and ready to run.

    resolve the reference            HEAD, GET by digest; index -> platform -> manifest
    open leases                      nothing below is garbage while we work
    store index, manifest, config    with labels that tell the garbage collector what they refer to
    fetch layers, three at a time    streamed into the content store, digested on the way
    unpack in order                  each as soon as it and the one below it are there
    name the image                   the last step: an image that has a name is whole

What fails before the last step leaves no image, no snapshot and no partial blob. Blobs that were complete
stay under their lease until it expires, so that a retry need not fetch them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from cutaway import errors
from cutaway.engine.containerd_client import ContainerdClient
from cutaway.engine.images.content import MAX_DOCUMENT, ContentStore
from cutaway.engine.images.embedded import EmbeddedRegistry
from cutaway.engine.images.locks import KeyedLocks
from cutaway.engine.images.model import CHOSEN_MANIFEST, Image, ImageSettings, Record
from cutaway.engine.images.progress import LayerProgress, Progress, status
from cutaway.engine.images.snapshots import Snapshots
from cutaway.engine.images.store import ImageStore
from cutaway.oci import document
from cutaway.oci.chain import chain_ids
from cutaway.oci.image_spec import CONFIG_TYPES, Descriptor, ImageConfig, Manifest, Platform
from cutaway.registry.client import blobs, manifests
from cutaway.registry.client.client import RegistryClient, Repository
from cutaway.registry.client.failures import RegistryUnreachable
from cutaway.registry.client.manifests import Fetched
from cutaway.registry.client.platforms import choose, format_platform, rank
from cutaway.registry.client.settings import Credentials
from cutaway.registry.reference import Reference
from cutaway.trace import spans

GC_CONTENT: Final = "containerd.io/gc.ref.content"
GC_SNAPSHOT: Final = "containerd.io/gc.ref.snapshot"
SOURCE: Final = "containerd.io/distribution.source"
MAX_INDEXES: Final = 5  # inside each other
UNCOMPRESSED: Final = "containerd.io/uncompressed"


Ready = Callable[[Descriptor], Awaitable[None]]
"""Waits until a layer's blob is there."""


async def at_once(layer: Descriptor) -> None:
    """For layers that are there."""


@dataclass(frozen=True)
class Resolved:
    """A reference looked up: what the registry has for it."""

    repository: Repository
    indexes: tuple[tuple[Fetched, int], ...]
    """The indexes on the way to the manifest, outermost first, and the position in each that was chosen."""
    chosen: Fetched
    manifest: Manifest

    @property
    def top(self) -> Fetched:
        """What the reference names: an index or a manifest."""
        return self.indexes[0][0] if self.indexes else self.chosen


@dataclass(frozen=True)
class Leases:
    """The leases of one pull: after a failure blobs stay for a retry, snapshots do not."""

    blobs: str
    snapshots: str


class Puller:
    """Pulls images. Two pulls at the same time share what they have in common."""

    def __init__(
        self,
        client: ContainerdClient,
        store: ImageStore,
        content: ContentStore,
        snapshots: Snapshots,
        registry: RegistryClient,
        settings: ImageSettings,
        locks: KeyedLocks,
    ) -> None:
        self._client = client
        self._store = store
        self._content = content
        self._snapshots = snapshots
        self._registry = registry
        self._settings = settings
        self._embedded = EmbeddedRegistry(settings.embedded) if settings.embedded else None
        self._locks = locks
        # One for all pulls together, as in dockerd.
        self._downloads = asyncio.Semaphore(settings.max_downloads)

    async def close(self) -> None:
        """End the built-in registry, should it run."""
        if self._embedded:
            await self._embedded.close()

    async def pull(
        self, reference: Reference, platform: Platform | None, credentials: Credentials, report: Progress
    ) -> Image:
        """Pull one tag or digest; see this module's docstring for what a failure leaves.

        As in Docker, a mirror whose part in it fails, also by what it has sent, is left and the pull begun
        again; what was complete is not fetched again. Raises `NotFound`, `Unauthenticated`,
        `ResourceExhausted`, `DataLoss`, `Unavailable` and `InvalidArgument` with one line in Docker's words.
        """
        repository = self._registry.repository(reference, credentials)
        while True:
            source = repository.endpoint
            try:
                return await self._pull(repository, platform, report)
            except errors.CutawayError as error:
                # A mirror that a request has left meanwhile may have given what was then found false.
                if repository.endpoint == source and not repository.leave_mirror(source, error):
                    raise

    async def _pull(self, repository: Repository, platform: Platform | None, report: Progress) -> Image:
        reference = repository.reference
        with spans.span("pull", image=str(reference)) as span:
            resolved = await self._resolve(repository, platform or self._settings.platform, report)
            report(status(f"Pulling from {reference.path}", id=reference.digest or reference.tag))
            name = _name_of(reference)
            before = await self._before(name)
            async with self._client.lease(keep_on_error=True) as lease:
                config = await self._store_documents(resolved, lease)
                async with self._client.lease(collect_on_error=True) as unpacking:
                    await self._fetch_and_unpack(resolved, config, Leases(lease, unpacking), report)
                after = await self._name(name, resolved, before, lease)
            span.set(digest=resolved.top.descriptor.digest, image_id=after.id, layers=len(after.diff_ids))
        _report_end(reference, after, before, platform, report)
        return after

    # Resolving

    async def _resolve(self, repository: Repository, platform: Platform, report: Progress) -> Resolved:
        reference = repository.reference
        try:
            return await self._look_up(repository, platform)
        except RegistryUnreachable as error:
            fallback = await self._embedded_repository(reference)
            if fallback is None:
                raise errors.Unavailable(str(error)) from error
            report(
                status(
                    f"{reference.domain} cannot be reached; using the built-in registry for {reference.path}"
                )
            )
            return await self._look_up(fallback, platform)

    async def _embedded_repository(self, reference: Reference) -> Repository | None:
        """The built-in registry's repository, if it stands in for this registry and holds this image."""
        if self._embedded is None or not self._embedded.covers(reference):
            return None
        endpoint = await self._embedded.endpoint()
        repository = self._registry.repository(reference, endpoint=endpoint)
        return repository if await manifests.resolve(repository) else None

    async def _look_up(self, repository: Repository, platform: Platform) -> Resolved:
        fetched = await self._manifest(repository, await manifests.resolve(repository))
        indexes: list[tuple[Fetched, int]] = []
        while manifests.is_index(fetched.descriptor):
            if len(indexes) == MAX_INDEXES:
                raise errors.InvalidArgument(
                    f"image index: more than {MAX_INDEXES} indexes inside each other"
                )
            index = manifests.read_index(fetched)
            entry = choose(index, platform)
            indexes.append((fetched, index.manifests.index(entry)))
            fetched = await self._manifest(repository, entry)
        return Resolved(repository, tuple(indexes), fetched, manifests.read_manifest(fetched))

    async def _manifest(self, repository: Repository, descriptor: Descriptor | None) -> Fetched:
        """A manifest from the content store if it is there, or from the registry."""
        if descriptor and await self._content.info(descriptor.digest):
            return Fetched(descriptor, await self._content.read(descriptor.digest))
        return await manifests.fetch(repository, descriptor)

    async def _before(self, name: str) -> Image | None:
        """The image that has the name now."""
        record = await self._store.record(name)
        try:
            return await self._store.load(record) if record else None
        except errors.NotFound:
            return None  # a pull by other means that was not finished

    # Storing

    async def _store_documents(self, resolved: Resolved, lease: str) -> ImageConfig:
        """Store index, manifest and configuration, which the first two refer to by labels."""
        chosen, manifest = resolved.chosen, resolved.manifest
        if manifest.config.media_type not in CONFIG_TYPES:
            raise errors.InvalidArgument(f"unsupported media type {manifest.config.media_type}: not an image")
        if manifest.config.size > MAX_DOCUMENT:
            raise errors.ResourceExhausted(f"image configuration is larger than {MAX_DOCUMENT} bytes")
        await self._store_blob(resolved, manifest.config, lease)
        labels = {f"{GC_CONTENT}.config": manifest.config.digest}
        labels |= {f"{GC_CONTENT}.l.{number}": layer.digest for number, layer in enumerate(manifest.layers)}
        await self._store_document(resolved, chosen, labels, lease)
        below = chosen
        for index, position in reversed(resolved.indexes):
            label = f"{GC_CONTENT}.m.{position}"
            await self._store_document(resolved, index, {label: below.descriptor.digest}, lease)
            below = index
        raw = await self._content.read(manifest.config.digest)
        config = document.loads(ImageConfig, raw, "image configuration")
        said, sent = len(config.rootfs.diff_ids), len(manifest.layers)
        if said != sent:
            raise errors.InvalidArgument(f"image configuration: {said} diff_ids for {sent} layers")
        return config

    async def _store_document(
        self, resolved: Resolved, fetched: Fetched, labels: dict[str, str], lease: str
    ) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield fetched.data

        labels = {**labels, **source_labels(resolved.repository.reference)}
        async with self._locks.of(fetched.descriptor.digest):
            if not await self._content.write(fetched.descriptor, pieces, lease=lease, labels=labels):
                await self._content.set_labels(fetched.descriptor.digest, labels)

    async def _store_blob(
        self,
        resolved: Resolved,
        descriptor: Descriptor,
        lease: str,
        wrote: Callable[[int], None] = lambda total: None,
    ) -> None:
        """Fetch a blob into the content store unless it is there."""
        repository = resolved.repository
        labels = source_labels(repository.reference)
        async with self._locks.of(descriptor.digest):
            new = await self._content.write(
                descriptor,
                lambda: blobs.stream(repository, descriptor),
                lease=lease,
                labels=labels,
                wrote=wrote,
            )
            for label, path in () if new else labels.items():
                await self._content.note_source(descriptor.digest, label, path)

    # Layers

    async def _fetch_and_unpack(
        self, resolved: Resolved, config: ImageConfig, leases: Leases, report: Progress
    ) -> None:
        """Bring every layer in, fetching some ahead while the ones below are unpacked."""
        layers, chain = resolved.manifest.layers, chain_ids(config.rootfs.diff_ids)
        progress = [LayerProgress(layer, report) for layer in layers]
        there = await self._unpacked(chain)
        if there < len(layers) or not await self._store.with_id(resolved.manifest.config.digest):
            for number, line in enumerate(progress):
                line.say("Already exists" if number < there else "Pulling fs layer")
        try:
            async with asyncio.TaskGroup() as group:
                downloads = [
                    group.create_task(self._download(resolved, layer, leases.blobs, line, number < there))
                    for number, (layer, line) in enumerate(zip(layers, progress, strict=True))
                ]
                group.create_task(self._unpack_all(resolved, config, leases.snapshots, downloads, progress))
        except ExceptionGroup as group_error:
            raise first_of(group_error) from None
        await self._hold_snapshots(resolved.manifest.config.digest, chain)

    async def _unpacked(self, chain: tuple[str, ...]) -> int:
        """How many layers, from the bottom, have their snapshots already."""
        for count in range(len(chain), 0, -1):
            if await self._snapshots.exists(chain[count - 1]):
                return count
        return 0

    async def _download(
        self, resolved: Resolved, layer: Descriptor, lease: str, line: LayerProgress, quiet: bool
    ) -> None:
        if self._downloads.locked() and not quiet:
            line.say("Waiting")
        async with self._downloads:
            if quiet:
                await self._store_blob(resolved, layer, lease)
                return
            await self._store_blob(resolved, layer, lease, line.downloading)
        line.say("Verifying Checksum")
        line.say("Download complete")

    async def _unpack_all(
        self,
        resolved: Resolved,
        config: ImageConfig,
        lease: str,
        downloads: list[asyncio.Task[None]],
        progress: list[LayerProgress],
    ) -> None:
        diff_ids, parent = config.rootfs.diff_ids, ""
        for number, chain_id in enumerate(chain_ids(diff_ids)):
            await downloads[number]
            layer = resolved.manifest.layers[number]
            async with self._locks.of(chain_id):
                if await self._snapshots.exists(chain_id):
                    await self._snapshots.hold(chain_id, lease)
                else:
                    progress[number].extracting(0)
                    await self._snapshots.unpack(layer, diff_ids[number], parent, chain_id, lease)
                    progress[number].extracting(layer.size)
                    progress[number].say("Pull complete")
            await self._content.set_labels(layer.digest, {UNCOMPRESSED: diff_ids[number]})
            parent = chain_id

    async def _hold_snapshots(self, config_digest: str, chain: tuple[str, ...]) -> None:
        """Let the image's configuration hold its top snapshot, and that all below it."""
        if chain:
            label = f"{GC_SNAPSHOT}.{self._snapshots.snapshotter}"
            await self._content.set_labels(config_digest, {label: chain[-1]})

    async def ensure_unpacked(self, image: Image, ready: Ready = at_once) -> None:
        """Make the image's snapshots from its layers if they are not there (images brought by others).

        `ready` is called with each layer that is to be unpacked, and returns when its blob is there.
        Raises `NotFound` when a layer's content is missing.
        """
        if not image.chain_id or await self._snapshots.exists(image.chain_id):
            return
        async with self._client.lease(collect_on_error=True) as lease:
            parent = ""
            for layer, diff_id, chain_id in zip(
                image.manifest.layers, image.diff_ids, image.chain_ids, strict=True
            ):
                async with self._locks.of(chain_id):
                    if not await self._snapshots.exists(chain_id):
                        await ready(layer)
                        await self._snapshots.unpack(layer, diff_id, parent, chain_id, lease)
                parent = chain_id
            await self._hold_snapshots(image.id, image.chain_ids)

    # Naming

    async def _name(self, name: str, resolved: Resolved, before: Image | None, lease: str) -> Image:
        """Point the name at the image; the one it pointed at stays, without a name if this was its last."""
        labels = {CHOSEN_MANIFEST: resolved.chosen.descriptor.digest}
        if before and before.id != resolved.manifest.config.digest:
            known = await self._store.with_id(before.id)
            if known and len(known.names) == 1:
                await self._store.keep_dangling(before)
        await self._store.put(name, resolved.top.descriptor, labels, lease)
        return await self._store.load(Record(name, resolved.top.descriptor, labels))


def _name_of(reference: Reference) -> str:
    """The name an image is stored under: with a digest, its tag is not looked at, as in Docker."""
    return str(reference.with_digest(reference.digest) if reference.digest else reference)


def _report_end(
    reference: Reference, after: Image, before: Image | None, platform: Platform | None, report: Progress
) -> None:
    report(status(f"Digest: {after.target.digest}"))
    fresh = before is None or before.id != after.id
    text = "Downloaded newer image for" if fresh else "Image is up to date for"
    report(status(f"Status: {text} {reference.familiar}"))
    if platform and rank(after.platform, platform) is None:
        report(status(f"WARNING: {other_platform(reference.familiar, after, platform)}"))


def other_platform(name: str, image: Image, wanted: Platform) -> str:
    """What there is to say of an image without an index that is built for another platform."""
    return (
        f"image with reference {name} was found but its platform ({format_platform(image.platform)}) "
        f"does not match the specified platform ({format_platform(wanted)})"
    )


def source_labels(reference: Reference) -> dict[str, str]:
    """Where a blob came from, as containerd's own clients note it: the host without its port."""
    host = reference.domain.rpartition(":")[0] if ":" in reference.domain else reference.domain
    return {f"{SOURCE}.{host.strip('[]').replace(':', '-')}": reference.path}


def first_of(group: ExceptionGroup[Exception]) -> Exception:
    """The failure that ended the others."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, ExceptionGroup) else first
