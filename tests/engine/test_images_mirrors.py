"""Pulls of Docker Hub's names past mirrors that lie: what a mirror got wrong, Docker Hub is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from aiohttp import web

from cutaway import errors
from cutaway.engine.images import ImageService, ImageSettings
from cutaway.registry.reference import parse
from engine.image_stack import Stack, running
from registry.fake import FakeRegistry, Handler, quick, small_image
from support.images import OCI_MANIFEST, Image, digest_of
from support.netns import NetNs
from support.stack import Containerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

Lie = Callable[[FakeRegistry, Image], object]


@pytest.fixture(scope="module")
def containerd(session_base: Path, session_netns: NetNs) -> Iterator[Containerd]:
    yield from running("containerd", session_base, session_netns)


@pytest.fixture
def stack(containerd: Containerd, request: pytest.FixtureRequest) -> Stack:
    return Stack(containerd, request.node.name)


def layer(mirror: FakeRegistry, image: Image, data: bytes) -> None:
    """Something else in place of the upper layer."""
    mirror.blobs[image.blobs()[2].digest] = data


def configuration(mirror: FakeRegistry, image: Image) -> None:
    mirror.blobs[image.id] = bytes(len(image.config))


def tagged(mirror: FakeRegistry, data: bytes, media_type: str = OCI_MANIFEST) -> None:
    """Another manifest under the tag."""
    mirror.on("/manifests/latest", serves(data, media_type))
    mirror.on(f"/manifests/{digest_of(data)}", serves(data, media_type))


def swapped(mirror: FakeRegistry, image: Image) -> None:
    """The manifest's digest in the head, another manifest after it."""
    manifest = image.manifest()
    mirror.on(f"/manifests/{manifest.digest}", serves(manifest.data.replace(b"{", b"{ ", 1)))


def serves(data: bytes, media_type: str = OCI_MANIFEST) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest_of(data)}
        return web.Response(body=data, headers=headers)

    return handle


# All of these dockerd 20.10 passes over, too; and what the mirror is then still good for.
LIES: dict[str, tuple[Lie, bool]] = {
    "layer's digest": (lambda mirror, image: layer(mirror, image, bytes(len(image.blobs()[2].data))), True),
    "layer's length": (lambda mirror, image: layer(mirror, image, image.blobs()[2].data + b"more"), True),
    "layer missing": (lambda mirror, image: mirror.blobs.pop(image.blobs()[2].digest), True),
    "configuration's digest": (configuration, False),
    "manifest's digest": (swapped, False),
    "manifest that is none": (lambda mirror, image: tagged(mirror, b"{"), False),
    "tag of what it has not": (lambda mirror, image: mirror.on("/manifests/latest", serves(b"{")), False),
    "no image": (lambda mirror, image: tagged(mirror, image.manifest().data, "text/html"), False),
}


def pull(
    stack: Stack, image: Image, lie: Lie, check: Callable[[FakeRegistry, FakeRegistry], None], said: str = ""
) -> None:
    """Pull an image past a mirror that lies, from a Docker Hub that, with `said`, does so as well."""

    async def work(_: ImageService, hub: FakeRegistry) -> None:
        async with FakeRegistry(name="library/app") as mirror:
            hub.name = "library/app"
            for registry in (mirror, hub):
                registry.add(image, "latest")
            lie(mirror, image)
            if said:
                lie(hub, image)
            registry_settings = quick(
                registry_mirrors=(f"http://{mirror.host}/",), docker_hub=f"http://{hub.host}"
            )
            async with stack.service(ImageSettings(registry=registry_settings)) as images:
                with pytest.raises(errors.DataLoss, match=said) if said else nullcontext():
                    pulled = await images.pull(parse("app:latest"))
                    assert (pulled.id, pulled.repo_tags) == (image.id, ("app:latest",))
            check(mirror, hub)

    stack.run(work)


@pytest.mark.parametrize("lie", LIES)
def test_a_mirrors_lie_costs_no_more_than_the_mirror(stack: Stack, lie: str) -> None:
    image = small_image(lie, f"{lie}, above")
    tell, found_good = LIES[lie]

    def check(mirror: FakeRegistry, hub: FakeRegistry) -> None:
        assert mirror.seen
        asked = {path.rpartition("/")[2] for path in hub.paths() if "/blobs/" in path}
        assert image.blobs()[2].digest in asked
        # What was complete before the lie is not fetched again.
        assert (image.id in asked) != found_good

    pull(stack, image, tell, check)
    assert not stack.left()["ingests"]


def test_docker_hubs_own_lie_is_told(stack: Stack) -> None:
    image = small_image("both", "lie")

    def check(mirror: FakeRegistry, hub: FakeRegistry) -> None:
        for registry in (mirror, hub):
            assert sum(path.endswith(image.blobs()[2].digest) for path in registry.paths()) == 1

    pull(stack, image, LIES["layer's digest"][0], check, "verification failed for digest")
    assert not any(stack.left().values())
