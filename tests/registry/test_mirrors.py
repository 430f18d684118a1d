"""Mirrors of Docker Hub: asked first, left when they fail, and told no password."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from cutaway import errors
from cutaway.oci.image_spec import Descriptor
from cutaway.registry.client import blobs, manifests
from cutaway.registry.client.client import RegistryClient
from cutaway.registry.client.settings import Credentials, check_mirror
from cutaway.registry.reference import parse
from registry.fake import FakeRegistry, quick, refusal, small_image
from support.images import Blob

BIG = Blob("application/octet-stream", bytes(range(256)) * 4096)
LOGIN = Credentials(username="ann", password="secret")
Work = Callable[[FakeRegistry, FakeRegistry, RegistryClient], Awaitable[None]]


def run(work: Work) -> None:
    """Run a test with a mirror, Docker Hub, and a client that knows both."""

    async def main() -> None:
        async with FakeRegistry(name="library/app") as mirror, FakeRegistry(name="library/app") as hub:
            settings = quick(registry_mirrors=(f"http://{mirror.host}/",), docker_hub=f"http://{hub.host}")
            client = RegistryClient(settings)
            try:
                await asyncio.wait_for(work(mirror, hub, client), 30)
            finally:
                await client.close()

    asyncio.run(main())


async def pull(client: RegistryClient, tag: str = "1") -> str:
    repository = client.repository(parse(f"app:{tag}"), LOGIN)
    return (await manifests.fetch(repository, await manifests.resolve(repository))).descriptor.digest


def test_a_mirror_that_has_it_is_all_that_is_asked() -> None:
    async def work(mirror: FakeRegistry, hub: FakeRegistry, client: RegistryClient) -> None:
        digest = mirror.add(small_image()).digest
        assert await pull(client) == digest
        assert not hub.seen

    run(work)


@pytest.mark.parametrize("status", [404, 401, 403, 429, 500])
def test_what_a_mirror_has_not_comes_from_docker_hub(status: int) -> None:
    async def work(mirror: FakeRegistry, hub: FakeRegistry, client: RegistryClient) -> None:
        async def fail(request: web.Request) -> web.StreamResponse:
            return refusal(status, "ANY", "no", WWW_Authenticate='Basic realm="x"')

        mirror.on("/manifests/1", fail)
        digest = hub.add(small_image()).digest
        assert await pull(client) == digest
        assert not any("Authorization" in seen.headers for seen in mirror.seen)

    run(work)


def test_a_mirror_that_is_not_there_is_passed_over() -> None:
    async def work(mirror: FakeRegistry, hub: FakeRegistry, client: RegistryClient) -> None:
        await mirror.__aexit__()
        digest = hub.add(small_image()).digest
        assert await pull(client) == digest

    run(work)


def test_the_failure_told_is_docker_hubs() -> None:
    async def work(mirror: FakeRegistry, hub: FakeRegistry, client: RegistryClient) -> None:
        async def limit(request: web.Request) -> web.StreamResponse:
            return refusal(429, "TOOMANYREQUESTS", "You have reached your pull rate limit.")

        hub.on("/manifests/1", limit)
        with pytest.raises(errors.ResourceExhausted, match=r"^toomanyrequests: You have reached"):
            await pull(client)

    run(work)


def test_a_blob_that_the_mirror_cuts_for_good_is_ended_by_docker_hub() -> None:
    async def work(mirror: FakeRegistry, hub: FakeRegistry, client: RegistryClient) -> None:
        hub.blobs[BIG.digest] = BIG.data
        ranges: list[str] = []

        async def cut(request: web.Request) -> web.StreamResponse:
            if "Range" in request.headers:
                return refusal(404, "BLOB_UNKNOWN", "gone")
            response = web.StreamResponse(headers={"Content-Length": str(len(BIG.data))})
            await response.prepare(request)
            await response.write(BIG.data[:300_000])
            assert request.transport is not None
            request.transport.close()
            return response

        async def rest(request: web.Request) -> web.StreamResponse:
            ranges.append(request.headers["Range"])
            start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            size = len(BIG.data)
            headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
            return web.Response(status=206, body=BIG.data[start:], headers=headers)

        mirror.on(f"/blobs/{BIG.digest}", cut)
        hub.on(f"/blobs/{BIG.digest}", rest)
        wanted = Descriptor(media_type=BIG.media_type, digest=BIG.digest, size=len(BIG.data))
        stream = blobs.stream(client.repository(parse("app:1")), wanted)
        assert b"".join([piece async for piece in stream]) == BIG.data
        assert len(ranges) == 1

    run(work)


def test_a_mirror_does_not_say_where_docker_hubs_password_goes() -> None:
    """Two requests at one time: the mirror refuses the slower one when the other has already left it."""

    async def work(mirror: FakeRegistry, hub: FakeRegistry, client: RegistryClient) -> None:
        hub.add(small_image())
        late, left = asyncio.Event(), asyncio.Event()

        async def trap(request: web.Request) -> web.StreamResponse:
            challenge = f'Bearer realm="http://{mirror.host}/token",service="trap"'
            if request.path.endswith("/late"):
                late.set()
                await left.wait()
            return refusal(401, "UNAUTHORIZED", "no", WWW_Authenticate=challenge)

        async def guard(request: web.Request) -> web.StreamResponse:
            if "Authorization" in request.headers:
                return hub.usual(request)
            return refusal(401, "UNAUTHORIZED", "no", WWW_Authenticate='Basic realm="x"')

        async def no_token(request: web.Request) -> web.StreamResponse:
            return refusal(403, "DENIED", "no")

        mirror.on("/token", no_token)
        mirror.on("/manifests/late", trap)
        mirror.on("/manifests/1", trap)
        hub.on("/manifests/1", guard)
        hub.on("/manifests/late", guard)
        repository = client.repository(parse("app:1"), LOGIN)

        async def ask(path: str) -> int:
            async with repository.request("GET", path, {}, accepted=(200, 404)) as response:
                return response.status

        slow = asyncio.create_task(ask("manifests/late"))
        await late.wait()
        assert await ask("manifests/1") == 200
        left.set()
        assert await slow == 404
        assert await ask("manifests/1") == 200
        assert not any("Authorization" in seen.headers for seen in mirror.seen)

    run(work)


def test_mirrors_are_docker_hubs_alone() -> None:
    async def work(mirror: FakeRegistry, hub: FakeRegistry, client: RegistryClient) -> None:
        digest = hub.add(small_image()).digest
        repository = client.repository(parse(f"{hub.host}/library/app:1"))
        assert (await manifests.fetch(repository, None)).descriptor.digest == digest
        push = client.repository(parse("app:1"), push=True)
        assert (await manifests.fetch(push, None)).descriptor.digest == digest
        assert not mirror.seen

    run(work)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mirror.example", 'invalid mirror: unsupported scheme "" in "mirror.example"'),
        ("ftp://m.example", 'invalid mirror: unsupported scheme "ftp" in "ftp://m.example"'),
        ("http://m/x", 'invalid mirror: path, query, or fragment at end of the URI "http://m/x"'),
        ("http://m?x=1", 'invalid mirror: path, query, or fragment at end of the URI "http://m?x=1"'),
        ("http://m/#f", 'invalid mirror: path, query, or fragment at end of the URI "http://m/#f"'),
        ("http://a@m", 'invalid mirror: username/password not allowed in URI "http://a@m"'),
        ("http://m:x", 'invalid mirror: "http://m:x" is not a valid URI'),
        ("https://", 'invalid mirror: "https://" is not a valid URI'),
    ],
)
def test_what_is_no_mirror(text: str, said: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        check_mirror(text)
    assert str(caught.value) == said
