"""Pushing by the registry client: to real registries, and to one that cuts, lies and refuses."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from cutaway import errors
from cutaway.oci.image_spec import Descriptor
from cutaway.registry.client import blobs, manifests, uploads
from cutaway.registry.client.client import RegistryClient, Repository
from cutaway.registry.client.manifests import Fetched
from cutaway.registry.client.settings import Credentials
from cutaway.registry.reference import parse
from registry.daemon import OurRegistry
from registry.fake import NAME, FakeRegistry, quick, refusal, run_with
from support.images import Blob, busybox_image
from support.netns import NetNs
from support.peers import need
from support.stack import RealRegistry

Repositories = Callable[..., Repository]
Registry = RealRegistry | OurRegistry

BIG = os.urandom(3 << 20)


def descriptor(data: bytes, media_type: str = "application/octet-stream") -> Descriptor:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Descriptor(media_type=media_type, digest=digest, size=len(data))


def source(data: bytes) -> uploads.Source:
    async def read(offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, len(data), 1 << 18):
            yield data[at : at + (1 << 18)]

    return read


def fetched(blob: Blob) -> Fetched:
    return Fetched(descriptor(blob.data, blob.media_type), blob.data)


@pytest.fixture(scope="module", params=["docker-registry", "ours"])
def server(request: pytest.FixtureRequest, session_base: Path, session_netns: NetNs) -> Iterator[Registry]:
    need("docker-registry", "busybox")
    kind = OurRegistry if request.param == "ours" else RealRegistry
    with kind(session_base, session_netns, name=f"up-{request.param}") as running:
        yield running


def with_client(server: Registry, work: Callable[[RegistryClient], Awaitable[None]]) -> None:
    """Run a coroutine with a client in the registry's network namespace."""

    async def main() -> None:
        client = RegistryClient(quick())
        try:
            await asyncio.wait_for(work(client), 60)
        finally:
            await client.close()

    server.netns.call(asyncio.run, main())


@pytest.mark.root
@pytest.mark.peers
def test_an_image_is_pushed_and_pulled_again(server: Registry) -> None:
    image = busybox_image()
    manifest = image.manifest()

    async def work(client: RegistryClient) -> None:
        there = client.repository(parse(f"{server.host}/pushed/box:1"), push=True)
        for blob in (*image.blobs(), Blob("application/octet-stream", BIG)):
            assert not await uploads.has_blob(there, blob.digest)
            await uploads.upload_blob(there, descriptor(blob.data), source(blob.data))
            assert await uploads.has_blob(there, blob.digest)
        await uploads.put_manifest(there, fetched(manifest), "1")
        await uploads.put_manifest(there, fetched(manifest))
        back = client.repository(parse(f"{server.host}/pushed/box:1"))
        got = await manifests.fetch(back, await manifests.resolve(back))
        assert (got.descriptor.digest, got.data) == (manifest.digest, manifest.data)
        assert b"".join([piece async for piece in blobs.stream(back, descriptor(BIG))]) == BIG

    with_client(server, work)


@pytest.mark.root
@pytest.mark.peers
def test_a_blob_of_another_repository_is_mounted(server: Registry) -> None:
    data = os.urandom(1000)

    async def work(client: RegistryClient) -> None:
        first = client.repository(parse(f"{server.host}/mount/first"), push=True)
        await uploads.upload_blob(first, descriptor(data), source(data))
        second = client.repository(
            parse(f"{server.host}/mount/second"), push=True, mount_from=["mount/first"]
        )
        assert await uploads.mount_blob(second, descriptor(data).digest, "mount/first")
        assert await uploads.has_blob(second, descriptor(data).digest)
        assert not await uploads.mount_blob(second, descriptor(b"nowhere").digest, "mount/first")

    with_client(server, work)


@pytest.mark.root
@pytest.mark.peers
def test_bytes_that_are_not_what_was_promised_are_refused(server: Registry) -> None:
    async def work(client: RegistryClient) -> None:
        there = client.repository(parse(f"{server.host}/pushed/lie"), push=True)
        for size in (1000, 2 << 20):
            with pytest.raises(errors.DataLoss):
                await uploads.upload_blob(there, descriptor(b"x" * size), source(b"y" * size))
        with pytest.raises(errors.CutawayError, match="blob unknown"):
            await uploads.put_manifest(there, fetched(busybox_image().manifest()), "1")

    with_client(server, work)


class Sink:
    """Takes one upload, and hangs up after `pieces` bytes as often as it is told to."""

    def __init__(self, registry: FakeRegistry, cuts: list[int]) -> None:
        self.received = b""
        self.ended = ""
        self._cuts = cuts
        self._registry = registry
        registry.on("/uploads/", self.begin)
        registry.on("/session", self.go_on)

    async def begin(self, request: web.Request) -> web.StreamResponse:
        location = f"/v2/{NAME}/blobs/session?state=a%2Fb"
        return web.Response(status=202, headers={"Location": location})

    async def go_on(self, request: web.Request) -> web.StreamResponse:
        assert request.query["state"] == "a/b"
        headers = {"Location": str(request.rel_url), "Range": f"0-{max(0, len(self.received) - 1)}"}
        if request.method == "GET":
            return web.Response(status=204, headers=headers)
        if request.method == "PUT":
            self.ended = request.query["digest"]
            self.received += await request.read()
            return web.Response(status=201)
        first, _, last = request.headers["Content-Range"].partition("-")
        assert int(first) == len(self.received)
        cut = self._cuts.pop(0) if self._cuts else None
        async for piece in request.content.iter_chunked(1 << 16):
            self.received += piece
            if cut is not None and len(self.received) >= cut:
                assert request.transport is not None
                request.transport.abort()
                raise ConnectionResetError
        assert len(self.received) == int(last) + 1
        return web.Response(status=202, headers={**headers, "Range": f"0-{last}"})


def test_a_cut_upload_goes_on_where_it_was_cut() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        sink = Sink(registry, [1 << 16, 1 << 20, 2 << 20])
        await uploads.upload_blob(repository(push=True), descriptor(BIG), source(BIG))
        assert (sink.received == BIG, sink.ended) == (True, descriptor(BIG).digest)
        assert registry.paths("POST") == [f"/v2/{NAME}/blobs/uploads/"]

    run_with(work)


def test_an_upload_that_is_cut_again_and_again_is_given_up() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        Sink(registry, [1] * 100)
        with pytest.raises(errors.Unavailable, match="was cut 6 times"):
            await uploads.upload_blob(repository(push=True), descriptor(BIG), source(BIG))

    run_with(work)


@pytest.mark.parametrize("location", ["", "file:///etc/passwd", "ftp://h/x", "http://[bad"])
def test_an_upload_goes_nowhere_but_to_http(location: str) -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def begin(request: web.Request) -> web.StreamResponse:
            return web.Response(status=202, headers={"Location": location} if location else {})

        registry.on("/uploads/", begin)
        with pytest.raises(errors.Unknown, match="does not say where to upload to"):
            await uploads.upload_blob(repository(push=True), descriptor(b"x"), source(b"x"))

    run_with(work)


def test_another_host_gets_the_blob_and_not_the_password() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async with FakeRegistry(bind="127.0.0.2") as other:
            seen: list[str | None] = []

            async def ping(request: web.Request) -> web.StreamResponse:
                return refusal(401, "UNAUTHORIZED", "no", WWW_Authenticate='Basic realm="x"')

            async def begin(request: web.Request) -> web.StreamResponse:
                assert request.headers["Authorization"].startswith("Basic ")
                return web.Response(status=202, headers={"Location": f"http://{other.host}/elsewhere"})

            async def take(request: web.Request) -> web.StreamResponse:
                seen.append(request.headers.get("Authorization"))
                assert await request.read() == b"x"
                return web.Response(status=201)

            registry.on("/v2/", ping)
            registry.on("/uploads/", begin)
            other.on("/elsewhere", take)
            login = Credentials(username="ann", password="secret")
            there = repository(credentials=login, push=True)
            await uploads.upload_blob(there, descriptor(b"x"), source(b"x"))
            assert seen == [None]

    run_with(work)


def test_the_right_to_push_and_to_mount_is_asked_for() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        asked: list[list[str]] = []

        async def issue(request: web.Request) -> web.StreamResponse:
            asked.append(request.query.getall("scope"))
            return web.json_response({"token": "t"})

        async def ping(request: web.Request) -> web.StreamResponse:
            challenge = f'Bearer realm="http://{registry.host}/token",service="s"'
            return refusal(401, "UNAUTHORIZED", "no", WWW_Authenticate=challenge)

        registry.on("/token", issue)
        registry.on("/v2/", ping)
        registry.blobs["sha256:" + "0" * 64] = b""
        there = repository(push=True, mount_from=["team/base"])
        assert await uploads.has_blob(there, "sha256:" + "0" * 64)
        assert asked == [[f"repository:{NAME}:pull,push", "repository:team/base:pull"]]

    run_with(work)


def test_a_refused_push_is_told_in_the_registrys_words() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def refuse(request: web.Request) -> web.StreamResponse:
            return refusal(403, "DENIED", "requested access to the resource is denied")

        registry.on("/uploads/", refuse)
        with pytest.raises(errors.NotFound) as caught:
            await uploads.upload_blob(repository(push=True), descriptor(b"x"), source(b"x"))
        assert str(caught.value) == "denied: requested access to the resource is denied"

    run_with(work)


def test_a_registry_that_stores_another_manifest_is_found_out() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def store(request: web.Request) -> web.StreamResponse:
            return web.Response(status=201, headers={"Docker-Content-Digest": "sha256:" + "1" * 64})

        registry.on("/manifests/1", store)
        with pytest.raises(errors.DataLoss, match="the registry stored 1 as sha256:1111"):
            await uploads.put_manifest(repository(push=True), fetched(busybox_image().manifest()), "1")

    run_with(work)
