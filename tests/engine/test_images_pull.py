"""Pulling into a containerd, the real one and ours: what ends up in it, what is said, what failures leave."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from cutaway import errors
from cutaway.engine.containerd_client import ContainerdClient
from cutaway.engine.images import EmbeddedSettings, ImageService, ImageSettings
from cutaway.engine.images.progress import Event
from cutaway.pb import content_pb2
from cutaway.pb.service import methods
from cutaway.registry.client.platforms import parse_platform
from cutaway.registry.reference import parse
from engine.image_stack import BOTH, Stack, running
from registry.fake import FakeRegistry, small_image
from support.netns import NetNs
from support.stack import Containerd

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture(scope="module", params=BOTH)
def containerd(
    request: pytest.FixtureRequest, session_base: Path, session_netns: NetNs
) -> Iterator[Containerd]:
    yield from running(request.param, session_base, session_netns)


@pytest.fixture
def stack(containerd: Containerd, request: pytest.FixtureRequest) -> Stack:
    return Stack(containerd, request.node.name)


def texts(events: list[Event]) -> list[str]:
    """The stream's lines without the numbers."""
    return [f"{event.get('id', '')}: {event['status']}".removeprefix(": ") for event in events]


def test_pull_says_what_docker_says_and_stores_the_image(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        image = small_image("one", "two")
        manifest, events = registry.add(image), list[Event]()
        pulled = await images.pull(parse(registry.reference()), progress=events.append)
        first, second = (blob.digest[7:19] for blob in image.blobs()[1:])
        said = texts(events)
        assert said[:3] == [
            "1: Pulling from team/app",
            f"{first}: Pulling fs layer",
            f"{second}: Pulling fs layer",
        ]
        mine = [line.partition(": ")[2] for line in said if line.startswith(first)]
        assert list(dict.fromkeys(mine)) == [
            "Pulling fs layer",
            "Downloading",
            "Verifying Checksum",
            "Download complete",
            "Extracting",
            "Pull complete",
        ]
        assert said[-2:] == [
            f"Digest: {manifest.digest}",
            f"Status: Downloaded newer image for {registry.reference()}",
        ]
        assert pulled.id == image.id
        assert (await images.resolve(pulled.id[7:19])).id == image.id
        events.clear()
        await images.pull(parse(registry.reference()), progress=events.append)
        assert texts(events)[1:] == [
            f"Digest: {manifest.digest}",
            f"Status: Image is up to date for {registry.reference()}",
        ]

    stack.run(work)
    left = stack.left()
    assert left["snapshots"].count("Committed") == 2
    assert not left["ingests"]


def test_image_outlives_garbage_collection(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        registry.add(small_image("kept"), "kept")
        registry.add(small_image("gone"), "gone")
        kept = await images.pull(parse(registry.reference("kept")))
        gone = await images.pull(parse(registry.reference("gone")))
        await images.remove(registry.reference("gone"))  # with collection before it returns
        listed = stack.content()
        assert kept.manifest.layers[0].digest in listed and kept.id in listed
        assert gone.manifest.layers[0].digest not in listed and gone.id not in listed
        snapshots = stack.left()["snapshots"]
        assert kept.chain_id in snapshots and gone.chain_id not in snapshots

    stack.run(work)


def test_platform_is_chosen_from_an_index(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        mine, other = small_image("mine"), small_image("other")
        index = registry.add_index({("linux", "s390x"): other, ("linux", "amd64"): mine})
        reference = parse(registry.reference())
        settings = images.settings.platform
        if settings.architecture == "amd64":
            pulled = await images.pull(reference)
            assert (pulled.id, pulled.target.digest) == (mine.id, index.digest)
        with pytest.raises(errors.NotFound) as caught:
            await images.pull(reference, parse_platform("linux/riscv64"))
        assert str(caught.value) == "no matching manifest for linux/riscv64 in the manifest list entries"

    stack.run(work)


def test_image_of_another_platform_without_an_index_is_pulled_with_a_warning(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        registry.add(small_image("of this machine"))
        events, other = list[Event](), parse_platform("linux/s390x")
        await images.pull(parse(registry.reference()), other, progress=events.append)
        assert texts(events)[-1].startswith(f"WARNING: image with reference {registry.reference()} was found")
        with pytest.raises(errors.NotFound, match="does not match the specified platform"):
            await images.resolve(registry.reference(), other)

    stack.run(work)


def test_layers_of_another_image_are_said_to_exist(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        registry.add(small_image("below", "one"), "1")
        registry.add(small_image("below", "two"), "2")
        await images.pull(parse(registry.reference("1")))
        events = list[Event]()
        await images.pull(parse(registry.reference("2")), progress=events.append)
        assert [line.partition(": ")[2] for line in texts(events)[1:3]] == [
            "Already exists",
            "Pulling fs layer",
        ]

    stack.run(work)


def test_failed_pull_leaves_complete_blobs_alone(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        image = small_image("good", "bad")
        registry.add(image)
        good, bad = image.blobs()[1:]
        complete = asyncio.Event()

        async def late(request: web.Request) -> web.StreamResponse:
            await complete.wait()
            return web.Response(body=bad.data[:-1] + b"?")

        def watch(event: Event) -> None:
            if event["status"] == "Download complete":
                complete.set()

        registry.on(bad.digest, late)
        with pytest.raises(errors.DataLoss, match="verification failed for digest"):
            await images.pull(parse(registry.reference()), progress=watch)
        assert not any(stack.left().values())
        listed = stack.content()
        assert good.digest in listed and bad.digest not in listed
        # The retry fetches only what is missing.
        registry.handlers.clear()
        registry.seen.clear()
        await images.pull(parse(registry.reference()))
        fetched = [path for path in registry.paths() if "/blobs/" in path]
        assert [path.rpartition("/")[2] for path in fetched] == [bad.digest]

    stack.run(work)


def test_layer_that_is_not_what_the_configuration_says_is_refused(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        honest, other = small_image("honest"), small_image("other")
        # A manifest with the configuration of one image and the layer of another.
        manifest = honest.manifest()
        swapped = manifest.data.replace(
            honest.blobs()[1].digest.encode(), other.blobs()[1].digest.encode()
        ).replace(b'"size":%d}]' % len(honest.blobs()[1].data), b'"size":%d}]' % len(other.blobs()[1].data))
        registry.add(honest)
        registry.add(other, "2")
        registry.add_manifest(type(manifest)(manifest.media_type, swapped))
        with pytest.raises(errors.DataLoss, match="configuration says"):
            await images.pull(parse(registry.reference()))

    stack.run(work)
    assert not any(stack.left().values())


def test_cancelled_pull_leaves_nothing_unfinished(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        image, begun, never = small_image("slow"), asyncio.Event(), asyncio.Event()
        registry.add(image)
        layer = image.blobs()[1]

        async def slow(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            response.content_length = len(layer.data)
            await response.prepare(request)
            await response.write(layer.data[:10])
            begun.set()
            await never.wait()
            return response

        registry.on(layer.digest, slow)
        pull = asyncio.create_task(images.pull(parse(registry.reference())))
        await begun.wait()
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull

    stack.run(work)
    assert not any(stack.left().values())


def test_write_that_a_killed_engine_left_is_cleared_away(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        image = small_image("left half done")
        registry.add(image)
        layer = image.blobs()[1]
        request = content_pb2.WriteContentRequest(
            action=content_pb2.WRITE, ref=f"cutaway-{layer.digest}", offset=0, data=b"half of it"
        )
        client = ContainerdClient(os.fspath(stack.containerd.address), stack.namespace)
        async with client.bidi(methods(content_pb2.DESCRIPTOR, "Content")["Write"]) as writing:
            await writing.ask(request)
            await writing.done()
            while await writing.receive() is not None:
                pass
        await client.close()
        assert layer.digest in stack.left()["ingests"]
        await images.pull(parse(registry.reference()))
        assert not stack.left()["ingests"]

    stack.run(work)


def test_two_pulls_at_once_fetch_a_shared_layer_once(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        first, second = small_image("shared", "a"), small_image("shared", "b")
        registry.add(first, "a")
        registry.add(second, "b")
        pulled = await asyncio.gather(*(images.pull(parse(registry.reference(tag))) for tag in "ab"))
        assert [image.id for image in pulled] == [first.id, second.id]
        shared = first.blobs()[1].digest
        assert sum(path.endswith(shared) for path in registry.paths()) == 1

    stack.run(work)


def test_tag_that_moves_leaves_its_old_image_dangling(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        old, new = small_image("old"), small_image("new")
        registry.add(old)
        await images.pull(parse(registry.reference()))
        registry.add(new)
        await images.pull(parse(registry.reference()))
        shown = {item["Id"]: item["RepoTags"] for item in await images.list()}
        assert shown == {new.id: [registry.reference()], old.id: []}
        assert [item["Id"] for item in await images.list({"dangling": ["true"]})] == [old.id]
        await images.remove(old.id[7:19])
        assert [item["Id"] for item in await images.list()] == [new.id]

    stack.run(work)


def test_built_in_registry_stands_in_for_docker_hub_and_only_for_what_it_holds(
    stack: Stack, base_dir: Path, session_netns: NetNs
) -> None:
    settings = ImageSettings(embedded=EmbeddedSettings(base_dir / "registry.sock", base_dir / "registry"))

    async def work(images: ImageService, registry: FakeRegistry) -> None:
        events = list[Event]()
        image = await images.pull(parse("hello-world"), progress=events.append)
        said = texts(events)
        assert said[:2] == [
            "docker.io cannot be reached; using the built-in registry for library/hello-world",
            "latest: Pulling from library/hello-world",
        ]
        assert said[-1] == "Status: Downloaded newer image for hello-world:latest"
        assert image.repo_tags == ("hello-world:latest",)
        for missing in ("hello-world:linux", "busybox"):
            with pytest.raises(errors.Unavailable) as caught:
                await images.pull(parse(missing))
            beginning = 'Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: '
            assert str(caught.value).startswith(beginning)

    session_netns.call(stack.run, work, settings)
    assert not (base_dir / "registry.sock").exists()
