"""How much goes on at a time: `--max-concurrent-downloads` and `--max-concurrent-uploads`, over all requests.

A layer's request is answered when as many are under way as may be and all others have been told to wait;
with no limit, or another one, that moment never comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from cutaway.engine.images import ImageService, ImageSettings
from cutaway.engine.images.progress import Event
from cutaway.registry.reference import parse
from engine.image_stack import Stack, running
from registry.fake import NAME, FakeRegistry, quick, small_image
from support.images import Image
from support.netns import NetNs
from support.stack import Containerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

LIMIT, LAYERS = 2, 3
WITHIN = 20  # seconds


@pytest.fixture(scope="module")
def containerd(session_base: Path, session_netns: NetNs) -> Iterator[Containerd]:
    yield from running("containerd", session_base, session_netns)


@pytest.fixture
def stack(containerd: Containerd, request: pytest.FixtureRequest) -> Stack:
    return Stack(containerd, request.node.name)


class Gate:
    """Holds requests until `LIMIT` are there and the rest of `total` layers waits, then counts on."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.active = self.peak = self.passed = 0
        self.waiting = set[tuple[int, object]]()
        self._change = asyncio.Condition()

    def watch(self, who: int, event: Event) -> None:
        if event.get("status") == "Waiting":
            self.waiting.add((who, event["id"]))

    async def __aenter__(self) -> None:
        self.active += 1
        self.peak = max(self.peak, self.active)
        async with asyncio.timeout(WITHIN):
            while not self.is_open():
                await asyncio.sleep(0.01)
        self.passed += 1

    def is_open(self) -> bool:
        """Open for good once it has been opened."""
        return self.passed > 0 or (self.active == LIMIT and len(self.waiting) >= self.total - LIMIT)

    async def __aexit__(self, *_: object) -> None:
        self.active -= 1


def images() -> list[Image]:
    """Two without a layer in common."""
    return [small_image(*(f"{name}{number}" for number in range(LAYERS))) for name in "ab"]


def test_downloads_of_all_pulls_together(stack: Stack) -> None:
    async def work(service: ImageService, registry: FakeRegistry) -> None:
        gate = Gate(2 * LAYERS)

        async def layer(request: web.Request) -> web.StreamResponse:
            async with gate:
                return registry.usual(request)

        for tag, image in enumerate(images()):
            registry.add(image, str(tag))
            for blob in image.blobs()[1:]:
                registry.on(blob.digest, layer)
        async with asyncio.TaskGroup() as pulls:
            for tag in (0, 1):
                reference = parse(registry.reference(str(tag)))

                def report(event: Event, who: int = tag) -> None:
                    gate.watch(who, event)

                pulls.create_task(service.pull(reference, progress=report))
        assert (gate.peak, gate.passed) == (LIMIT, 2 * LAYERS)

    stack.run(work, ImageSettings(registry=quick(), max_downloads=LIMIT))


def test_uploads_of_all_pushes_together(stack: Stack) -> None:
    async def work(service: ImageService, registry: FakeRegistry) -> None:
        gate = Gate(2 * LAYERS)  # a configuration has no line to say that it waits
        for tag, image in enumerate(images()):
            registry.add(image, str(tag))
            await service.pull(parse(registry.reference(str(tag))))
            await service.tag(registry.reference(str(tag)), f"{registry.host}/other", str(tag))

        async def other(request: web.Request) -> web.StreamResponse:
            if request.method == "PUT" and "/manifests/" in request.path:
                return web.Response(status=201)
            if request.method == "HEAD":
                async with gate:
                    return web.Response(status=200)
            return web.Response(status=405)

        for image in images():
            for blob in image.blobs():
                registry.on(f"/v2/other/blobs/{blob.digest}", other)
            registry.on(f"/v2/other/manifests/{image.manifest().digest}", other)
        for tag in (0, 1):
            registry.on(f"/v2/other/manifests/{tag}", other)
        async with asyncio.TaskGroup() as pushes:
            for tag in (0, 1):

                def report(event: Event, who: int = tag) -> None:
                    gate.watch(who, event)

                name = parse(f"{registry.host}/other:{tag}")
                pushes.create_task(service.push(name, progress=report))
        assert (gate.peak, gate.passed) == (LIMIT, 2 * (LAYERS + 1))

    stack.run(work, ImageSettings(registry=quick(), max_uploads=LIMIT))


def test_a_layer_that_two_pulls_want_is_asked_for_once_and_both_get_it(stack: Stack) -> None:
    """The second one comes while the first is still being sent."""

    async def work(service: ImageService, registry: FakeRegistry) -> None:
        # No other test's layers: what containerd has of them nobody would ask for.
        first = small_image("wanted by two", "wanted by the first")
        second = small_image("wanted by two", "wanted by the second")
        shared = first.blobs()[1]
        registry.add(first, "1")
        registry.add(second, "2")
        both = asyncio.Event()

        async def slow(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": str(len(shared.data))})
            await response.prepare(request)
            await response.write(shared.data[:10])
            await asyncio.wait_for(both.wait(), WITHIN)
            await response.write(shared.data[10:])
            return response

        async def manifest(request: web.Request) -> web.StreamResponse:
            asyncio.get_running_loop().call_later(0, both.set)
            return registry.usual(request)

        registry.on(shared.digest, slow)
        begun = asyncio.create_task(service.pull(parse(registry.reference("1"))))
        async with asyncio.timeout(WITHIN):
            while not any(path.endswith(shared.digest) for path in registry.paths()):
                await asyncio.sleep(0.01)
        registry.on(second.blobs()[2].digest, manifest)  # its other layer is asked for beside the shared one
        pulled = await asyncio.gather(begun, service.pull(parse(registry.reference("2"))))
        assert [image.id for image in pulled] == [first.id, second.id]
        assert sum(path == f"/v2/{NAME}/blobs/{shared.digest}" for path in registry.paths()) == 1

    stack.run(work)
