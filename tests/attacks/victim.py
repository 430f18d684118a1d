"""What pulls from registries that lie: the image service over a real containerd, looked at with ctr."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from cutaway import errors
from cutaway.engine.containerd_client import ContainerdClient
from cutaway.engine.images import ImageService, ImageSettings
from cutaway.registry.reference import parse
from registry.fake import FakeRegistry, quick, small_image
from support.stack import Containerd

IMAGE = small_image("what was asked for")
CONFIG, LAYER = IMAGE.blobs()

Prepare = Callable[[FakeRegistry], Any]


@dataclass
class Victim:
    """An image service in a namespace of the test's own."""

    containerd: Containerd
    namespace: str

    def pulls(self, prepare: Prepare, tag: str = "1", *, keep: bool = False) -> errors.CutawayError:
        """Pull from a registry that was prepared, and return the failure.

        Nothing may be left of it but blobs that were good, and a retry at an honest registry does not
        fetch those again. With `keep` there is no retry, and they stay.
        """
        failure = asyncio.run(self._pull(prepare, tag))
        text = str(failure)
        assert text and "\n" not in text and len(text) < 1500
        assert self.is_empty()
        if not keep:
            asyncio.run(self._retry(self.content()))
            self.forget()
        return failure

    def is_empty(self) -> bool:
        """Whether there is no name, no unfinished write and no snapshot."""
        listed = (("images", "ls"), ("content", "active"), ("snapshots", "ls"))
        return not any("sha256" in self._ctr(*words) for words in listed)

    def content(self) -> set[str]:
        """The digests of all blobs."""
        return set(self._ctr("content", "ls", "-q").split())

    def forget(self) -> None:
        """Give up what is kept for a retry: containerd shares it with the namespaces of other tests."""
        for lease in self._ctr("leases", "ls", "-q").split():
            self._ctr("leases", "rm", "--sync", lease)

    def _ctr(self, *words: str) -> str:
        return self.containerd.ctr(*words, namespace=self.namespace).stdout

    async def _pull(self, prepare: Prepare, tag: str) -> errors.CutawayError:
        async with FakeRegistry() as registry:
            registry.add(IMAGE)
            made = prepare(registry)
            if isinstance(made, Awaitable):
                await made
            with pytest.raises(errors.CutawayError) as caught:
                await self._with_service(lambda images: images.pull(parse(registry.reference(tag))))
            return caught.value

    async def _retry(self, kept: set[str]) -> None:
        async def pull_and_remove(images: ImageService) -> None:
            image = await images.pull(parse(registry.reference()))
            assert image.id == IMAGE.id
            await images.remove(image.id)

        async with FakeRegistry() as registry:
            registry.add(IMAGE)
            await self._with_service(pull_and_remove)
            fetched = {path.rpartition("/")[2] for path in registry.paths() if "/blobs/" in path}
            assert fetched == {CONFIG.digest, LAYER.digest} - kept

    async def _with_service(self, work: Callable[[ImageService], Awaitable[object]]) -> None:
        client = ContainerdClient(os.fspath(self.containerd.address), self.namespace)
        try:
            async with ImageService(client, ImageSettings(registry=quick())) as images:
                await asyncio.wait_for(work(images), 30)
        finally:
            await client.close()
