"""Connections to a registry: kept for reuse, and so many to one host at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from cutaway.oci.image_spec import Descriptor
from cutaway.registry.client import blobs, manifests
from cutaway.registry.client.client import Repository
from cutaway.registry.client.transport import MAX_CONNECTIONS
from registry.fake import FakeRegistry, run_with, small_image
from support.images import Blob

Repositories = Callable[..., Repository]


def port_of(request: web.Request) -> int:
    assert request.transport is not None
    port: int = request.transport.get_extra_info("peername")[1]
    return port


def test_one_connection_serves_one_request_after_the_other() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        manifest, ports = registry.add(small_image()), set[int]()

        async def watched(request: web.Request) -> web.StreamResponse:
            ports.add(port_of(request))
            return registry.usual(request)

        registry.on("", watched)
        for _ in range(5):
            one = repository()
            fetched = await manifests.fetch(one, await manifests.resolve(one))
            assert fetched.data == manifest.data
        assert len(registry.seen) == 11 and len(ports) == 1

    run_with(work)


def test_to_one_host_there_are_so_many_and_no_more() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        made = [Blob("application/octet-stream", b"%d" % number) for number in range(2 * MAX_CONNECTIONS)]
        registry.blobs = {blob.digest: blob.data for blob in made}
        full, ports, active, peak = asyncio.Event(), set[int](), 0, 0

        async def held(request: web.Request) -> web.StreamResponse:
            nonlocal active, peak
            if "/blobs/" not in request.path:
                return registry.usual(request)
            ports.add(port_of(request))
            active, peak = active + 1, max(peak, active + 1)
            if active == MAX_CONNECTIONS:
                full.set()
            await asyncio.wait_for(full.wait(), 20)
            active -= 1
            return registry.usual(request)

        async def read(blob: Blob) -> None:
            descriptor = Descriptor(media_type=blob.media_type, digest=blob.digest, size=len(blob.data))
            assert b"".join([piece async for piece in blobs.stream(one, descriptor)]) == blob.data

        registry.on("", held)
        one = repository()
        await asyncio.gather(*map(read, made))
        assert peak == MAX_CONNECTIONS and len(ports) == MAX_CONNECTIONS

    run_with(work)
