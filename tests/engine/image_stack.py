"""An image service over a containerd, in a namespace of the test's own, and a registry to pull from."""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from cutaway.engine.containerd_client import ContainerdClient
from cutaway.engine.images import ImageService, ImageSettings
from registry.fake import FakeRegistry, quick
from support.netns import NetNs
from support.peers import need
from support.stack import Containerd, OurContainerd, RealContainerd

Work = Callable[[ImageService, FakeRegistry], Awaitable[None]]

BOTH = {"containerd": RealContainerd, "cutaway": OurContainerd}


def running(name: str, base: Path, netns: NetNs) -> Iterator[Containerd]:
    """A containerd of one of the two kinds, for a fixture to yield."""
    need("containerd", "ctr")
    with BOTH[name](base, netns, name=f"img-{name[:4]}") as daemon:
        yield daemon


class Stack:
    """Runs a test's coroutine, and looks at containerd with the eyes of the real ctr."""

    def __init__(self, containerd: Containerd, test: str) -> None:
        self.containerd = containerd
        self.namespace = f"ns-{zlib.crc32(test.encode()):08x}"

    def run(self, work: Work, settings: ImageSettings | None = None) -> None:
        async def main() -> None:
            async with FakeRegistry() as registry, self.service(settings) as service:
                await asyncio.wait_for(work(service, registry), 60)

        asyncio.run(main())

    @asynccontextmanager
    async def service(self, settings: ImageSettings | None = None) -> AsyncIterator[ImageService]:
        """An image service over the containerd."""
        client = ContainerdClient(os.fspath(self.containerd.address), self.namespace)
        try:
            async with ImageService(client, settings or ImageSettings(registry=quick())) as service:
                yield service
        finally:
            await client.close()

    def left(self) -> dict[str, str]:
        """What containerd holds: names, snapshots, unfinished writes."""
        listed = {
            "images": ("images", "ls"),
            "snapshots": ("snapshots", "ls"),
            "ingests": ("content", "active"),
        }
        return {what: self._digests(*words) for what, words in listed.items()}

    def content(self) -> str:
        """The digests of all blobs."""
        return self.containerd.ctr("content", "ls", "-q", namespace=self.namespace).stdout

    def _digests(self, *words: str) -> str:
        text = self.containerd.ctr(*words, namespace=self.namespace).stdout
        return "\n".join(line for line in text.splitlines() if "sha256:" in line)
