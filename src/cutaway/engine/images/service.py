"""The engine's images: everything there is to do with them, over seams 2 and 3 only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Self

from cutaway import errors
from cutaway.engine.containerd_client import ContainerdClient
from cutaway.engine.images import describe, filters
from cutaway.engine.images.compose import Composer
from cutaway.engine.images.content import ContentStore
from cutaway.engine.images.describe import Items, Json
from cutaway.engine.images.filters import Filters
from cutaway.engine.images.install import Installer
from cutaway.engine.images.load import Loaded, Loader
from cutaway.engine.images.locks import KeyedLocks
from cutaway.engine.images.model import CHOSEN_MANIFEST, Image, ImageSettings
from cutaway.engine.images.progress import Event, Progress, silent, status
from cutaway.engine.images.pull import Puller, other_platform
from cutaway.engine.images.push import Pusher
from cutaway.engine.images.remove import Removed, Remover, Untagged, Users
from cutaway.engine.images.restore import Restorer
from cutaway.engine.images.save import Saver
from cutaway.engine.images.snapshots import Snapshots
from cutaway.engine.images.store import ImageStore
from cutaway.engine.timestamps import rfc3339
from cutaway.oci.image_spec import Platform
from cutaway.registry import reference as references
from cutaway.registry.client.client import RegistryClient
from cutaway.registry.client.failures import RegistryUnreachable
from cutaway.registry.client.login import log_in
from cutaway.registry.client.platforms import rank
from cutaway.registry.client.search import Found, search
from cutaway.registry.client.settings import ANONYMOUS, Credentials
from cutaway.registry.client.tags import tags
from cutaway.registry.reference import Reference


class ImageService:
    """Images in one namespace of one containerd."""

    def __init__(self, client: ContainerdClient, settings: ImageSettings) -> None:
        self.settings = settings
        self._content = ContentStore(client)
        self._snapshots = Snapshots(client, settings.snapshotter)
        self._store = ImageStore(client, self._content, settings.platform)
        self._registry = RegistryClient(settings.registry)
        locks = KeyedLocks()
        self._puller = Puller(
            client, self._store, self._content, self._snapshots, self._registry, settings, locks
        )
        installer = Installer(client, self._store, self._content, self._puller, locks)
        self._loader = Loader(client, installer, settings.temporary)
        self.composer = Composer(client, self._content, self._snapshots, installer, settings.temporary)
        """Makes images, for import and commit."""
        restorer = Restorer(client, self._content, self._snapshots, installer)
        self._saver = Saver(self._store, self._content, restorer)
        self._pusher = Pusher(self._store, self._content, restorer, self._registry, settings.max_uploads)
        self._remover = Remover(self._store)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close connections to registries and end the built-in one; the containerd client is not ours."""
        await self._registry.close()
        await self._puller.close()

    async def resolve(self, text: str, platform: Platform | None = None) -> Image:
        """The image that a reference, an ID or the start of one means.

        Raises `NotFound` (`No such image: x:latest`), also when it is there only for another platform
        than the one asked for, and `InvalidArgument` for what can be no reference.
        """
        image = await self._store.find(text)
        if platform and rank(image.platform, platform) is None:
            raise errors.NotFound(other_platform(text, image, platform))
        return image

    async def pull(
        self,
        reference: Reference,
        platform: Platform | None = None,
        auth: Credentials = ANONYMOUS,
        progress: Progress = silent,
    ) -> Image:
        """Bring an image in, unpacked; `progress` is called with each step of Docker's stream."""
        return await self._puller.pull(reference.with_default_tag(), platform, auth, progress)

    async def pull_all(
        self,
        reference: Reference,
        platform: Platform | None = None,
        auth: Credentials = ANONYMOUS,
        progress: Progress = silent,
    ) -> None:
        """Pull every tag of a repository, one after the other; ends with one line on them all."""
        try:
            found = await tags(self._registry.repository(reference, auth))
        except RegistryUnreachable as error:
            raise errors.Unavailable(str(error)) from error
        fresh: list[str] = []

        def report(event: Event) -> None:
            text = str(event.get("status", ""))
            if text.startswith("Status: Downloaded newer image"):
                fresh.append(text)
            if not text.startswith("Status: "):
                progress(event)

        for tag in found:
            await self._puller.pull(reference.with_tag(tag), platform, auth, report)
        text = "Downloaded newer image for" if fresh else "Image is up to date for"
        progress(status(f"Status: {text} {reference.familiar_name}"))

    async def log_in(self, server: str, credentials: Credentials) -> str:
        """Try a password at a registry; returns an identity token, or "" where it gives none.

        `server` is as clients have it: `https://index.docker.io/v1/` or nothing for Docker Hub, or a
        host with or without a scheme. Raises `Unauthenticated`, `InvalidArgument`, `Unavailable`.
        """
        host = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
        domain = references.DEFAULT_DOMAIN if host in ("", "index.docker.io") else host
        if not references.is_domain(domain):
            raise errors.InvalidArgument(f"invalid registry host {server!r}")
        return await log_in(self._registry, domain, credentials)

    async def search(self, term: str, limit: int, credentials: Credentials = ANONYMOUS) -> list[Found]:
        """What a registry's index has for a term; see `registry.client.search`."""
        return await search(self._registry, term, limit, credentials)

    async def ensure_unpacked(self, image: Image) -> None:
        """Make the image's snapshots if they are not there; afterwards `image.chain_id` is one."""
        await self._puller.ensure_unpacked(image)

    async def list(self, wanted: Filters | None = None) -> Items:
        """The items of GET /images/json, newest first; `InvalidArgument` for an unknown filter."""
        wanted = wanted or {}
        filters.check(wanted)
        bounds = {
            name: describe.created_seconds(await self._store.find(wanted[name][0]))
            for name in ("before", "since")
            if wanted.get(name)
        }
        found = [filters.restricted(image, wanted) for image in await self._store.images()]
        shown = [image for image in found if filters.matches(image, wanted, bounds)]
        shown.sort(key=describe.created_seconds, reverse=True)
        return [describe.list_item(image, await self.size(image)) for image in shown]

    async def all(self) -> tuple[Image, ...]:
        """Every image, the one with the newest name first."""
        return tuple(await self._store.images())

    async def layer_sizes(self, image: Image) -> tuple[int, ...]:
        """Bytes that each layer takes on disk, bottom first; 0 for one that is not unpacked."""
        return tuple([await self._snapshots.usage(chain_id) for chain_id in image.chain_ids])

    async def count(self) -> int:
        """How many images there are."""
        return len(await self._store.images())

    async def size(self, image: Image) -> int:
        """Bytes that the image's layers take on disk."""
        return await describe.unpacked_size(image, self._snapshots)

    async def inspect(self, text: str) -> Json:
        """The answer to GET /images/NAME/json."""
        found = await self._store.find(text)
        image = await self._store.with_id(found.id) or found
        size, updated = await self.size(image), rfc3339(image.updated_ns)
        return describe.inspect(image, size, self.settings.snapshotter, updated)

    async def history(self, text: str) -> Items:
        """The answer to GET /images/NAME/history."""
        found = await self._store.find(text)
        image = await self._store.with_id(found.id) or found
        sizes = [await self._snapshots.usage(chain_id) for chain_id in image.chain_ids]
        return describe.history(image, sizes)

    async def load(
        self, pieces: AsyncIterator[bytes], progress: Progress = silent, *, quiet: bool = True
    ) -> tuple[Loaded, ...]:
        """Bring in the images of an archive; see `Loader.load`."""
        return tuple(await self._loader.load(pieces, progress, quiet=quiet))

    async def save(
        self, names: Sequence[str], found: Callable[[str], None] = lambda image_id: None
    ) -> AsyncIterator[bytes]:
        """An archive of images by name or ID; `found` is told the ID of each.

        Raises `NotFound` before there is anything to iterate over.
        """
        plan = await self._saver.plan(names)
        for image_id in plan.image_ids:
            found(image_id)
        return self._saver.write(plan)

    async def push(
        self, named: Reference, auth: Credentials = ANONYMOUS, progress: Progress = silent
    ) -> tuple[Reference, ...]:
        """Push a tag, or all tags of a name without one; see `Pusher.push`."""
        return tuple(await self._pusher.push(named, auth, progress))

    async def tag(self, text: str, repository: str, tag: str = "") -> Reference:
        """Give an image one more name, which may be another image's until now; return it."""
        image = await self._store.find(text)
        target = references.parse(repository)
        if target.digest:
            raise errors.InvalidArgument("refusing to create a tag with a digest reference")
        if target.familiar_name == "sha256":
            raise errors.InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name")
        target = target.with_tag(tag) if tag else target.with_default_tag()
        await self._store.keep_if_last(str(target), image)
        labels = {CHOSEN_MANIFEST: image.manifest_descriptor.digest}
        await self._store.put(str(target), image.target, labels)
        return target

    async def remove(
        self,
        text: str,
        *,
        force: bool = False,
        prune: bool = True,
        users: Users = lambda image_id: [],
        tell: Untagged = lambda action, image_id: None,
    ) -> Removed:
        """Untag or delete an image by Docker's rules; `users` lists an image's containers.

        `prune` is about untagged parents of built images, of which there are none here.
        """
        return await self._remover.remove(text, force=force, users=users, tell=tell)
